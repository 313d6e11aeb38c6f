"""Compression with training, by tensorflow-model-optimization.

tensorflow-model-optimization works on models of `tf_keras`, so a network is
lowered to a twin there, with its batch norms, trained with `tf_keras`' own
`fit`, and brought back.
"""

import importlib.util

import keras
import numpy as np

from keras_nasnet import heads
from keras_nasnet.calibration import IMAGES
from keras_nasnet.calibration import normalization_of
from keras_nasnet.calibration import read_images
from keras_nasnet.delegation import lower
from keras_nasnet.inference import known_names
from keras_nasnet.supported import check_model

# Images to measure the ranges of activations on at once.
BATCH_SIZE = 20
# How tfmot names what it rounds besides kernels.
ACTIVATIONS = ("quantize_layer", "pre_activation", "post_activation", "output")


def quantization_aware(model, representative_data=None):
    """Returns a twin that trains with the rounding of 8-bit integers.

    Train it for some epochs at a small learning rate, then pass it to
    `keras_nasnet.export_tflite` with `quantization="int8"`. To train on
    another day, keep `twin.get_weights()`, and give them to a new twin of the
    same model.

    Args:
        model: A functional model with cells of this package.
        representative_data: Images as the model takes them, to measure with
            which ranges of activations the training begins: whatever
            `keras_nasnet.export_tflite` takes. Without any, every range
            begins with -6 and 6, which cuts larger activations off, and it
            takes some thousand steps until that is forgotten.

    Returns:
        A `tf_keras` model to compile and fit.

    Raises:
        ImportError: If tensorflow-model-optimization is missing.
        ValueError: If `model` is a detector, has no cells of this package,
            more than one input or no known image size, or layers or
            activations that cannot be trained with rounding; or if
            `representative_data` has no images, or some of another size or
            range.

    Example:

    ```python
    import tf_keras
    from keras_nasnet import compression

    twin = compression.quantization_aware(keras_nasnet.NASNetTiny(), images)
    twin.compile(
        tf_keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy"
    )
    twin.fit(images, labels)
    keras_nasnet.export_tflite(
        twin, "tiny.tflite", "int8", representative_data=images
    )
    ```
    """
    tfmot, tf_keras = _libraries()
    from tensorflow_model_optimization.python.core.quantization.keras import (
        default_8bit,
    )

    from keras_nasnet import tfmot_fixes

    quantization = tfmot.quantization.keras
    configs = default_8bit.default_8bit_quantize_configs
    twin = _twin(model, integer=True)
    if representative_data is not None:
        images = read_images(
            representative_data, model, IMAGES, normalization_of(model)
        )

    def annotate(layer):
        # tfmot does not know this one. It only multiplies by a constant, so
        # its output is all there is to round.
        if isinstance(layer, tf_keras.layers.Rescaling):
            return quantization.quantize_annotate_layer(
                layer, configs.Default8BitOutputQuantizeConfig()
            )
        if isinstance(layer, tf_keras.layers.DepthwiseConv2D):
            return quantization.quantize_annotate_layer(
                layer, tfmot_fixes.DepthwiseQuantizeConfig()
            )
        return layer

    # Annotating everything keeps the annotations that are there.
    annotated = quantization.quantize_annotate_model(
        tf_keras.models.clone_model(twin, clone_function=annotate)
    )
    with (
        quantization.quantize_scope(tfmot_fixes.SCOPE),
        tfmot_fixes.inputs_in_order(),
    ):
        try:
            quantized = quantization.quantize_apply(annotated)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                "`model` must have layers and activations for which "
                "tensorflow-model-optimization knows how to round. Received: "
                f"{model.name!r}. Export it without this training, or change "
                f"what is named here: {error}"
            ) from error
    _copy_by_name(twin, quantized)
    if representative_data is not None:
        _measure_ranges(twin, quantized, images)
    # The layers of a twin have no place for them.
    quantized.class_names = known_names(heads.without_auxiliary_head(model))
    return quantized


def prune(model, schedule):
    """Returns a twin in which more and more weights become zero.

    Fit it with the callback `tfmot.sparsity.keras.UpdatePruningStep()`, then
    call `restore()`.

    Args:
        model: A functional model with cells of this package.
        schedule: A schedule of `tfmot.sparsity.keras`, such as
            `ConstantSparsity(0.5, begin_step=0)`.

    Returns:
        A `tf_keras` model to compile and fit.

    Raises:
        ImportError: If tensorflow-model-optimization is missing.
        ValueError: If `model` is a detector, has no cells of this package,
            more than one input or no known image size, or layers or
            activations from elsewhere.
    """
    tfmot, tf_keras = _libraries()
    layers = tf_keras.layers
    prunable = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)

    def wrap(layer):
        # Other layers have nothing to prune, and tfmot refuses some of them.
        if isinstance(layer, prunable):
            return tfmot.sparsity.keras.prune_low_magnitude(
                layer, pruning_schedule=schedule
            )
        return layer

    return tf_keras.models.clone_model(_twin(model), clone_function=wrap)


