"""Training of NASNets: data, recipes, apps. Run from a checkout."""
