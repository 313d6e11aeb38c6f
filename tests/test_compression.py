"""Training that compresses: what it promises holds in the network and file."""

import json
import pathlib
import types

import keras
import numpy as np
import pytest

from keras_nasnet import Block
from keras_nasnet import CellGenotype
from keras_nasnet import Genotype
from keras_nasnet import export_tflite
from keras_nasnet import metadata
from tests.commands import run_command
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run
from tests.networks import small_network

tf = pytest.importorskip("tensorflow")
tfmot = pytest.importorskip("tensorflow_model_optimization")
tf_keras = pytest.importorskip("tf_keras")
pytest.importorskip("ai_edge_litert")
if keras.config.backend() != "tensorflow":
    pytest.skip("needs TensorFlow", allow_module_level=True)
from keras_nasnet import compression  # noqa: E402
from tests.runs import write_pictures  # noqa: E402
from training import compress  # noqa: E402

CELL = CellGenotype(
    [
        Block(("sep_conv_3x3", 0), ("avg_pool_3x3", 1)),
        Block(("conv_1x7_7x1", 1), ("max_pool_3x3", 0)),
    ],
    # So that three are concatenated.
    outputs=(1, 2, 3),
)
X = images(16, 32, 32, 3)
Y = np.arange(16) % 3
NAMES = ["blue", "green", "red"]  # as `write_pictures` has them


def train(twin, batches, learning_rate, folder, *callbacks):
    settings = types.SimpleNamespace(epochs=1, learning_rate=learning_rate)
    backup = folder / "backup"
    compress.train(twin, batches, 2, settings, backup, callbacks)


@pytest.fixture(scope="module")
def model():
    return randomize(
        small_network(
            genotype=Genotype(CELL, CELL), classes=3, class_names=NAMES
        )
    )


def mild_network(**settings):
    """Returns a network whose probabilities are not all 0 and 1."""
    network = randomize(
        small_network(genotype=Genotype(CELL, CELL), classes=3, **settings)
    )
    if settings.get("include_top", True):
        kernel = network.get_layer("predictions").kernel
        kernel.assign(0.05 * kernel)
    return network


def fit(twin, *callbacks, epochs=4):
    twin.compile(
        tf_keras.optimizers.SGD(1e-3, momentum=0.9),
        "sparse_categorical_crossentropy",
    )
    history = twin.fit(
        X, Y, 8, epochs, verbose=0, callbacks=list(callbacks)
    ).history["loss"]
    assert history[-1] < history[0]


def kernels(model):
    """Returns the kernels of convolutions that mix channels."""
    return [
        w
        for layer in model.layers
        if type(layer) is keras.layers.Conv2D
        for w in [np.array(layer.kernel)]
    ]


