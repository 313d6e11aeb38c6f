"""Do pipelines give the images that a network expects, and the same again?"""

import itertools

import numpy as np
import pytest
from PIL import Image

import keras_nasnet
from tests.runs import CLASS_NAMES
from tests.runs import write_pictures

tf = pytest.importorskip("tensorflow")
from training import datasets  # noqa: E402


def pictures(count, *shape, seed=0):
    """Returns random pixels in [1, 255], so that 0 marks what was added."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, 256, (count, *shape, 3), "uint8")


def dataset_of(images):
    """Returns a data set of images, each labelled with its place."""
    return tf.data.Dataset.from_tensor_slices((images, np.arange(len(images))))


def arrays(batches):
    """Returns the images of all batches in the order of their labels."""
    images, labels = datasets.to_numpy(batches)
    assert len(set(labels)) == len(labels)
    return images[np.argsort(labels)]


class TestCifar:
    def test_values_without_augmentation(self):
        pixels = pictures(6, 32, 32)
        expected = keras_nasnet.preprocess_input(pixels)
        data = dataset_of(pixels)
        evaluated = arrays(datasets.cifar_eval(data, 4))
        np.testing.assert_allclose(evaluated, expected, atol=1e-6)
        trained = arrays(datasets.cifar_train(data, 3, seed=0, pad=0))
        for image, original in zip(trained, expected):
            same, mirrored = (
                np.abs(image - o).max() for o in (original, original[:, ::-1])
            )
            assert min(same, mirrored) < 1e-6 < max(same, mirrored)

    def test_whitening(self):
        pixels = pictures(3, 32, 32)
        images = arrays(datasets.cifar_eval(dataset_of(pixels), 2, whiten=True))
        np.testing.assert_allclose(
            images, tf.image.per_image_standardization(pixels), atol=1e-5
        )
        (trained,), _ = datasets.to_numpy(
            datasets.cifar_train(
                dataset_of(pixels[:1]), 1, seed=0, pad=0, whiten=True
            )
        )
        assert sorted(trained.ravel()) == pytest.approx(
            sorted(images[0].ravel()), abs=1e-5
        )
        assert images.mean() == pytest.approx(0, abs=1e-5)
        assert images.std() == pytest.approx(1, abs=1e-5)

    def test_moves_and_flips(self):
        # One picture over and over, so that every change is a choice.
        pixels = np.repeat(pictures(1, 32, 32), 400, axis=0)
        batches = datasets.cifar_train(dataset_of(pixels), 400, seed=0)
        original = np.pad(
            keras_nasnet.preprocess_input(pixels[0]), ((4, 4), (4, 4), (0, 0))
        )
        views = {
            (down, right, is_flipped): original[
                down : down + 32, right : right + 32
            ][:, :: -1 if is_flipped else 1]
            for down, right, is_flipped in itertools.product(
                range(9), range(9), [False, True]
            )
        }
        chosen = []
        for image in arrays(batches):
            chosen += [
                view
                for view, expected in views.items()
                if np.abs(image - expected).max() < 1e-6
            ]
        assert len(chosen) == 400  # each is one of the views
        downs, rights, flips = zip(*chosen)
        assert set(downs) == set(rights) == set(range(9))
        # Half of them by chance: within four standard deviations.
        assert abs(sum(flips) - 200) < 40
        assert abs(np.corrcoef(downs, rights)[0, 1]) < 0.2

    @pytest.mark.parametrize("side", [5, 8])
    def test_cutout(self, side):
        pixels = pictures(60, 32, 32)
        batches = datasets.cifar_train(
            dataset_of(pixels), 60, seed=0, pad=0, cutout=side
        )
        whole = 0
        for image in arrays(batches):
            rows, columns = np.nonzero((image == 0).all(axis=-1))
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert len(rows) == height * width  # a rectangle, all blank
            assert height <= side and width <= side
            # It is smaller only where the border cuts it.
            assert height == side or {0, 31} & set(rows)
            assert width == side or {0, 31} & set(columns)
            whole += height == width == side
        assert 10 < whole < 60

    def test_other_sizes_are_cut_to_a_square(self):
        pixels = np.zeros((1, 40, 100, 3), "uint8")
        pixels[:, :, 30:70] = 255
        batches = datasets.cifar_eval(dataset_of(pixels), 1, image_size=24)
        (image,) = arrays(batches)
        assert image.shape == (24, 24, 3)
        np.testing.assert_allclose(image, 1, atol=1e-5)
        batches = datasets.cifar_train(dataset_of(pixels), 1, 0, image_size=24)
        assert batches.element_spec[0].shape == (1, 24, 24, 3)

    def test_only_training_drops_the_last_images(self):
        data = dataset_of(pictures(10, 32, 32))
        sizes = [len(y) for _, y in datasets.cifar_train(data, 4, seed=0)]
        assert sizes == [4, 4]
        sizes = [len(y) for _, y in datasets.cifar_eval(data, 4)]
        assert sizes == [4, 4, 2]


class TestInception:
    def test_training(self):
        pixels = pictures(32, 60, 80)
        pixels[:16] = 255  # becomes darker, never brighter
        batches = datasets.inception_train(
            dataset_of(pixels), 16, seed=0, image_size=40
        )
        assert batches.element_spec[0].shape == (16, 40, 40, 3)
        images = arrays(batches)
        assert images.shape == (32, 40, 40, 3) and images.dtype == "float32"
        assert images.min() >= -1 and images.max() == 1
        white = images[:16]
        assert (np.ptp(white, axis=(1, 2, 3)) < 1e-5).all()
        # Brightness changes by up to 32 of 255, on a scale of -1 to 1.
        assert white.min() >= 1 - 2 * 32 / 255 - 1e-5
        assert len(np.unique(white[:, 0, 0, 0].round(4))) > 5

    def test_boxes(self):
        # Red says where a pixel is from left to right, green from top to
        # bottom. Blue is grey enough for saturation to matter little.
        ramp = np.linspace(0, 255, 64).astype("uint8")
        pixels = np.full((64, 64, 3), 128, "uint8")
        pixels[..., 0], pixels[..., 1] = ramp[None, :], ramp[:, None]
        batches = datasets.inception_train(
            dataset_of(np.repeat(pixels[None], 200, axis=0)), 200, 0, 32
        )
        images = arrays(batches)
        across = images[:, :, -1, 0] - images[:, :, 0, 0]
        is_flipped = across.mean(axis=1) < 0
        assert 70 < is_flipped.sum() < 130
        widths = np.abs(across).mean(axis=1)
        assert widths.min() < 0.8 and widths.max() > 1.6

    def test_colours(self):
        pixels = np.full((200, 40, 40, 3), (160, 100, 100), "uint8")
        images = arrays(datasets.inception_train(dataset_of(pixels), 200, 0, 8))
        red, green = ((images[:, 4, 4, i] + 1) * 127.5 for i in (0, 1))
        # Saturation of 0.5 to 1.5 times: 60 / 160 of the brightest channel.
        saturation = (red - green) / red
        assert saturation.min() < 0.25 and saturation.max() > 0.45
        assert red.min() < 140 and red.max() > 180
        assert 128 - 1 <= red.min() and red.max() <= 192 + 1

    def test_evaluation_takes_the_centre(self):
        pixels = np.zeros((1, 80, 160, 3), "uint8")
        pixels[:, 5:75, 10:150] = 255
        batches = datasets.inception_eval(dataset_of(pixels), 1, image_size=35)
        (image,) = arrays(batches)
        assert image.shape == (35, 35, 3)
        np.testing.assert_allclose(image, 1, atol=1e-5)
        # One pixel more would be black.
        pixels = pixels * 0
        pixels[:, 6:74, 11:149] = 255
        batches = datasets.inception_eval(dataset_of(pixels), 1, image_size=70)
        (image,) = arrays(batches)
        assert (image[[0, -1]] < 1).all() and (image[:, [0, -1]] < 1).all()

    def test_evaluation_scales_as_networks_expect(self):
        pixels = np.broadcast_to(pictures(3, 1, 1), (3, 16, 16, 3))
        images = arrays(datasets.inception_eval(dataset_of(pixels), 2, 8))
        expected = keras_nasnet.preprocess_input(pixels[:, :8, :8])
        np.testing.assert_allclose(images, expected, atol=1e-5)

    def test_evaluation_does_not_leave_images_out(self):
        batches = datasets.inception_eval(dataset_of(pictures(5, 9, 9)), 2, 8)
        assert len(arrays(batches)) == 5


@pytest.mark.parametrize("prepare, _", datasets.PIPELINES.values())
class TestSeed:
    def epochs(self, prepare, seed, pixels=None):
        """Returns the images and labels of two epochs."""
        if pixels is None:
            pixels = pictures(40, 32, 32)
        batches = prepare(dataset_of(pixels), 20, seed, image_size=32)
        return [datasets.to_numpy(batches) for _ in range(2)]

    def test_same_seed_gives_the_same_batches(self, prepare, _):
        first, second = (self.epochs(prepare, 7) for _ in range(2))
        for (images, labels), (other_images, other_labels) in zip(
            first, second
        ):
            np.testing.assert_array_equal(labels, other_labels)
            np.testing.assert_array_equal(images, other_images)

    def test_other_seeds_and_epochs_have_other_orders(self, prepare, _):
        runs = [*self.epochs(prepare, 7), *self.epochs(prepare, 8)]
        for (_, labels), (_, others) in itertools.combinations(runs, 2):
            assert (labels != others).mean() > 0.8

    def test_other_seeds_and_epochs_have_other_augmentations(self, prepare, _):
        # One picture over and over, so that the order plays no role.
        pixels = np.repeat(pictures(1, 32, 32), 40, axis=0)
        runs = [
            *self.epochs(prepare, 7, pixels),
            *self.epochs(prepare, 8, pixels),
        ]
        for (images, _), (others, _) in itertools.combinations(runs, 2):
            is_equal = (images == others).all(axis=(1, 2, 3))
            assert is_equal.mean() < 0.2


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        return write_pictures(tmp_path / "pictures", count=10)

    def test_classes_and_labels(self, folder):
        split = datasets.load(folder, "train")
        assert split.class_names == CLASS_NAMES == sorted(CLASS_NAMES)
        assert split.count == 30
        brightest = {"red": 0, "green": 1, "blue": 2}
        labels = []
        for image, label in split.dataset.as_numpy_iterator():
            assert image.dtype == "uint8" and image.shape == (32, 32, 3)
            channel = image.mean(axis=(0, 1)).argmax()
            assert channel == brightest[CLASS_NAMES[label]]
            labels.append(label)
        assert np.bincount(labels).tolist() == [10, 10, 10]

    @pytest.mark.parametrize(
        "held_out, out", [(0.2, [4, 9]), (0.5, [1, 3, 5, 7, 9]), (0.0, [])]
    )
    def test_held_out_images_are_spread(self, folder, held_out, out):
        kept, held = datasets.load_folder(folder, held_out)
        assert (kept.count, held.count) == (30 - 3 * len(out), 3 * len(out))
        expected = [
            (np.array(Image.open(f"{folder}/{name}/{i:02}.png")), label)
            for label, name in enumerate(CLASS_NAMES)
            for i in out
        ]
        found = list(held.dataset.as_numpy_iterator())
        assert len(found) == len(expected)
        for (image, label), (expected_image, expected_label) in zip(
            found, expected
        ):
            np.testing.assert_array_equal(image, expected_image)
            assert label == expected_label
        seen = {image.tobytes() for image, _ in found}
        for image, _ in kept.dataset.as_numpy_iterator():
            assert image.tobytes() not in seen

    @pytest.mark.parametrize("ending", ["bmp", "gif", "JPG", "jpeg", "png"])
    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_kinds_of_files(self, tmp_path, mode, ending):
        for name, grey in (("dark", 40), ("light", 200)):
            (tmp_path / name).mkdir()
            pixels = np.full((9, 12, 3), grey, "uint8")
            image = Image.fromarray(pixels).convert(mode)
            image.save(tmp_path / name / f"a.{ending}")
        (tmp_path / "dark" / "notes.txt").write_text("not an image")
        split = datasets.load(str(tmp_path), "train")
        images = [image for image, _ in split.dataset.as_numpy_iterator()]
        for image, grey in zip(images, (40, 200), strict=True):
            assert image.shape == (9, 12, 3)
            assert np.abs(image.astype(int) - grey).max() <= 2

    def test_upright(self, folder, tmp_path):
        """As `keras-nasnet predict` reads it: turned by its EXIF tag."""
        pixels = np.zeros((8, 12, 3), "uint8")
        pixels[:4] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # lies on its side
        path = tmp_path / "pictures" / "blue" / "00.png"
        Image.fromarray(pixels).save(path, exif=exif)
        split = datasets.load(folder, "train")
        found = [image for image, _ in split.dataset.as_numpy_iterator()]
        (image,) = [i for i in found if i.shape == (12, 8, 3)]
        np.testing.assert_array_equal(image, np.rot90(pixels, -1))

    def test_large_photographs_are_reduced(self, folder, tmp_path):
        path = tmp_path / "pictures" / "red" / "00.jpg"
        Image.new("RGB", (1300, 2600), "red").save(path)
        split = datasets.load(folder, "train")
        shapes = {i.shape for i, _ in split.dataset.as_numpy_iterator()}
        assert shapes == {(32, 32, 3), (1280, 640, 3)}

    def test_little_is_kept_in_memory(self, folder, monkeypatch):
        kept = []
        cache = tf.data.Dataset.cache
        monkeypatch.setattr(
            tf.data.Dataset,
            "cache",
            lambda self: kept.append(self.element_spec) or cache(self),
        )
        split = datasets.load(folder, "train")
        datasets.cifar_train(split.dataset, 4, seed=0)
        assert kept[0][0].shape == (32, 32, 3)

    def test_classes_alternate(self, folder):
        split = datasets.load(folder, "train")
        labels = [label for _, label in split.dataset.as_numpy_iterator()]
        assert len(set(labels[:8])) == 3

    def test_no_such_folder(self):
        with pytest.raises(ValueError, match="no folder './pictuers'"):
            datasets.load("./pictuers", "train")

    def test_damaged_file_is_named(self, folder, tmp_path):
        path = tmp_path / "pictures" / "green" / "03.png"
        path.write_bytes(path.read_bytes()[:60])
        split = datasets.load(folder, "train")
        with pytest.raises(tf.errors.InvalidArgumentError, match="green/03"):
            list(split.dataset.as_numpy_iterator())

    def test_errors(self, tmp_path):
        (tmp_path / "one").mkdir()
        with pytest.raises(ValueError, match="one' has no images"):
            datasets.load_folder(str(tmp_path))
        Image.new("RGB", (8, 8)).save(tmp_path / "one" / "a.png")
        with pytest.raises(ValueError, match=r"two classes. Found \['one'\]"):
            datasets.load_folder(str(tmp_path))
        (tmp_path / "two").mkdir()
        with pytest.raises(ValueError, match="two' has no images"):
            datasets.load_folder(str(tmp_path))


def test_prepared_data_set(cifar10_dir):
    split = datasets.load("cifar10", "train[:50]", str(cifar10_dir))
    assert split.count == 50
    assert split.class_names[0] == "airplane" and len(split.class_names) == 10
    images, labels = datasets.to_numpy(datasets.cifar_eval(split.dataset, 20))
    assert images.shape == (50, 32, 32, 3) and set(labels) <= set(range(10))


@pytest.mark.parametrize("seed", [None, 1])
def test_grey_data_set_becomes_rgb(seed, tmp_path):
    _prepare("DummyMnist", tmp_path)
    split = datasets.load("dummy_mnist", "train", str(tmp_path), seed)
    assert split.count == 20 and len(split.class_names) == 10
    image, _ = next(iter(split.dataset))
    assert image.shape == (28, 28, 3)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_data_set_of_something_else(tmp_path):
    _prepare("DummyDataset", tmp_path)
    with pytest.raises(ValueError, match="dummy_dataset must have .*: id"):
        datasets.load("dummy_dataset", "train", str(tmp_path))


def _prepare(name, folder):
    """Makes a small data set that comes with tfds."""
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = getattr(tfds.testing, name)(data_dir=str(folder))
    builder.download_and_prepare()
