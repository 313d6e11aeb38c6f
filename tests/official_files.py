"""Makes files in the layout of keras.applications' published weights."""

import dataclasses
import functools
import http.server
import inspect
import threading

import h5py
import keras

import keras_nasnet
from keras_nasnet import pretrained
from keras_nasnet.weights import convert_keras_applications
from keras_nasnet.weights import files
from tests.networks import images
from tests.networks import randomize
from tests.networks import run

# Of the small networks that stand for Mobile and Large.
SMALL = {
    "nasnet_mobile": {"num_blocks": 1, "penultimate_filters": 192},
    "nasnet_large": {"num_blocks": 2, "penultimate_filters": 192},
}
FACTORIES = {
    "nasnet_mobile": "NASNetMobile",
    "nasnet_large": "NASNetLarge",
}


def builder_module():
    """The module of keras.applications that has the general builder."""
    return inspect.getmodule(keras.applications.NASNetLarge)


def official_network(network, size=None):
    """Builds a network of keras.applications, as large as the tables say."""
    arguments = convert_keras_applications.OFFICIAL_ARGUMENTS[network]
    size = size or arguments["default_size"]
    model = builder_module().NASNet(
        input_shape=(size, size, 3), weights=None, **arguments
    )
    randomize(model)
    # Logits of a few units: else one class gets all the probability, whatever
    # the image.
    features = keras.Model(model.input, model.layers[-2].output)
    kernel = model.get_layer("predictions").kernel
    logits = keras.ops.matmul(run(features, images(1, size, size, 3)), kernel)
    kernel.assign(kernel / keras.ops.std(logits))
    return model


def without_top(model):
    """Returns a network of keras.applications without pool and classifier."""
    return keras.Model(model.input, model.layers[-3].output)


def save_official(model, path):
    """Writes the weights of a model as Keras 1 and 2 did."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [la.name.encode() for la in model.layers]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.1.5"
        for layer in model.layers:
            group = file.create_group(layer.name)
            weights = layer.trainable_weights + layer.non_trainable_weights
            names = [f"{layer.name}/{w.name}:0" for w in weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, weights):
                group.create_dataset(
                    name, data=keras.ops.convert_to_numpy(weight)
                )


def shrink(monkeypatch, shrunk=tuple(SMALL)):
    """Makes networks small on both sides, which saves minutes.

    Args:
        monkeypatch: What undoes it.
        shrunk: Names of the networks; the others cannot be read until then.

    Returns:
        The networks of keras.applications with random weights, by name.
    """
    models = {}
    networks = {}
    for network in shrunk:
        small = SMALL[network]
        arguments = convert_keras_applications.OFFICIAL_ARGUMENTS[network]
        monkeypatch.setitem(
            convert_keras_applications.OFFICIAL_ARGUMENTS,
            network,
            {**arguments, **small, "default_size": 64},
        )
        factory = FACTORIES[network]
        monkeypatch.setattr(
            keras_nasnet,
            factory,
            functools.partial(
                getattr(keras_nasnet, factory),
                num_cells=small["num_blocks"],
                penultimate_filters=small["penultimate_filters"],
            ),
        )
        models[network] = official_network(network)
        count = sum(len(la.weights) > 0 for la in models[network].layers)
        networks[count] = (network, True)
        networks[count - 1] = (network, False)
    monkeypatch.setattr(convert_keras_applications, "NETWORKS", networks)
    return models


def expect_files(monkeypatch, folder):
    """Makes the records expect the files in a folder, by their hash."""
    records = []
    for record in pretrained.KERAS_RECORDS:
        file = folder / record.url.rpartition("/")[2]
        if file.exists():
            hash = files.digest(file, "md5")
            record = dataclasses.replace(record, hash=hash)
        records.append(record)
    monkeypatch.setattr(pretrained, "KERAS_RECORDS", tuple(records))


class Mirror(http.server.ThreadingHTTPServer):
    """Serves a folder on this machine.

    Args:
        folder: Path of the folder.

    Attributes:
        requests: Paths that were asked for.
        share: Share of each file that is sent before the connection breaks.
        together: How many requests to wait for before any is answered.
    """

    def __init__(self, folder):
        self.requests = []
        self.share = 1.0
        self.together = threading.Barrier(1)
        super().__init__(
            ("127.0.0.1", 0),
            functools.partial(_Handler, directory=str(folder)),
        )
        self.url = f"http://127.0.0.1:{self.server_address[1]}/nasnet/"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.path = self.path.removeprefix("/nasnet")
        self.server.requests.append(self.path)
        self.server.together.wait(timeout=120)
        super().do_GET()

    def copyfile(self, source, outputfile):
        content = source.read()
        outputfile.write(content[: int(len(content) * self.server.share)])

    def log_message(self, *_):
        pass