class TestQuantizationAware:
    @pytest.fixture(scope="class")
    def twin(self, model):
        twin = compression.quantization_aware(model, X)
        fit(twin)
        return twin

    def test_knows_the_classes(self, twin):
        assert list(twin.class_names) == NAMES

    def test_rounds_everything(self, model, twin):
        wrapped = [
            layer
            for layer in twin.layers
            if layer.weights and not layer.name.startswith("quantize_layer")
        ]
        assert all(layer.name.startswith("quant_") for layer in wrapped)
        assert len(wrapped) > 20

    def test_every_channel_has_its_range(self, twin):
        """As in files; one for a whole kernel leaves small weights few bits."""
        found = 0
        for layer in twin.layers:
            convolution = getattr(layer, "layer", None)
            if not isinstance(convolution, tf_keras.layers.DepthwiseConv2D):
                continue
            values = {
                weight.name.rsplit("/", 1)[-1]: np.array(weight)
                for weight in layer.weights
            }
            kernel = values["depthwise_kernel:0"][..., 0]
            limit = values["depthwise_kernel_max:0"]
            largest = np.abs(kernel).max((0, 1))
            np.testing.assert_allclose(limit, largest, rtol=0.1, atol=1e-3)
            found += len(np.unique(limit)) > 1
        assert found > 5

    @pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
    def test_starts_as_the_network(self, activation):
        self.check_start(mild_network(classifier_activation=activation), X)

    def test_starts_as_a_model_around_a_network(self):
        pixels = keras.Input((32, 32, 3), dtype="uint8", name="pixels")
        x = keras.layers.Rescaling(1 / 127.5, -1)(pixels)
        x = keras.layers.DepthwiseConv2D(
            1, depth_multiplier=2, depthwise_initializer="ones"
        )(x)
        x = keras.layers.Conv2D(3, 1)(x)
        x = mild_network(include_top=False)(x)
        average = keras.layers.GlobalAveragePooling2D()(x)
        largest = keras.layers.GlobalMaxPooling2D()(x)
        # What is read twice, tfmot leaves out the second time.
        x = keras.layers.Concatenate()([average, largest, average])
        model = keras.Model({"pixels": pixels}, keras.layers.Dense(3)(x))
        random = np.random.default_rng(0)
        self.check_start(model, random.integers(0, 256, X.shape, dtype="uint8"))

    def check_start(self, model, images):
        """Images are told apart as before, by far less than they differ."""
        expected = np.array(model(images, training=False))
        differences = np.abs(expected - expected.mean(0)).mean()
        twin = compression.quantization_aware(model, images)
        change = np.abs(twin.predict(images, verbose=0) - expected).mean()
        assert change < 0.5 * differences

    def test_what_is_concatenated_keeps_its_order(self, model, twin):
        """`tensorflow-model-optimization` exchanges inputs by itself."""

        def inputs(layer):
            return [
                source._keras_history.layer.name.removeprefix("quant_")
                for source in layer.input
            ]

        expected = {
            layer.name: inputs(layer)
            for layer in compression._twin(model, integer=True).layers
            if isinstance(layer, tf_keras.layers.Concatenate)
        }
        assert max(len(names) for names in expected.values()) > 2
        for name, names in expected.items():
            assert inputs(twin.get_layer(f"quant_{name}")) == names

    def test_images_of_another_range(self, model):
        with pytest.raises(ValueError, match=r"scaled .* to \[-1, 1\]"):
            compression.quantization_aware(model, 100 * X)

    @pytest.mark.slow
    def test_file_computes_what_the_twin_does(self, twin, tmp_path):
        report = export_tflite(
            twin,
            tmp_path / "x.tflite",
            "int8",
            representative_data=X,
            verbose=False,
        )
        assert report.max_difference < 0.1
        assert report.partitions <= 2
        assert metadata.read(report.path).labels == NAMES


@pytest.mark.parametrize("kind", ["pruned", "clustered"])
def test_compressed(kind, model, tmp_path):
    if kind == "pruned":
        schedule = tfmot.sparsity.keras.ConstantSparsity(0.5, 0, frequency=1)
        twin = compression.prune(model, schedule)
        fit(twin, tfmot.sparsity.keras.UpdatePruningStep())
    else:
        twin = compression.cluster(model, 4)
        fit(twin)
    restored = compression.restore(twin, model)
    assert isinstance(restored, keras.Model)
    found = kernels(restored)
    assert len(found) > 10
    for kernel in found:
        if kind == "pruned":
            assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.05)
        else:
            assert len(np.unique(kernel)) <= 4
    expected = twin.predict(X, verbose=0)
    assert relative_difference(run(restored, X), expected) < 1e-4
    # It has learned something, and is not the network it came from.
    assert np.abs(expected - run(model, X)).max() > 1e-3
    report = export_tflite(restored, tmp_path / "x.tflite", verbose=False)
    assert report.agreement == 1


def test_twins_start_as_the_network(model):
    never = tfmot.sparsity.keras.ConstantSparsity(0.5, begin_step=1000)
    twin = compression.prune(model, never)
    expected = run(model, X)
    assert relative_difference(twin.predict(X, verbose=0), expected) < 1e-4


def test_training_on_logits(tmp_path):
    model = small_network(
        genotype=Genotype(CELL, CELL),
        classes=3,
        classifier_activation=None,
        aux_head=True,
    )
    never = tfmot.sparsity.keras.ConstantSparsity(0.5, begin_step=1000)
    twin = compression.prune(randomize(model), never)
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    steps = tfmot.sparsity.keras.UpdatePruningStep()
    train(twin, batches, 0.0, tmp_path, steps)
    logits = twin.predict(X, verbose=0).astype("float64")
    chosen = logits[np.arange(16), Y]
    expected = np.mean(np.log(np.exp(logits).sum(1)) - chosen)
    loss, _ = twin.evaluate(batches, verbose=0)
    assert loss == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="what .*restore` returns"):
        export_tflite(twin, tmp_path / "x.tflite")


