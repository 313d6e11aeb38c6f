"""The page in examples/web classifies a photograph in a real browser."""

import functools
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import threading

import pytest

import keras_nasnet
from tests.conftest import ROOT

pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")
from keras_nasnet.litert import LiteModel  # noqa: E402

CAT = ROOT / "examples" / "images" / "cat.jpg"
PACKAGES = ["@litertjs/core@2.5.3", "playwright-core@1.64.1"]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


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
