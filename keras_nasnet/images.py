"""Reads photographs as they come: rotated, grey, transparent, huge."""

import contextlib
import warnings

import numpy as np

# What counts as an image among the files of a folder.
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


def load_image(path, size, crop=0.875):
    """Reads an image file as pixels for a network.

    The image is turned upright by its EXIF tag, brought to RGB (transparent
    parts become white, of an animation only the first frame is taken), cut to
    its central square and resized.

    Args:
        path: Path of an image file of any format that Pillow reads.
        size: Height and width of the result in pixels, `(height, width)`.
        crop: Share of the shorter side that is kept, in (0, 1].

    Returns:
        A `uint8` array `(height, width, 3)`.

    Raises:
        ValueError: If the file is not a readable image, or too large to be
            opened safely. The message names the file.

    Example:

    ```python
    image = keras_nasnet.load_image("cat.jpg", (224, 224))
    scores = model.predict(keras_nasnet.preprocess_input(image[None]))
    ```
    """
    with _readable(path) as image:
        # Lets JPEG skip the detail of images far larger than needed.
        image.draft("RGB", (4 * size[1], 4 * size[0]))
        image = _upright_rgb(image)
        side = max(1, round(min(image.size) * crop))
        left, top = ((n - side) // 2 for n in image.size)
        # `resize(box=...)` would let pixels outside the box in.
        image = image.crop((left, top, left + side, top + side))
        height, width = size
        image = image.resize((width, height), _bilinear())
        return np.asarray(image, dtype="uint8")


def load_whole_image(path, side):
    """Reads an image file as `load_image` does, but whole.

    Args:
        path: Path of an image file of any format that Pillow reads.
        side: Pixels of the shorter side to which larger images are reduced.

    Returns:
        A `uint8` array `(height, width, 3)`.

    Raises:
        ValueError: As `load_image`.
    """
    with _readable(path) as image:
        image.draft("RGB", (side, side))
        image = _upright_rgb(image)
        factor = side / min(image.size)
        if factor < 1:
            image = image.resize(
                [max(1, round(n * factor)) for n in image.size], _bilinear()
            )
        return np.asarray(image)


def _pillow():
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError:
        raise ImportError(
            'Reading images needs Pillow: pip install "keras_nasnet[images]"'
        ) from None
    return PIL


def _bilinear():
    return _pillow().Image.Resampling.BILINEAR


@contextlib.contextmanager
def _readable(path):
    """Opens an image and turns every way in which it is bad into one error."""
    pil = _pillow()
    try:
        with warnings.catch_warnings():
            # A size that only warns here would already take gigabytes.
            warnings.simplefilter("error", pil.Image.DecompressionBombWarning)
            with pil.Image.open(path) as image:
                yield image
    except pil.UnidentifiedImageError:
        raise ValueError(f"{path} is not an image.") from None
    except (
        pil.Image.DecompressionBombWarning,
        pil.Image.DecompressionBombError,
    ) as error:
        raise ValueError(f"{path} is too large: {error}") from None
    # Pillow raises whatever the decoder of a damaged file stumbles over.
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _upright_rgb(image):
    pil = _pillow()
    image = pil.ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow would cut 16-bit values off instead of scaling them.
        values = np.asarray(image, dtype="float32") / 257
        image = pil.Image.fromarray(np.clip(values, 0, 255).astype("uint8"))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = pil.Image.new("RGBA", image.size, "white")
        image = pil.Image.alpha_composite(white, image)
    return image.convert("RGB")
