"""Names of layers that users and other modules look for."""

# The last features, for Grad-CAM and for attention over image regions.
GRADCAM_LAYER = "final_relu"
PREDICTIONS_LAYER = "predictions"
AUX_LAYER = "aux_predictions"
