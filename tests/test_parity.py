"""Equal to keras.applications with the same weights, cell by cell."""

import dataclasses

import keras
import pytest

import keras_nasnet
from keras_nasnet.weights.convert_keras_applications import copy_weights
from tests.networks import images
from tests.networks import randomize
from tests.networks import relative_difference
from tests.networks import run

pytestmark = pytest.mark.skipif(
    keras.config.backend() == "torch",
    reason="keras.applications refuses to build NASNetMobile on torch",
)

TOLERANCE = 1e-5

NUM_CELLS = {"NASNetMobile": 4, "NASNetLarge": 6}
# Of the images. The first of each are the published ones.
SIZES = {
    "NASNetMobile": [
        (224, 224),
        (32, 32),
        (96, 96),
        (225, 225),
        (33, 47),
        (224, 300),
    ],
    "NASNetLarge": [
        (331, 331),
        (32, 32),
        (96, 96),
        (225, 225),
        (33, 47),
        (224, 300),
    ],
}


@dataclasses.dataclass
class Pair:
    """A network of keras.applications and ours with the same weights."""

    name: str

    def __post_init__(self):
        self.factory = getattr(keras_nasnet, self.name)
        self.reference = getattr(keras.applications, self.name)
        logits = {"weights": None, "classifier_activation": None}
        self.theirs = randomize(self.reference(**logits))
        self.ours = self.factory(**logits)
        copy_weights(self.theirs, self.ours)
        self.layers = layer_table(NUM_CELLS[self.name])

    def their_features(self, size):
        """Returns their network without top for one image size."""
        model = self.reference((*size, 3), include_top=False, weights=None)
        # All but kernel and bias of the classifier.
        model.set_weights(self.theirs.get_weights()[:-2])
        return model

    def our_features(self):
        """Returns our network without top for all image sizes."""
        model = self.factory((None, None, 3), include_top=False, weights=None)
        model.set_weights(self.ours.get_weights()[:-2])
        return model


def layer_table(num_cells):
    """Maps our layers to the layers of theirs with the same output."""
    table = {
        "stem": "stem_bn1",
        "cell_stem_0": "reduction_concat_stem_1",
        "cell_stem_1": "reduction_concat_stem_2",
        "reduction_cell_0": f"reduction_concat_reduce_{num_cells}",
        "reduction_cell_1": f"reduction_concat_reduce_{2 * num_cells}",
    }
    for i in range(3 * num_cells):
        # Their counter skips one at the first reduction only.
        their_number = i if i < num_cells else i + 1
        table[f"cell_{i}"] = f"normal_concat_{their_number}"
    return table


def with_outputs_of(model, names):
    """Returns a model with the outputs of these layers, then its own."""
    outputs = [model.get_layer(name).output for name in names]
    return keras.Model(model.input, [*outputs, model.output])


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(n, marks=pytest.mark.slow if n == "NASNetLarge" else ())
        for n in NUM_CELLS
    ],
)
def pair(request):
    return Pair(request.param)


def test_every_cell_without_top(pair):
    ours = with_outputs_of(pair.our_features(), pair.layers.keys())
    names = [*pair.layers, "the network"]
    for size in SIZES[pair.name]:
        theirs = with_outputs_of(
            pair.their_features(size), pair.layers.values()
        )
        inputs = images(1, *size, 3)
        for name, outputs, expected in zip(
            names, run(ours, inputs), run(theirs, inputs), strict=True
        ):
            difference = relative_difference(outputs, expected)
            assert difference < TOLERANCE, f"{name} at {size}"


@pytest.mark.parametrize("size", [(96, 96), (33, 47)])
def test_logits_at_other_sizes(pair, size):
    logits = {"weights": None, "classifier_activation": None}
    theirs = pair.reference((*size, 3), **logits)
    theirs.set_weights(pair.theirs.get_weights())
    ours = pair.factory((None, None, 3), **logits)
    ours.set_weights(pair.ours.get_weights())
    inputs = images(1, *size, 3)
    expected = run(theirs, inputs)
    assert relative_difference(run(ours, inputs), expected) < TOLERANCE


def test_logits(pair):
    inputs = images(2, *pair.theirs.input_shape[1:])
    logits = run(pair.ours, inputs)
    assert relative_difference(logits, run(pair.theirs, inputs)) < TOLERANCE
    # Logits that do not depend on the image would make the comparison blind.
    assert relative_difference(logits[:1], logits[1:]) > 100 * TOLERANCE
