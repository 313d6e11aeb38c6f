"""Networks of this package as backbones of KerasHub."""

import contextlib

import keras
import keras_hub

from keras_nasnet import genotypes
from keras_nasnet import pretrained
from keras_nasnet.genotypes import NASNET_A
from keras_nasnet.nasnet import NASNet
from keras_nasnet.nasnet import NASNetLarge
from keras_nasnet.nasnet import NASNetMobile
from keras_nasnet.nasnet import NASNetTiny
from keras_nasnet.nasnet import feature_pyramid

# Names of a network and of its weights -> factory of the network.
PRESETS = {
    "nasnet_tiny_cifar10": NASNetTiny,
    "nasnet_mobile_imagenet": NASNetMobile,
    "nasnet_large_imagenet": NASNetLarge,
}


@keras.saving.register_keras_serializable("keras_nasnet")
class NASNetBackbone(keras_hub.models.FeaturePyramidBackbone):
    """A network of this package, for the tasks of KerasHub.

    Its output is that of the last cell, activated. Its `pyramid_outputs` are
    those of `keras_nasnet.feature_pyramid`: P2 to P5, or P0 to P2 with the
    CIFAR stem. Images are expected as `keras_nasnet.preprocess_input` returns
    them.

    Args:
        image_shape: Shape `(height, width, channels)` of the images, `None`
            for a height or width that is open.
        genotype: A `Genotype`, its dictionary, or the path of its JSON file.
        dtype: Data type or policy to compute with; `None` for Keras' global
            one.
        name: Optional name of the model.
        trainable: Whether the weights are trainable.
        **settings: Any other argument of `keras_nasnet.NASNet` that has to do
            with cells, such as `num_cells` and `penultimate_filters`.

    Example:

    ```python
    backbone = keras_nasnet.detection.NASNetBackbone.from_preset(
        "nasnet_mobile_imagenet"
    )
    classifier = keras_hub.models.ImageClassifier(backbone, num_classes=3)
    ```
    """

    def __init__(
        self,
        image_shape=(None, None, 3),
        genotype=NASNET_A,
        dtype=None,
        name=None,
        trainable=True,
        **settings,
    ):
        genotype = genotypes.get(genotype)
        with _dtype_policy(dtype):
            network = NASNet(
                tuple(image_shape),
                include_top=False,
                genotype=genotype,
                **settings,
            )
        super().__init__(
            inputs=network.input,
            outputs=network.output,
            dtype=dtype,
            name=name,
            trainable=trainable,
        )
        self.pyramid_outputs = feature_pyramid(network)
        self.image_shape = tuple(image_shape)
        self.genotype = genotype
        self.settings = settings

    def get_config(self):
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "genotype": self.genotype.to_dict(),
            **self.settings,
        }

    @classmethod
    def from_preset(cls, preset, load_weights=True, weights=None, **kwargs):
        """Builds a published network, or loads a folder of KerasHub.

        Args:
            preset: `"nasnet_tiny_cifar10"`, `"nasnet_mobile_imagenet"`,
                `"nasnet_large_imagenet"`, or what KerasHub takes as a preset.
            load_weights: Whether to load trained weights.
            weights: What to load in the place of the published weights of one
                of the three networks: what its factory takes, such as a path.
            **kwargs: Other arguments of the backbone.

        Returns:
            A `NASNetBackbone`.

        Raises:
            ValueError: If `weights` cannot be used.
        """
        if preset not in PRESETS:
            if weights is not None:
                raise ValueError(
                    f"`weights` are for {', '.join(PRESETS)}. "
                    f"Received: preset={preset!r}, weights={weights!r}"
                )
            return super().from_preset(preset, load_weights, **kwargs)
        if weights is not None and not load_weights:
            raise ValueError(
                "`weights` must be None with `load_weights=False`. "
                f"Received: weights={weights!r}"
            )
        factory = PRESETS[preset]
        settings = {**factory.settings, **kwargs}
        del settings["default_size"]
        if not load_weights:
            return cls(**settings)
        network, _, published = preset.rpartition("_")
        source = pretrained.find(network, weights or published, False)
        # Zeros are the default; those who train with "same" need it here too.
        if pretrained.pool_padding(source) == "same":
            settings.setdefault("pool_padding", "same")
        backbone = cls(**settings)
        backbone.set_weights(
            factory(
                backbone.image_shape,
                include_top=False,
                weights=source,
                genotype=backbone.genotype,
                **backbone.settings,
            ).get_weights()
        )
        return backbone


@contextlib.contextmanager
def _dtype_policy(policy):
    """Builds layers with a policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
