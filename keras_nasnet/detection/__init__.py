"""Detectors on the features of networks for classification."""

try:
    import keras_hub as _
except ImportError:
    raise ImportError(
        'Detection needs keras-hub: pip install "keras_nasnet[detection]"'
    ) from None

from keras_nasnet.detection.backbone import NASNetBackbone
from keras_nasnet.detection.exporting import export
from keras_nasnet.detection.faster_rcnn import FasterRCNN
from keras_nasnet.detection.pictures import Detection
from keras_nasnet.detection.pictures import detect
from keras_nasnet.detection.pictures import draw
from keras_nasnet.detection.pictures import is_detector
from keras_nasnet.detection.suppression import NamedNonMaxSuppression
