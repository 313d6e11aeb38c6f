"""Which pretrained weights exist, and all there is to know about them."""

import dataclasses

_GOOGLE = "https://storage.googleapis.com"
_KERAS = f"{_GOOGLE}/tensorflow/keras-applications/nasnet"
_SLIM = f"{_GOOGLE}/download.tensorflow.org/models"


@dataclasses.dataclass(frozen=True)
class WeightRecord:
    """All there is to know about one file of weights.

    Args:
        network: Name of the network, as in the factories' `name`.
        weights: Value of the `weights` argument that stands for it.
        include_top: Whether the file has the classifier.
        url: Where it is published; a path in the package for our own.
        file: Name of the file in the cache, or in the package.
        hash: MD5 or SHA-256 in hexadecimal digits, `None` if not published.
        classes: Number of classes of the classifier.
        image_size: Side in pixels of the images that it was trained on.
        pool_padding: Behaviour of strided pools that it was trained with or,
            for keras.applications, is run with.
        published: Top-1 and top-5 accuracy in percent that its source states,
            or `None`.
        measured: Top-1 accuracy in percent that we measured, or `None`.
        licence: Its licence.
        source: Where it comes from.
        class_names: Names of the classes, `None` for those of ImageNet.
    """

    network: str
    weights: str
    include_top: bool
    url: str
    file: str
    hash: str | None
    classes: int
    image_size: int
    pool_padding: str
    published: tuple | None
    measured: float | None
    licence: str
    source: str
    class_names: tuple | None = None

    @property
    def is_shipped(self):
        """Whether the file comes with the package."""
        return "://" not in self.url


def _keras_record(network, include_top, remote, hash, image_size, published):
    suffix = "" if include_top else "_no_top"
    return WeightRecord(
        network=network,
        weights="imagenet",
        include_top=include_top,
        url=f"{_KERAS}/{remote}",
        file=f"{network}{suffix}.h5",
        hash=hash,
        classes=1000,
        image_size=image_size,
        pool_padding="zero",
        published=published,
        measured=None,
        licence="Apache-2.0",
        source="keras.applications, ported from TF-slim's checkpoint",
    )


def _slim_record(network, remote, image_size, published):
    return WeightRecord(
        network=network,
        weights="imagenet",
        include_top=True,
        url=f"{_SLIM}/{remote}",
        file=remote,
        hash=None,
        classes=1001,
        image_size=image_size,
        pool_padding="same",
        published=published,
        measured=None,
        licence="Apache-2.0",
        source="TF-slim, tensorflow/models/research/slim",
    )


# Published accuracies are TF-slim's, of the checkpoints that both lines of
# files come from.
MOBILE_ACCURACY = (74.0, 91.6)
LARGE_ACCURACY = (82.7, 96.2)

KERAS_RECORDS = (
    _keras_record(
        "nasnet_mobile",
        True,
        "NASNet-mobile.h5",
        "020fb642bf7360b370c678b08e0adf61",
        224,
        MOBILE_ACCURACY,
    ),
    _keras_record(
        "nasnet_mobile",
        False,
        "NASNet-mobile-no-top.h5",
        "1ed92395b5b598bdda52abe5c0dbfd63",
        224,
        MOBILE_ACCURACY,
    ),
    _keras_record(
        "nasnet_large",
        True,
        "NASNet-large.h5",
        "11577c9a518f0070763c2b964a382f17",
        331,
        LARGE_ACCURACY,
    ),
    _keras_record(
        "nasnet_large",
        False,
        "NASNet-large-no-top.h5",
        "d81d89dc07e6e56530c4e77faddd61b5",
        331,
        LARGE_ACCURACY,
    ),
)
SLIM_RECORDS = (
    _slim_record(
        "nasnet_mobile",
        "nasnet-a_mobile_04_10_2017.tar.gz",
        224,
        MOBILE_ACCURACY,
    ),
    _slim_record(
        "nasnet_large",
        "nasnet-a_large_04_10_2017.tar.gz",
        331,
        LARGE_ACCURACY,
    ),
)
# Trained by this project and small enough to lie in the package.
SHIPPED_RECORDS = (
    WeightRecord(
        network="nasnet_tiny",
        weights="cifar10",
        include_top=True,
        url="weights/nasnet_tiny_cifar10.weights.h5",
        file="nasnet_tiny_cifar10.weights.h5",
        hash="d87c5d657726bc4c66771c3ee71ec2ab36b7bc492dc8e6fd1ffa76db6b015bb9",
        classes=10,
        image_size=32,
        pool_padding="same",
        published=None,
        measured=90.19,
        licence="Apache-2.0",
        source="trained by this project: see docs/training_tiny.md",
        class_names=(
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
    ),
)


def licence_of(network):
    """Returns the licence of the weights that come with a network.

    Args:
        network: Name as in `keras-nasnet predict`, such as `"tiny"`.

    Returns:
        A string; `None` if no record is about a network of this name.
    """
    for record in (*SHIPPED_RECORDS, *KERAS_RECORDS):
        if record.network == f"nasnet_{network}":
            return record.licence
    return None
