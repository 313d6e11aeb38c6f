"""Files for phones: exact, in one piece, described, and refused if wrong."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import venv

import keras
import numpy as np
import pytest
from hypothesis import Phase
from hypothesis import given
from hypothesis import settings
from PIL import Image

import keras_nasnet
from keras_nasnet import Block
from keras_nasnet import CellGenotype
from keras_nasnet import Genotype
from keras_nasnet import calibration
from keras_nasnet import conversion
from keras_nasnet import export_tflite
from keras_nasnet import litert
from keras_nasnet import metadata
from keras_nasnet import packing
from keras_nasnet import tflite
from keras_nasnet.cli import main
from tests.conftest import ROOT
from tests.networks import ALL_OPERATIONS
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run
from tests.networks import small_network
from tests.test_random_genotypes import REPRODUCIBLE
from tests.test_random_genotypes import genotypes
from tests.test_random_genotypes import tiny_network

pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")
from keras_nasnet.litert import LiteModel  # noqa: E402

CAT = str(ROOT / "examples" / "images" / "cat.jpg")
LABELS = [f"class no. {i}" for i in range(10)]


@pytest.fixture(scope="module")
def model():
    return randomize(small_network(class_names=LABELS))


# Format -> input and output, and the least agreement: random weights do not
# survive rounding well.
FORMATS = {
    None: ("float32", 1),
    "float16": ("float32", 0.9),
    "weight_only_int8": ("float32", 0.5),
    "dynamic_int8": ("float32", 0.5),
    "int8": ("uint8", 0.5),
    "int16x8": ("float32", 0.5),
}


class Files(dict):
    """Format -> report on a file of it, written when it is asked for."""

    def __init__(self, model, folder):
        super().__init__()
        self.model = model
        self.folder = folder

    def __missing__(self, quantization):
        io_dtype, minimum = FORMATS[quantization]
        self[quantization] = export_tflite(
            self.model,
            self.folder / f"{quantization}.tflite",
            quantization,
            representative_data=images(40, 32, 32, 3).clip(-1, 1),
            io_dtype=io_dtype,
            min_agreement=minimum,
            verbose=False,
        )
        return self[quantization]


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    pytest.importorskip("ai_edge_quantizer")
    return Files(model, tmp_path_factory.mktemp("files"))


class TestFloatFile:
    def test_report(self, files):
        report = files[None]
        assert report.partitions == 1
        assert report.agreement == 1
        assert report.max_difference < 1e-5
        assert report.images == 40
        assert report.size == os.path.getsize(report.path)
        assert report.operators["CONV_2D"] > 20
        assert report.latency > 0
        assert "1 partition(s)" in str(report)
        assert "float32" in str(report)

    def test_outputs(self, files, model):
        x = images(3, 32, 32, 3, seed=1)
        outputs = LiteModel(files[None].path).predict_on_batch(x)
        assert relative_difference(outputs, run(model, x)) < 1e-5

    def test_metadata(self, files, model):
        found = metadata.read(files[None].path)
        expected = (LABELS, (127.5, 127.5), model.name, None, ["probability"])
        assert found == expected  # above all no licence that nobody gave

    def test_predict_command(self, files, capsys, model):
        assert main(["predict", CAT, "--model", files[None].path]) == 0
        output = capsys.readouterr().out
        answers = output.splitlines()[1:]
        # The file may also come first.
        assert main(["predict", files[None].path, CAT]) == 0
        assert capsys.readouterr().out == output
        expected = keras_nasnet.predict(model, CAT)
        assert [a.split("%")[1].strip() for a in answers] == [
            p.name for p in expected
        ]

    def test_without_keras(self, files, tmp_path):
        """The file runs where neither Keras nor TensorFlow can be imported."""
        for name in ("keras", "tensorflow"):
            (tmp_path / f"{name}.py").write_text("raise ImportError('none')")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "keras_nasnet",
                "predict",
                CAT,
                "--json",
                f"--model={files[None].path}",
            ],
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
            capture_output=True,
            text=True,
            check=True,
        )
        answer = json.loads(done.stdout)
        assert answer["predictions"][0]["name"] in LABELS


class TestIntegerFile:
    def test_report(self, files):
        report = files["int8"]
        assert report.partitions <= 2
        assert not {"RELU", "AVERAGE_POOL_2D"} & set(report.operators)
        assert report.size < files[None].size

    def test_inputs_and_outputs(self, files, model):
        file = LiteModel(files["int8"].path)
        assert file.input_dtype == "uint8"
        x = images(40, 32, 32, 3).clip(-1, 1)
        outputs = file.predict_on_batch(x)
        # Probabilities in steps of 1/256.
        assert set(np.unique(outputs * 256) % 1) == {0}
        assert np.abs(outputs - run(model, x)).mean() < 0.05

    def test_benchmark_command(self, files, capsys):
        paths = [files[q].path for q in (None, "int8")]
        command = ["benchmark", *paths, "--threads", "1", "2", "--runs", "2"]
        assert main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 5
        command[3:5] = ["--threads=1,2"]
        command.remove("2")
        assert main([*command, "--runs", "1"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 5
        assert lines[1].split()[1:2] == ["1"]
        assert lines[1].split()[-3:-1] == ["1.00", "1"]


def test_pixels_go_in_as_they_are(model, tmp_path):
    """However dark the pictures were that the ranges come from."""
    dark = images(30, 32, 32, 3).clip(-1, -0.2)
    report = export_tflite(
        model,
        tmp_path / "x.tflite",
        "int8",
        representative_data=dark,
        io_dtype="uint8",
        min_agreement=0,
        verbose=False,
    )
    step, zero = LiteModel(report.path)._input["quantization"]
    assert step == pytest.approx(1 / 127.5, rel=0.01)
    assert abs(zero - 127.5) <= 1


def test_model_that_takes_integers(model, tmp_path):
    pixels = keras.Input((32, 32, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 127.5, -1)(pixels)
    whole = keras.Model(pixels, model(scaled))
    x = np.round(127.5 * (images(8, 32, 32, 3).clip(-1, 1) + 1))
    report = export_tflite(
        whole,
        tmp_path / "x.tflite",
        representative_data=x,
        normalization=(0, 1),
        verbose=False,
    )
    outputs = LiteModel(report.path).predict_on_batch(x.astype("float32"))
    expected = run(whole, x.astype("uint8"))
    assert relative_difference(outputs, expected) < 1e-4


class TestHeads:
    def export(self, model, tmp_path, **settings):
        path = tmp_path / "x.tflite"
        x = images(8, 32, 32, 3).clip(-1, 1)
        report = export_tflite(
            model, path, representative_data=x, verbose=False, **settings
        )
        outputs = LiteModel(path).predict_on_batch(x)
        assert relative_difference(outputs, run(model, x)) < 1e-4
        return report

    @pytest.mark.parametrize("quantization", [None, "int8"])
    def test_of_plain_keras(self, quantization, tmp_path):
        trunk = randomize(small_network(include_top=False, pooling="avg"))
        x = keras.layers.BatchNormalization()(trunk.output)
        x = keras.layers.Dense(8)(x)
        x = keras.layers.ReLU()(x)
        x = keras.layers.Dense(3, activation="softmax")(x)
        model = keras.Model(trunk.input, x)
        if quantization is None:
            labels = tmp_path / "labels.txt"
            labels.write_text("a\nb\nc\n\n")
            report = self.export(model, tmp_path, labels=labels)
            assert report.agreement == 1
            assert metadata.read(report.path).labels == ["a", "b", "c"]
            return
        report = export_tflite(
            model,
            tmp_path / "x.tflite",
            quantization,
            representative_data=images(20, 32, 32, 3).clip(-1, 1),
            min_agreement=0.3,
            verbose=False,
        )
        assert report.operators["FULLY_CONNECTED"] == 2

    def test_sequential(self, tmp_path):
        trunk = randomize(small_network(include_top=False, pooling="avg"))
        head = keras.layers.Dense(3, activation="softmax")
        model = keras.Sequential([trunk, head])
        assert self.export(model, tmp_path).agreement == 1

    def test_logits_become_probabilities(self, tmp_path):
        model = randomize(
            small_network(classifier_activation=None, class_names=LABELS)
        )
        path = tmp_path / "x.tflite"
        export_tflite(model, path, verbose=False)
        x = images(4, 32, 32, 3)
        expected = keras.ops.softmax(run(model, x))
        outputs = LiteModel(path).predict_on_batch(x)
        np.testing.assert_allclose(outputs, expected, atol=1e-4)
        (answer,) = LiteModel(path).classify(CAT, top=1)
        (same,) = keras_nasnet.predict(model, CAT, top=1)
        assert answer.name == same.name
        assert answer.probability == pytest.approx(same.probability, abs=1e-3)

    def test_many_outputs_in_order(self, tmp_path):
        model = randomize(small_network(include_top=False))
        taps = [la.output for la in model.layers if "cell" in la.name]
        taps += [keras.layers.ReLU()(tap) for tap in taps]
        taps += [keras.layers.ReLU()(tap) for tap in taps[:2]]
        model = keras.Model(model.input, taps)
        assert len(taps) == 12
        export_tflite(model, tmp_path / "x.tflite", verbose=False)
        x = images(2, 32, 32, 3)
        outputs = LiteModel(tmp_path / "x.tflite").predict_on_batch(x)
        for found, expected in zip(outputs, run(model, x), strict=True):
            assert relative_difference(found, expected) < 1e-4


@pytest.mark.parametrize(
    "quantization", ["float16", "weight_only_int8", "dynamic_int8", "int16x8"]
)
def test_small_files(model, files, quantization):
    report = files[quantization]
    assert report.size < files[None].size
    assert metadata.read(report.path).labels == LABELS
    x = images(8, 32, 32, 3).clip(-1, 1)
    outputs = LiteModel(report.path).predict_on_batch(x)
    assert 0 < np.abs(outputs - run(model, x)).max() < 0.2


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_all_operations(quantization, tmp_path):
    model = randomize(
        small_network(
            (20, 17, 3),
            genotype=ALL_OPERATIONS,
            include_top=False,
            features=["P0", "P1"],
        )
    )
    report = export_tflite(
        model,
        tmp_path / "x.tflite",
        quantization,
        representative_data=images(20, 20, 17, 3).clip(-1, 1),
        batch_size=2,
        verbose=False,
    )
    assert report.agreement > (0.9 if quantization else 0.99999)
    x = images(3, 20, 17, 3)
    outputs = LiteModel(report.path).predict_on_batch(x)
    for found, expected in zip(outputs, keras.tree.flatten(run(model, x))):
        assert found.shape == expected.shape
        if quantization is None:
            assert relative_difference(found, expected) < 1e-4


DILATED = CellGenotype(
    [Block(("dil_conv_3x3", 0), ("dil_conv_3x3", 1), "concat")]
)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_dilated_convolutions_in_one_piece(quantization, tmp_path):
    model = small_network(genotype=Genotype(DILATED, DILATED, "dilated"))
    report = export_tflite(
        randomize(model),
        tmp_path / "x.tflite",
        quantization,
        representative_data=images(20, 32, 32, 3).clip(-1, 1),
        min_agreement=0.5,
        verbose=False,
    )
    # Where the outputs become floats again, integers have a second one.
    assert report.partitions <= (2 if quantization else 1)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "int8"])
@settings(REPRODUCIBLE, max_examples=3, phases=[Phase.generate])
@given(genotypes())
def test_random_genotypes(quantization, data):
    model = randomize(tiny_network(Genotype.from_dict(data), size=(9, 12)))
    with tempfile.TemporaryDirectory() as folder:
        report = export_tflite(
            model,
            pathlib.Path(folder) / "x.tflite",
            quantization,
            representative_data=images(20, 9, 12, 3).clip(-1, 1),
            verbose=False,
        )
    assert report.agreement > (0.9 if quantization else 0.99999)
    if quantization is None:
        assert report.partitions == 1


class TestMetadata:
    def test_replaces_what_was_there(self, files):
        content = pathlib.Path(files[None].path).read_bytes()
        changed = metadata.write(content, "other", "", (0.0, 1.0), "MIT")
        path = pathlib.Path(files[None].path).with_name("changed.tflite")
        path.write_bytes(changed)
        found = metadata.read(path)
        assert found[:4] == (None, (0.0, 1.0), "other", "MIT")
        x = images(1, 32, 32, 3)
        np.testing.assert_array_equal(
            LiteModel(path)(x), LiteModel(files[None].path)(x)
        )

    def test_file_without(self, files, tmp_path):
        content = pathlib.Path(files[None].path).read_bytes()
        model = packing.unpack(content)
        model.metadata = None
        path = tmp_path / "bare.tflite"
        path.write_bytes(packing.pack(model))
        assert metadata.read(path) == metadata.Metadata()
        with pytest.raises(ValueError, match="how images have to be scaled"):
            LiteModel(path).classify(CAT)

    @pytest.mark.slow
    def test_mediapipe(self, files, tmp_path):
        python = mediapipe_python()
        picture = tmp_path / "cat.png"
        pixels = keras_nasnet.load_image(CAT, (32, 32), 1.0)
        Image.fromarray(pixels).save(picture)
        for report in map(files.__getitem__, FORMATS):
            done = subprocess.run(
                [
                    python,
                    ROOT / "tests" / "mediapipe_client.py",
                    report.path,
                    picture,
                ],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            (answers,) = json.loads(done.stdout)
            expected = LiteModel(report.path).classify(picture, top=10)
            scores = dict(answers)
            assert set(scores) == set(LABELS)
            # Kernels for integers differ.
            tolerance = 1e-5 if report.quantization is None else 0.1
            for name, probability in expected:
                assert scores[name] == pytest.approx(probability, abs=tolerance)


SMALL = CellGenotype([Block(("sep_conv_3x3", 0), ("avg_pool_3x3", 1))])


class TestNested:
    """A file of a model that has a network with several outputs inside."""

    @pytest.fixture(scope="class")
    def model(self):
        network = small_network(
            genotype=Genotype(SMALL, SMALL),
            classifier_activation=None,
            class_names=LABELS,
        )
        tap = randomize(network).get_layer("cell_1").output
        network = keras.Model(network.input, [tap, network.output])
        image = keras.Input((32, 32, 3))
        return keras.Model(image, network(image))

    @pytest.fixture(scope="class")
    def path(self, model, tmp_path_factory):
        path = tmp_path_factory.mktemp("nested") / "x.tflite"
        report = export_tflite(model, path, verbose=False, licence="MIT")
        assert report.agreement == pytest.approx(1)
        return path

    def test_outputs(self, model, path):
        x = images(2, 32, 32, 3)
        tap, probabilities = LiteModel(path).predict_on_batch(x)
        expected, logits = run(model, x)
        assert relative_difference(tap, expected) < 1e-4
        expected = keras.ops.softmax(logits)
        np.testing.assert_allclose(probabilities, expected, atol=1e-4)

    def test_classes(self, model, path):
        found = metadata.read(path)
        assert found.labels == LABELS
        assert found.licence == "MIT"
        assert found.outputs.count("probability") == 1
        pixels = keras_nasnet.load_image(CAT, (32, 32), 1.0)[None]
        logits = run(model, keras_nasnet.preprocess_input(pixels))[1]
        (answer,) = LiteModel(path).classify(CAT, top=1)
        assert answer.name == LABELS[np.argmax(logits)]

    def test_worst_output_is_the_agreement(self, model, path, monkeypatch):
        """What a report says if the tap or the classes are wrong."""
        x = images(8, 32, 32, 3)
        tap, scores = run(model, x)
        swapped = scores.copy()
        swapped[:2] = -scores[:2]
        for outputs, expected in (
            ((tap, scores), 1),
            ((-tap, scores), -1),
            ((tap, swapped), 0.75),
        ):
            monkeypatch.setattr(
                LiteModel, "predict_on_batch", lambda *_, o=outputs: list(o)
            )
            report = tflite._check(path, path, model, x, None)
            assert report.agreement == pytest.approx(expected)


class TestOutputs:
    """What `classify` makes of outputs of several kinds."""

    def write(self, files, tmp_path, **settings):
        path = tmp_path / "x.tflite"
        content = pathlib.Path(files[None].path).read_bytes()
        settings = {"normalization": (127.5, 127.5), **settings}
        path.write_bytes(metadata.write(content, "x", "", **settings))
        return path

    def test_features(self, files, tmp_path, capsys):
        path = self.write(files, tmp_path)
        assert main(["predict", CAT, "--model", str(path)]) == 2
        printed = capsys.readouterr()
        assert not printed.out
        assert "no classifier: it returns features, of shape (1, 10)" in (
            printed.err
        )

    @pytest.mark.parametrize("labels", [None, LABELS])
    def test_logits(self, files, tmp_path, labels):
        (tensor,) = LiteModel(files[None].path).output_tensors
        path = self.write(
            files, tmp_path, labels=labels, outputs={tensor: metadata.LOGIT}
        )
        scores = {
            p.name: p[1] for p in LiteModel(files[None].path).classify(CAT)
        }
        found = LiteModel(path).classify(CAT, top=10)
        assert sum(p.probability for p in found) == pytest.approx(1)
        first, second = list(scores.values())[:2]
        ratio = found[0].probability / found[1].probability
        assert ratio == pytest.approx(np.exp(first - second), rel=1e-4)

    def test_of_others(self, files, tmp_path, monkeypatch):
        """Labels alone say that an output is one of classes."""
        path = self.write(files, tmp_path, labels=LABELS)
        model = LiteModel(path)
        expected = LiteModel(files[None].path).classify(CAT)
        assert model.classify(CAT) == expected
        monkeypatch.setattr(
            LiteModel, "__call__", lambda *_: [np.arange(-5.0, 5)[None]]
        )
        (answer,) = model.classify(CAT, top=1)
        assert answer.name == LABELS[9]
        assert answer.probability == pytest.approx(0.632, abs=1e-3)

    @pytest.mark.parametrize(
        "names",
        [
            [f"output_{i}" for i in range(12)],
            ["twin", *(f"twin_{i}" for i in range(1, 12))],
            ["P2", "P3", "P4"],
            ["P10", "P2"],  # as Keras sorts the keys of a dictionary
        ],
    )
    def test_in_order(self, names):
        assert litert.in_order(names[::-1]) == names

    def test_integers_that_mean_themselves(self, tmp_path):
        import tensorflow as tf

        @tf.function(input_signature=[tf.TensorSpec((1, 4, 4, 3), tf.uint8)])
        def brightest(pixels):
            return {"brightest": tf.argmax(tf.reshape(pixels, (1, 48)), 1)}

        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [brightest.get_concrete_function()]
        )
        path = tmp_path / "x.tflite"
        path.write_bytes(converter.convert())
        pixels = np.arange(48.0).reshape((1, 4, 4, 3))
        assert LiteModel(path).predict_on_batch(pixels) == 47
        assert len(LiteModel(path).benchmark(1, warm_up=0)) == 1

    def test_several_inputs(self, tmp_path):
        import tensorflow as tf

        image = tf.TensorSpec((1, 2), tf.float32)
        add = tf.function(tf.add).get_concrete_function(image, image)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([add])
        path = tmp_path / "x.tflite"
        path.write_bytes(converter.convert())
        with pytest.raises(ValueError, match="one input, .* 2 inputs"):
            LiteModel(path)


class TestPacking:
    @pytest.fixture(params=[None, "int8"])
    def content(self, files, request):
        return pathlib.Path(files[request.param].path).read_bytes()

    def test_equal_vectors_are_there_once(self, content):
        from ai_edge_litert import schema_py_generated as schema

        graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
        vectors = []
        for i in range(graph.TensorsLength()):
            quantization = graph.Tensors(i).Quantization()
            if quantization and quantization.ZeroPointLength():
                vectors.append(quantization.ZeroPointAsNumpy())
        places = {v.__array_interface__["data"] for v in vectors}
        assert len(places) == len({v.tobytes() for v in vectors})

    def test_constants_are_aligned(self, content):
        from ai_edge_litert import schema_py_generated as schema

        model = schema.Model.GetRootAs(content, 0)
        start = np.frombuffer(content, "uint8").__array_interface__["data"][0]
        places = []
        for i in range(model.BuffersLength()):
            if model.Buffers(i).DataLength():
                data = model.Buffers(i).DataAsNumpy()
                places.append(data.__array_interface__["data"][0] - start)
        assert len(places) > 50
        assert not any(place % 16 for place in places)

    def test_packed_again(self, content):
        end = content.index(b"PK\x03\x04")  # the archive of labels
        assert packing.pack(packing.unpack(content)) == content[:end]


def mediapipe_python():
    """Returns a Python with MediaPipe, whose needs exclude tfmot's."""
    cache = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
    folder = pathlib.Path(cache) / "keras_nasnet-mediapipe"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        done = subprocess.run([python, "-m", "pip", "install", "mediapipe"])
        if done.returncode:
            pytest.skip("mediapipe cannot be installed")
        (folder / "complete").touch()
    return python


