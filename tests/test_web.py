"""The page in examples/web classifies a photograph in a real browser."""

import functools
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import threading

import numpy as np
import pytest

import keras_nasnet
from keras_nasnet import metadata
from tests.conftest import ROOT

pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")
from keras_nasnet.litert import LiteModel  # noqa: E402

CAT = ROOT / "examples" / "images" / "cat.jpg"
PACKAGES = ["@litertjs/core@2.5.3", "playwright-core@1.64.1"]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def in_node(module, expression, *arguments):
    """Evaluates JavaScript with what a module of the page exports."""
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    path = (ROOT / "examples" / "web" / module).as_uri()
    code = f"""
        import {{ readFileSync }} from "node:fs";
        import * as page from "{path}";
        const [first] = process.argv.slice(1);
        const read = (path) => new Uint8Array(readFileSync(path)).buffer;
        console.log(JSON.stringify({expression}));
    """
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", code, "--", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestMetadata:
    """The page reads of a file what Python reads of it."""

    LABELS = ["Käfer", "bee", "cat"]
    READ = """(() => {
        try { return page.readMetadata(read(first)); }
        catch (error) { return error.message; }
    })()"""

    @pytest.fixture(scope="class")
    def content(self):
        import tensorflow as tf

        @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 3), tf.float32)])
        def mean(image):
            return tf.reduce_mean(image, (1, 2)) * 2

        return tf.lite.TFLiteConverter.from_concrete_functions(
            [mean.get_concrete_function()]
        ).convert()

    def read(self, content, path, name, **settings):
        path.write_bytes(content)
        (tensor,) = LiteModel(path).output_tensors
        names = {tensor: name} if name else {}
        path.write_bytes(
            metadata.write(content, "x", "", outputs=names, **settings)
        )
        return in_node("metadata.js", self.READ, path)

    @pytest.mark.parametrize("name", [metadata.PROBABILITY, metadata.LOGIT])
    def test_classifier(self, content, tmp_path, name):
        found = self.read(
            content,
            tmp_path / "x.tflite",
            name,
            normalization=(10.0, 20.5),
            labels=self.LABELS,
        )
        assert found == {
            "labels": self.LABELS,
            "normalization": {"mean": 10, "std": 20.5},
            "output": {
                "name": "Identity",
                "isLogits": name == metadata.LOGIT,
                "step": 1,
                "zero": 0,
            },
        }

    def test_integers(self, tmp_path):
        """Several outputs, in the order of the signature, and their steps."""
        path = tmp_path / "x.tflite"
        path.write_bytes(two_outputs())
        model = LiteModel(path)
        features, classes = model.output_tensors
        path.write_bytes(
            metadata.write(
                path.read_bytes(),
                "x",
                "",
                outputs={classes: metadata.LOGIT},
                normalization=(127.5, 127.5),
            )
        )
        found = in_node("metadata.js", self.READ, path)["output"]
        assert found["name"] == "output_1"
        assert found["isLogits"]
        details = LiteModel(path)._outputs[1]
        assert details["index"] == classes
        step, zero = details["quantization"]
        assert found["step"] == pytest.approx(step)
        assert found["step"] < 1
        assert found["zero"] == zero == 255

    def test_other_files(self, content, tmp_path):
        path = tmp_path / "x.tflite"
        found = self.read(content, path, None, normalization=(0.0, 1.0))
        assert found == "The file is no classifier: it returns features."
        path.write_bytes(content)
        message = in_node("metadata.js", self.READ, path)
        assert "does not say how images have to be scaled" in message


def two_outputs():
    """Returns a file for integers with two outputs of the same shape."""
    import keras
    import tensorflow as tf

    image = keras.Input((8, 8, 3), batch_size=1)
    features = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, [features, features - 0.5])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    noise = np.random.default_rng(0).uniform(-1, 1, (8, 1, 8, 8, 3))
    converter.representative_dataset = lambda: (
        [x.astype("float32")] for x in noise
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.uint8
    return converter.convert()


def test_numbers():
    """Pixels are scaled as the file says, and logits become shares."""
    scaled = in_node(
        "numbers.js",
        '["float32", "uint8"].map((dtype) => Array.from('
        "page.toInput([0, 30], dtype, {mean: 10, std: 20})))",
    )
    assert scaled == [[-0.5, 1], [0, 30]]
    # Of independent classes, so they need not add up to 1.
    probabilities = in_node(
        "numbers.js",
        "page.toProbabilities([64, 256],"
        " {isLogits: false, step: 1 / 256, zero: 0})",
    )
    assert probabilities == [0.25, 1]
    shares = in_node(
        "numbers.js",
        "page.toProbabilities([130, 130, 1],"
        " {isLogits: true, step: 100, zero: 128})",
    )
    assert shares == [0.5, 0.5, 0]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the page, its packages and a network."""
    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    for program in ("node", "npm", chromium):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    cache = os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")
    packages = pathlib.Path(cache) / "keras_nasnet-web"
    packages.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["npm", "install", "--silent", "--prefix", packages, *PACKAGES]
    )
    if done.returncode:
        pytest.skip("npm cannot install packages")
    folder = tmp_path_factory.mktemp("web") / "site"
    shutil.copytree(
        ROOT / "examples" / "web",
        folder,
        ignore=shutil.ignore_patterns("node_modules", "*.tflite"),
    )
    (folder / "node_modules").symlink_to(packages / "node_modules")
    shutil.copy(ROOT / "tests" / "web_page.mjs", folder)
    return folder


@pytest.fixture(scope="module")
def url(site):
    handler = functools.partial(QuietHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def visit(site, url):
    done = subprocess.run(
        ["node", site / "web_page.mjs", url, CAT, site / "screenshot.png"],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert not result["foreign"]
    return result


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_photograph(site, url, quantization):
    path = site / f"{quantization}.tflite"
    keras_nasnet.export_tflite(
        keras_nasnet.NASNetTiny(),
        path,
        quantization,
        representative_data=str(CAT.parent),
        io_dtype="uint8" if quantization else "float32",
        verbose=False,
    )
    result = visit(site, f"{url}?model={path.name}")
    assert not result["errors"]
    names = [name for name, _ in result["answers"]]
    assert len(names) == 5
    # The browser scales images in its own way.
    expected = LiteModel(path).classify(CAT)
    assert names[0] == expected[0].name
    shown = float(result["answers"][0][1].rstrip(" %"))
    assert shown == pytest.approx(100 * expected[0].probability, abs=20)


def test_missing_network(site, url):
    result = visit(site, f"{url}?model=none.tflite")
    assert result["status"] == "There is no file none.tflite beside this page."
    assert not result["answers"]


def test_missing_packages(site, url):
    bare = site / "bare"
    bare.mkdir()
    for path in site.glob("*.*"):
        if path.suffix in (".html", ".js"):
            shutil.copy(path, bare)
    result = visit(site, f"{url}bare/")
    assert "Run npm install beside it" in result["status"]
