"""NASNet for Keras 3: cells as data, networks, search and export."""

try:
    import keras as _
except ImportError as error:
    # Where Keras has no backend, exported files run all the same.
    _reason = error

    def __getattr__(name):
        raise AttributeError(
            f"keras_nasnet.{name} needs Keras with TensorFlow, JAX or PyTorch "
            f'(pip install "keras_nasnet[tensorflow]"): {_reason}'
        )

else:
    from keras_nasnet.cells import Cell
    from keras_nasnet.cells import FactorizedReduction
    from keras_nasnet.cells import Stem
    from keras_nasnet.classifier import Classifier
    from keras_nasnet.compiled import compile_inference
    from keras_nasnet.exporting import export
    from keras_nasnet.genotypes import NASNET_A
    from keras_nasnet.genotypes import Block
    from keras_nasnet.genotypes import CellGenotype
    from keras_nasnet.genotypes import Genotype
    from keras_nasnet.images import load_image
    from keras_nasnet.inference import predict
    from keras_nasnet.lowering import fuse
    from keras_nasnet.macs import count_macs
    from keras_nasnet.macs import count_macs_by_layer
    from keras_nasnet.names import GRADCAM_LAYER
    from keras_nasnet.nasnet import NASNet
    from keras_nasnet.nasnet import NASNetCIFAR
    from keras_nasnet.nasnet import NASNetLarge
    from keras_nasnet.nasnet import NASNetMobile
    from keras_nasnet.nasnet import NASNetTiny
    from keras_nasnet.nasnet import feature_pyramid
    from keras_nasnet.normalization import freeze_batch_norms
    from keras_nasnet.operations import OPERATIONS
    from keras_nasnet.preprocessing import decode_predictions
    from keras_nasnet.preprocessing import imagenet_classes
    from keras_nasnet.preprocessing import preprocess_input
    from keras_nasnet.regularization import AuxiliaryHead
    from keras_nasnet.regularization import DropPath
    from keras_nasnet.regularization import ScheduledDropPath
    from keras_nasnet.tflite import ExportReport
    from keras_nasnet.tflite import export_tflite
    from keras_nasnet.visualize import plot_cell
    from keras_nasnet.visualize import plot_network

__version__ = "0.1.0"