class TestNormalization:
    """What the image that a model takes is known to be."""

    @pytest.fixture(scope="class")
    def trunk(self):
        return small_network(include_top=False, pooling="avg")

    def test_of_our_networks(self, trunk):
        pixels = small_network(include_preprocessing=True)
        for network, expected in ((trunk, (127.5, 127.5)), (pixels, (0, 1))):
            image = keras.Input((32, 32, 3))
            for model in (
                network,
                keras_nasnet.fuse(network),
                keras.Model(image, network(image)),
                keras.Sequential([image, network]),
            ):
                assert calibration.normalization_of(model) == expected

    def test_of_layers_from_elsewhere(self, trunk, tmp_path):
        image = keras.Input((32, 32, 3))
        for x, expected in (
            (keras.layers.Rescaling(1 / 255)(image), (0, 1)),
            (image / 255, None),
            (keras.layers.Normalization(mean=0, variance=9)(image), None),
            (keras.layers.Conv2D(3, 1)(image), None),
        ):
            model = keras.Model(image, trunk(x))
            assert calibration.normalization_of(model) == expected
        path = tmp_path / "x.tflite"
        with pytest.raises(ValueError, match="`normalization` must be given"):
            export_tflite(model, path, verbose=False)
        assert not list(tmp_path.iterdir())