def cluster(model, clusters):
    """Returns a twin whose kernels have few different weights.

    Fit the twin, then call `restore()`, and export what that returns with
    `quantization="weight_only_int8"`: such a file compresses well. In a float
    file, batch norms have multiplied every filter by a number of its own.

    Args:
        model: A functional model with cells of this package.
        clusters: Integer, number of different weights in each kernel.

    Returns:
        A `tf_keras` model to compile and fit.

    Raises:
        ImportError: If tensorflow-model-optimization is missing.
        ValueError: If `model` is a detector, has no cells of this package,
            more than one input or no known image size, or layers or
            activations from elsewhere.
    """
    tfmot, _ = _libraries()
    from tensorflow_model_optimization.python.core.clustering.keras import (
        cluster_config,
    )

    return tfmot.clustering.keras.cluster_weights(
        _twin(model),
        number_of_clusters=clusters,
        cluster_centroids_init=(
            cluster_config.CentroidInitialization.KMEANS_PLUS_PLUS
        ),
        # tfmot sums the gradients of all weights that share a value, some
        # thousand, with which training diverges at any usual learning rate.
        cluster_gradient_aggregation=cluster_config.GradientAggregation.AVG,
    )


def restore(compressed, model):
    """Brings the weights of a pruned or clustered twin back to Keras 3.

    Args:
        compressed: What `prune()` or `cluster()` returned, trained.
        model: The model that was passed to them.

    Returns:
        A Keras 3 model of standard layers with the twin's weights, which
        `keras_nasnet.export_tflite` takes.

    Raises:
        ImportError: If tensorflow-model-optimization is missing.
        ValueError: If `compressed` was made of another model.
    """
    tfmot, tf_keras = _libraries()
    if not isinstance(compressed, tf_keras.Model):
        raise ValueError(
            "`compressed` must be a `tf_keras` model, as `prune()` and "
            f"`cluster()` return. Received: {compressed!r}"
        )
    stripped = tfmot.sparsity.keras.strip_pruning(
        tfmot.clustering.keras.strip_clustering(compressed)
    )
    restored = _twin(model, library=keras)
    if _weight_shapes(stripped) != _weight_shapes(restored):
        raise ValueError(
            "`compressed` must be what `prune()` or `cluster()` made of "
            f"`model`. Received: compressed={compressed.name!r}, which has "
            f"other weights than {model.name!r}"
        )
    for layer in restored.layers:
        if layer.weights:
            theirs = stripped.get_layer(layer.name)
            layer.set_weights(theirs.get_weights())
    return restored


def _libraries():
    if not importlib.util.find_spec("tensorflow_model_optimization"):
        raise ImportError(
            "Compression needs tensorflow-model-optimization and tf_keras: "
            'pip install "keras_nasnet[compression]"'
        )
    import tensorflow_model_optimization as tfmot
    import tf_keras

    return tfmot, tf_keras


def _twin(model, integer=False, library=None):
    """Lowers a model to standard layers with batch norms."""
    library = library or _libraries()[1]
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a Keras 3 model. Received: {model}")
    check_model(model)
    model = heads.without_auxiliary_head(model)
    return lower(model, integer, keep_norms=True, library=library)


def _weight_shapes(model):
    """Returns the shapes of all weights by the names of their layers."""
    return {
        layer.name: [tuple(weight.shape) for weight in layer.weights]
        for layer in model.layers
        if layer.weights
    }


def _copy_by_name(source, target):
    """Copies weights to layers that tfmot wrapped under other names."""
    theirs = {layer.name: layer for layer in source.layers}
    for wrapper in target.layers:
        layer = getattr(wrapper, "layer", wrapper)
        original = theirs.get(layer.name)
        if original is None or not original.weights:
            continue
        values = {
            _short(w): v
            for w, v in zip(original.weights, original.get_weights())
        }
        for weight in layer.weights:
            if _short(weight) in values:
                weight.assign(np.reshape(values[_short(weight)], weight.shape))


def _measure_ranges(twin, quantized, images):
    """Gives quantisers the ranges that activations have for images.

    Args:
        twin: The model without quantisers.
        quantized: The model with them.
        images: Array of images.
    """
    import tensorflow as tf
    import tf_keras

    # They wrap a layer each, but for the one that rounds the image.
    quantizers = {
        getattr(quantizer, "layer", twin.layers[0]).name: quantizer
        for quantizer in quantized.layers
        if quantizer.weights
    }
    layers = [layer for layer in twin.layers if layer.name in quantizers]

    def rounded(layer):
        # Of a softmax, not what comes out is rounded, but what goes in.
        names = map(_short, quantizers[layer.name].weights)
        if "pre_activation_max" in names:
            return _without_activation(layer)
        return layer.output

    probe = tf_keras.Model(twin.inputs, [rounded(layer) for layer in layers])

    @tf.function
    def limits(batch):
        tensors = probe(batch, training=False)
        return tf.stack([[tf.reduce_min(x), tf.reduce_max(x)] for x in tensors])

    found = np.stack(
        [
            limits(images[start : start + BATCH_SIZE]).numpy()
            for start in range(0, len(images), BATCH_SIZE)
        ]
    )
    # A step of training finds those of kernels: batch norms that are frozen
    # keep their statistics.
    quantized.trainable = False
    quantized(images[:1], training=True)
    quantized.trainable = True
    # Zero is always in a range, since borders are padded with it.
    low = np.minimum(found[..., 0].min(0), 0)
    high = np.maximum(found[..., 1].max(0), 0)
    for layer, *bounds in zip(layers, low, high):
        for weight in quantizers[layer.name].weights:
            kind, _, end = _short(weight).rpartition("_")
            if kind.startswith(ACTIVATIONS):
                weight.assign(bounds[end == "max"])


def _without_activation(layer):
    """Returns what a layer of `tf_keras` computes before its activation."""
    config = layer.get_config()
    name = f"{layer.name}_linear"
    linear = layer.from_config({**config, "activation": None, "name": name})
    output = linear(layer.input)
    linear.set_weights(layer.get_weights())
    return output


def _short(weight):
    return weight.name.rsplit("/", 1)[-1].split(":")[0]