def test_training_that_diverges(model, tmp_path):
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    twin = compression.cluster(model, 4)
    with pytest.raises(FloatingPointError, match="Lower `learning_rate` 1e"):
        train(twin, batches, 1e30, tmp_path)
    restored = compression.restore(twin, model)
    with pytest.raises(ValueError, match="training has diverged: .*kernel"):
        export_tflite(restored, tmp_path / "x.tflite", verbose=False)
    assert not (tmp_path / "x.tflite").exists()


class TestRefusals:
    """Models that no twin can be made of, before any is made."""

    def check(self, model, message):
        for make in (
            compression.quantization_aware,
            lambda model: compression.prune(model, None),
            lambda model: compression.cluster(model, 4),
        ):
            with pytest.raises(ValueError, match=message):
                make(model)

    def test_twins(self, model):
        never = tfmot.sparsity.keras.ConstantSparsity(0.5, begin_step=1000)
        twin = compression.prune(model, never)
        self.check(twin, "must be a Keras 3 model")
        with pytest.raises(ValueError, match="other weights than 'nasnet'"):
            compression.restore(twin, mild_network(num_cells=2))
        with pytest.raises(ValueError, match="must be a `tf_keras` model"):
            compression.restore(model, model)

    def test_what_tfmot_cannot_round(self):
        model = mild_network(classifier_activation="elu")
        with pytest.raises(ValueError, match="Received: 'nasnet'.* activatio"):
            compression.quantization_aware(model)

    def test_other_models(self):
        image = keras.Input((8, 8, 3))
        other = keras.Model(image, keras.layers.Conv2D(2, 3)(image))
        self.check(other, "with cells of keras_nasnet")
        self.check(small_network((None, None, 3)), "known image size")

    def test_other_layers(self):
        class Mine(keras.layers.Layer):
            def call(self, inputs):
                return inputs

        trunk = small_network(
            genotype=Genotype(CELL, CELL), include_top=False, pooling="avg"
        )
        model = keras.Sequential([trunk, Mine(name="mine")])
        self.check(model, "layers of Keras .* 'mine', which is a Mine")
        # One of Keras', but not of `tf_keras`.
        x = keras.ops.sin(trunk.output)
        self.check(keras.Model(trunk.input, x), "tf_keras cannot take over")

    def test_detectors(self):
        class FasterRCNN(keras.Model):
            pass

        self.check(FasterRCNN(name="found"), "the detector 'found'")


@pytest.mark.slow
def test_example_of_the_docs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = pathlib.Path(__file__).parents[1] / "docs" / "compression.md"
    text = page.read_text(encoding="utf-8")
    example = text.partition("```python\n")[2].partition("```")[0]
    exec(compile(example, str(page), "exec"), {"images": X, "labels": Y})
    assert metadata.read("tiny.tflite").labels[0] == "airplane"


def test_without_the_library(model, monkeypatch):
    monkeypatch.setattr(
        compression.importlib.util, "find_spec", lambda name: None
    )
    with pytest.raises(ImportError, match=r"keras_nasnet\[compression\]"):
        compression.cluster(model, 4)


@pytest.mark.slow
def test_command(model, tmp_path, capsys):
    model.save(tmp_path / "model.keras")
    arguments = (
        f"--model={tmp_path / 'model.keras'}",
        f"--dataset={write_pictures(tmp_path / 'pictures', 8)}",
        f"--workdir={tmp_path / 'out'}",
        "--batch_size=8",
        "--epochs=1",
    )
    run_command(compress, *arguments, "--method=float32", "--method=pruned")
    path = tmp_path / "out/results.json"
    results = json.loads(path.read_text())
    assert list(results) == ["float32", "pruned"]
    for method, result in results.items():
        file = tmp_path / f"out/{method}.tflite"
        assert result["size"] == file.stat().st_size
        assert 0 <= result["top_1"] <= 100
        assert result["partitions"] == 1
    # Zeros take less room once the file is compressed.
    assert results["pruned"]["gzip_size"] < results["float32"]["gzip_size"]
    # What is done is not done again.
    written = file.stat().st_mtime_ns
    run_command(compress, *arguments, "--method=float32", "--method=pruned")
    assert file.stat().st_mtime_ns == written
    assert "| pruned |" in capsys.readouterr().out