def read(data, model, count):
    normalization = calibration.normalization_of(model)
    return calibration.read_images(data, model, count, normalization)


class TestImages:
    def test_scaled_as_the_caller_says(self, model, tmp_path):
        Image.new("RGB", (32, 32), "white").save(tmp_path / "a.png")
        found = calibration.read_images(str(tmp_path), model, 1, (0.0, 255.0))
        assert found.min() == found.max() == 1
        with pytest.raises(ValueError, match=r"to \[0, 1\] .*-1"):
            calibration.read_images(
                np.full((1, 32, 32, 3), -1.0), model, 1, (0.0, 255.0)
            )

    def test_folder(self, model, tmp_path):
        for i, name in enumerate(["a/1.png", "b/2.jpg", "b/3.png"]):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (40, 50), (i * 100, 0, 0)).save(path)
        (tmp_path / "notes.txt").write_text("no image")
        found = read(str(tmp_path), model, 10)
        assert found.shape == (3, 32, 32, 3)
        assert found.min() == -1
        assert len(read(str(tmp_path), model, 2)) == 2

    def test_data_set_with_labels(self, model):
        import tensorflow as tf

        x = images(10, 32, 32, 3).clip(-1, 1)
        data = tf.data.Dataset.from_tensor_slices((x, np.arange(10)))
        for source in (data, data.batch(4), list(x), x):
            found = read(source, model, 6)
            np.testing.assert_allclose(found, x[:6])

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (np.full((2, 32, 32, 3), 200.0), r"to \[-1, 1\] .*200"),
            (np.full((2, 32, 32, 3), np.nan), "nan"),
            (np.zeros((2, 16, 16, 3)), r"shape \('images', 32, 32, 3\)"),
            (np.zeros((0, 32, 32, 3)), r"shape \(0, 32, 32, 3\)"),
            ([np.zeros((8, 8, 3)), np.zeros((9, 8, 3))], "of one size"),
            ("/nowhere", "there are no images in '/nowhere'"),
        ],
    )
    def test_unusable(self, model, data, message):
        with pytest.raises(ValueError, match=message):
            read(data, model, 10)

    def test_pixels_that_someone_scaled(self):
        model = small_network(include_preprocessing=True)
        with pytest.raises(ValueError, match=r"to \[0, 255\]"):
            read(np.full((2, 32, 32, 3), 0.5), model, 10)

    def test_pixels_scaled_from_zero_to_one(self, model):
        scaled = np.random.default_rng(0).random((20, 32, 32, 3))
        with pytest.raises(ValueError, match=r"to \[-1, 1\]"):
            read(scaled, model, 20)
        # A few may be of bright things.
        assert read(scaled, model, 2).min() >= 0


