"""Names that several modules look for: of layers, and in files."""

# The last features, for Grad-CAM and for attention over image regions.
GRADCAM_LAYER = "final_relu"
PREDICTIONS_LAYER = "predictions"
AUX_LAYER = "aux_predictions"
# The attribute in which a file of weights says how strided pools pad.
POOL_PADDING = "pool_padding"
