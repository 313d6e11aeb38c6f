"""The search for cells: space, policies, children, and what runs them."""