FOLDER = "folder.tflite"


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"path": "x.lite"}, '`path` must end in ".tflite"'),
            ({"path": "/nowhere/x.tflite"}, "folder that does not exist"),
            ({"path": FOLDER}, "must be a file. Received: folder"),
            ({"quantization": "int4"}, "`quantization` must be None or one of"),
            ({"quantization": "int8"}, "needs `representative_data`"),
            ({"io_dtype": "int8"}, "`io_dtype` must be"),
            ({"io_dtype": "uint8"}, 'needs `quantization="int8"`'),
            (
                {
                    "quantization": "int8",
                    "representative_data": np.zeros((3, 32, 32, 3)),
                    "batch_size": 4,
                },
                "at least `batch_size` images",
            ),
            ({"batch_size": 0}, "`batch_size` must be a positive integer"),
            ({"labels": ["one"]}, "name the 10 classes .* 1 labels"),
            (
                {"representative_data": np.full((2, 32, 32, 3), 200.0)},
                r"scaled as for the model, to \[-1, 1\] .*preprocess_input",
            ),
        ],
    )
    def test_argument(self, model, tmp_path, monkeypatch, settings, message):
        monkeypatch.chdir(tmp_path)
        (tmp_path / FOLDER).mkdir()
        with pytest.raises(ValueError, match=message):
            export_tflite(model, **{"path": "x.tflite", **settings})
        assert [path.name for path in tmp_path.iterdir()] == [FOLDER]

    def test_other_models(self, tmp_path):
        image = keras.Input((8, 8, 3))
        other = keras.Model(image, keras.layers.Conv2D(2, 3)(image))
        with pytest.raises(ValueError, match="with cells of keras_nasnet"):
            export_tflite(other, tmp_path / "x.tflite")
        with pytest.raises(ValueError, match="no output of classes"):
            export_tflite(
                small_network(include_top=False),
                tmp_path / "x.tflite",
                labels=["one"],
            )
        any_size = small_network((None, None, 3))
        with pytest.raises(ValueError, match="of a known image size"):
            export_tflite(any_size, tmp_path / "x.tflite")

    def test_function_of_the_user(self, tmp_path):
        def relu(x):  # that of Keras is another one
            return 2 * x

        model = small_network(classifier_activation=relu)
        with pytest.raises(
            ValueError, match="activations .* 'predictions' .* 'relu'"
        ):
            export_tflite(model, tmp_path / "x.tflite", verbose=False)
        assert not list(tmp_path.iterdir())

    def test_layers_from_elsewhere(self, tmp_path):
        class Mine(keras.layers.Layer):
            def call(self, inputs):
                return inputs

        trunk = small_network(include_top=False, pooling="avg")
        for layer in (Mine(name="mine"), keras.layers.Lambda(abs, name="mine")):
            model = keras.Sequential([trunk, layer])
            with pytest.raises(ValueError, match="layers of Keras .* 'mine'"):
                export_tflite(model, tmp_path / "x.tflite", verbose=False)
        assert not list(tmp_path.iterdir())

    def test_models_without_graph(self, tmp_path):
        class Subclass(keras.Model):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.trunk = small_network()

            def call(self, inputs):
                return self.trunk(inputs)

        class FasterRCNN(Subclass):
            pass

        with pytest.raises(ValueError, match="functional or sequential"):
            export_tflite(Subclass(), tmp_path / "x.tflite")
        with pytest.raises(ValueError, match="the detector 'found'"):
            export_tflite(FasterRCNN(name="found"), tmp_path / "x.tflite")

    def test_conversion_that_fails(self, model, tmp_path, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
        (tmp_path / "packages").mkdir()
        (tmp_path / "packages" / "tensorflow.py").write_text("1 / 0")
        path = tmp_path / "x.tflite"
        with pytest.raises(ValueError, match="conversion .* failed: ZeroDiv"):
            export_tflite(model, path, verbose=False)
        assert not path.exists()

    def test_file_that_disagrees(self, model, files, tmp_path, monkeypatch):
        other = randomize(small_network(class_names=LABELS), seed=5)
        right = pathlib.Path(files[None].path).read_bytes()
        monkeypatch.setattr(
            conversion,
            "convert_in_process",
            lambda folder, out, **_: pathlib.Path(out).write_bytes(right),
        )
        with pytest.raises(ValueError, match="does not agree with the model"):
            export_tflite(other, tmp_path / "x.tflite", verbose=False)
        assert not list(tmp_path.iterdir())

    def test_file_that_answers_nan(self, model, files, tmp_path, monkeypatch):
        right = pathlib.Path(files[None].path).read_bytes()
        monkeypatch.setattr(
            conversion,
            "convert_in_process",
            lambda folder, out, **_: pathlib.Path(out).write_bytes(right),
        )
        monkeypatch.setattr(
            tflite.LiteModel,
            "predict_on_batch",
            lambda self, images: [np.full((len(images), len(LABELS)), np.nan)],
        )
        with pytest.raises(ValueError, match="float32 file .* not finite"):
            export_tflite(model, tmp_path / "x.tflite", verbose=False)
        assert not list(tmp_path.iterdir())

    def test_full_disk(self, model, files, tmp_path, monkeypatch):
        def fail(*_):
            raise OSError(28, "No space left on device")

        right = pathlib.Path(files[None].path).read_bytes()
        monkeypatch.setattr(
            conversion,
            "convert_in_process",
            lambda folder, out, **_: pathlib.Path(out).write_bytes(right),
        )
        monkeypatch.setattr(tflite.os, "replace", fail)
        with pytest.raises(OSError, match="No space left"):
            export_tflite(model, tmp_path / "x.tflite", verbose=False)
        assert not list(tmp_path.iterdir())

    def test_damaged_file(self, tmp_path, capsys):
        path = tmp_path / "x.tflite"
        path.write_bytes(b"not a model")
        assert main(["predict", CAT, "--model", str(path)]) == 2
        assert f"{path} cannot be loaded" in capsys.readouterr().err
