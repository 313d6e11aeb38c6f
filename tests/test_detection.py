"""Faster R-CNN: its parts against plain loops, and what it learns."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from PIL import Image
from PIL import ImageColor

from keras_nasnet import Block
from keras_nasnet import CellGenotype
from keras_nasnet import Genotype
from keras_nasnet import cli
from keras_nasnet import detection
from keras_nasnet.cli import main
from keras_nasnet.detection import pictures
from keras_nasnet.detection import targets
from keras_nasnet.detection.cutting import cut
from keras_nasnet.detection.roi_align import roi_align
from keras_nasnet.detection.suppression import suppress
from tests.networks import images
from tests.networks import randomize
from tests.networks import small_network

# Cheap, but it sees what is near.
_CELL = CellGenotype([Block(("sep_conv_3x3", 0), ("avg_pool_3x3", 1))])
CHEAP = Genotype(_CELL, _CELL, "cheap")
COLOURS = ((1.0, -1.0, -1.0), (-1.0, 1.0, -1.0))
SMALL = {
    "anchor_sizes": (8, 16),
    "proposals": 16,
    "region_size": 4,
    "region_samples": 16,
    "proposal_filters": 32,
    "max_detections": 10,
}


def detector(num_classes=2, **kwargs):
    """Returns a small detector."""
    network = randomize(
        small_network(genotype=CHEAP, penultimate_filters=64, bn_momentum=0.9)
    )
    return detection.FasterRCNN(network, num_classes, **{**SMALL, **kwargs})


def random_boxes(*shape, size=32, seed=0):
    """Returns boxes of at least a pixel inside images of a size."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, size - 2, (*shape, 2))
    other = corner + rng.uniform(1, size - corner)
    return np.concatenate([corner, other], -1).astype("float32")


def run(function, *args):
    """Returns what a function returns, as an array."""
    return ops.convert_to_numpy(function(*args))


def iou(a, b):
    """Returns the overlap of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return both / (sum(areas) - both)


def scene(count=2, size=32, seed=0):
    """Returns images with one coloured box each, and their annotations."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-0.2, 0.2, (count, size, size, 3)).astype("float32")
    boxes = np.full((count, 2, 4), -1, "float32")
    labels = np.full((count, 2), -1, "int32")
    for i in range(count):
        left, top = rng.integers(2, size // 2, 2)
        width, height = rng.integers(8, 14, 2)
        boxes[i, 0] = (left, top, left + width, top + height)
        labels[i, 0] = i % 2
        x[i, top : top + height, left : left + width] = COLOURS[i % 2]
    return x, {"boxes": boxes, "labels": labels}


def step(model, x, y):
    """Trains one step, and returns the losses."""
    if not model.compiled:
        model.compile(keras.optimizers.SGD(0.01), jit_compile=False)
    logs = model.train_on_batch(x, y, return_dict=True)
    assert all(np.isfinite(value) for value in logs.values()), logs
    for weight in model.weights:
        assert np.isfinite(ops.convert_to_numpy(weight)).all(), weight.path
    return logs


@pytest.mark.parametrize("height, width", [(8, 12), (9, 10)])
def test_anchors(height, width):
    model = detector(anchor_strides=4, aspect_ratios=(0.5, 2.0))
    image = np.zeros((1, height, width, 3))
    anchors = run(model.anchors, image)
    expected = []
    for y in range(0, height, 4):
        for x in range(0, width, 4):
            for size in (8, 16):
                for ratio in (0.5, 2.0):
                    half = np.array([ratio**-0.5, ratio**0.5]) * size / 2
                    expected.append(np.array([x, y, x, y]) + [*-half, *half])
    # KerasHub rounds to whole pixels.
    assert np.abs(anchors - np.array(expected)).max() <= 0.5
    # What lies at the same place of the feature map is anchored there.
    outputs = model(image, training=True)
    assert outputs["objectness"].shape == (1, len(expected))


def test_deltas():
    anchors, boxes = random_boxes(50), random_boxes(50, seed=1)
    deltas = ops.convert_to_numpy(targets.encode(anchors, boxes))
    for anchor, box, delta in zip(anchors, boxes, deltas):
        width, height = anchor[2:] - anchor[:2]
        center = (box[:2] + box[2:]) / 2 - (anchor[:2] + anchor[2:]) / 2
        expected = [
            center[1] / height / 0.1,
            center[0] / width / 0.1,
            np.log((box[3] - box[1]) / height) / 0.2,
            np.log((box[2] - box[0]) / width) / 0.2,
        ]
        np.testing.assert_allclose(delta, expected, rtol=1e-3, atol=1e-3)
    decoded = targets.decode(anchors, deltas)
    np.testing.assert_allclose(decoded, boxes, rtol=1e-4, atol=1e-3)


def test_deltas_of_an_untrained_network_stay_finite():
    huge = np.full((1, 4), 1e9, "float32")
    for deltas in (huge, -huge):
        assert np.isfinite(run(targets.decode, random_boxes(1), deltas)).all()


def test_clip():
    boxes = np.array([[-5, -6, 40, 50], [33, 3, 60, 9], [1, 2, 3, 4.0]])
    assert run(targets.clip, boxes, 20, 32).tolist() == [
        [0, 0, 32, 20],
        [32, 3, 32, 9],
        [1, 2, 3, 4],
    ]


@pytest.mark.parametrize("keep_best", [True, False])
def test_match(keep_best):
    candidates = random_boxes(60)
    candidates[3] = [5, 5, 5, 9]
    boxes = random_boxes(2, 4, seed=1)
    labels = np.array([[0, 1, -1, 2], [-1, -1, -1, -1]])
    found = [
        ops.convert_to_numpy(x)
        for x in targets.match(candidates, boxes, labels, 0.4, 0.2, keep_best)
    ]
    kinds = set()
    for i in range(2):
        table = np.array(
            [
                [
                    iou(candidate, box) if label >= 0 else 0.0
                    for box, label in zip(boxes[i], labels[i])
                ]
                for candidate in candidates
            ]
        )
        for j, row in enumerate(table):
            is_best = any(
                row[k] > 0 and row[k] == table[:, k].max() for k in range(4)
            )
            positive = row.max() >= 0.4 or (keep_best and is_best)
            negative = not positive and row.max() < 0.2 and j != 3
            assert found[1][i, j] == positive
            assert found[2][i, j] == negative
            if positive:
                assert found[0][i, j] == row.argmax()
            kinds.add((positive, negative, is_best))
    assert len(kinds) >= 3


def test_match_leaves_images_without_boxes_alone():
    _, is_positive, is_negative = targets.match(
        random_boxes(9),
        np.full((1, 2, 4), -1.0, "float32"),
        np.full((1, 2), -1),
        0.5,
        0.5,
        keep_best=True,
    )
    assert not np.any(is_positive) and np.all(is_negative)


def test_sample():
    rng = np.random.default_rng(0)
    shares = np.array([[0.5], [0.02], [0], [1], [0.02]])
    is_positive = rng.random((5, 200)) < shares
    is_negative = ~is_positive & (rng.random((5, 200)) < 0.8)
    is_negative[1, 20:] = False
    seed = keras.random.SeedGenerator(0)
    draws = []
    for _ in range(2):
        places, is_used = (
            ops.convert_to_numpy(x)
            for x in targets.sample(is_positive, is_negative, 32, 0.25, seed)
        )
        draws.append(places)
        for i in range(5):
            drawn = places[i][is_used[i]]
            assert len(set(drawn)) == len(drawn)
            positive = is_positive[i, drawn].sum()
            assert positive == min(8, is_positive[i].sum())
            negative = is_negative[i, drawn].sum()
            assert negative == min(32 - positive, is_negative[i].sum())
            assert positive + negative == len(drawn)
    assert (draws[0] != draws[1]).any()


def test_sample_of_few():
    places, is_used = targets.sample(
        np.array([[True, False]]),
        np.array([[False, True]]),
        2,
        0.01,
        keras.random.SeedGenerator(0),
    )
    assert sorted(places[0]) == [0, 1] and np.all(is_used)


def test_roi_align():
    features = images(2, 6, 9, 3)
    # Also beyond the border, and without area.
    boxes = random_boxes(2, 5, size=24) - 4
    boxes[0, 0] = [3, 3, 3, 3]
    crops = run(roi_align, features, boxes, 3, 4)
    for i in range(2):
        for b, (left, top, right, bottom) in enumerate(boxes[i] / 4):
            for row in range(3):
                for column in range(3):
                    y = top + (bottom - top) * (row + 0.5) / 3 - 0.5
                    x = left + (right - left) * (column + 0.5) / 3 - 0.5
                    y, x = np.clip(y, 0, 5), np.clip(x, 0, 8)
                    expected = 0
                    for r in range(6):
                        for c in range(9):
                            near = max(0, 1 - abs(y - r))
                            near *= max(0, 1 - abs(x - c))
                            expected = expected + near * features[i, r, c]
                    np.testing.assert_allclose(
                        crops[i, b, row, column], expected, atol=1e-5
                    )


def test_roi_align_agrees_with_crop_and_resize():
    size, strides = 5, 2
    features = images(2, 8, 10, 4)
    boxes = random_boxes(2, 6, size=16)
    # TensorFlow samples from corner to corner, here from the first bin's
    # center to the last one's, between the centers of the image's corners.
    inner = boxes / strides - 0.5
    bins = (inner[..., 2:] - inner[..., :2]) / size
    inner += np.concatenate([bins, -bins], -1) / 2
    relative = inner / (np.array([10, 8, 10, 8]) - 1)
    # Beyond the border it does something else.
    inside = ((relative >= 0) & (relative <= 1)).all(-1)
    assert inside.sum() > 6
    expected = tf.image.crop_and_resize(
        features,
        relative.reshape(-1, 4)[:, [1, 0, 3, 2]],
        np.repeat([0, 1], 6),
        (size, size),
    )
    crops = run(roi_align, features, boxes, size, strides)
    np.testing.assert_allclose(
        crops[inside],
        expected.numpy().reshape(crops.shape)[inside],
        atol=1e-5,
    )


@pytest.mark.parametrize("overlap", [0.2, 0.6])
def test_suppression(overlap):
    boxes = random_boxes(3, 40)
    boxes[0, 5] = boxes[0, 6]
    rng = np.random.default_rng(2)
    scores = rng.permuted(np.linspace(0, 1, 120)).reshape(3, 40)
    scores = scores.astype("float32")
    kept, exists = (
        ops.convert_to_numpy(x)
        for x in suppress(boxes, scores, overlap, 0.3, 9)
    )
    for i in range(3):
        expected = []
        for j in np.argsort(-scores[i]):
            if scores[i, j] > 0.3 and all(
                iou(boxes[i, j], boxes[i, k]) <= overlap for k in expected
            ):
                expected.append(j)
        expected = expected[:9]
        assert kept[i][exists[i]].tolist() == expected
        assert not exists[i, len(expected) :].any()


def test_suppression_of_any_number_of_images():
    function = tf.function(
        lambda boxes, scores: suppress(boxes, scores, 0.5, 0.0, 5),
        input_signature=[
            tf.TensorSpec((None, 20, 4)),
            tf.TensorSpec((None, 20)),
        ],
        jit_compile=False,
    )
    boxes, scores = random_boxes(3, 20), np.random.rand(3, 20)
    kept, _ = function(boxes, scores.astype("float32"))
    expected, _ = suppress(boxes, scores.astype("float32"), 0.5, 0.0, 5)
    np.testing.assert_array_equal(kept, expected)


def test_classes_do_not_suppress_each_other():
    model = detector(min_score=0.2, proposals=3)
    regions = np.array([[[2, 2, 20, 20], [3, 3, 21, 20], [22, 22, 30, 30]]])
    logits = np.array([[[0, 3, 2.8], [0, 2, 2.9], [0, -9, -9]]])
    model._propose = lambda *_: ops.convert_to_tensor(regions, "float32")
    model._classify = lambda *_: (
        ops.convert_to_tensor(logits, "float32"),
        ops.zeros((1, 3, 2, 4)),
    )
    found = model._detect(np.zeros((1, 32, 32, 3)), {"features": None})
    found = {k: ops.convert_to_numpy(v) for k, v in found.items()}
    # Best of each class; the overlapping other one of the class is gone.
    assert found["labels"][0].tolist() == [1, 0] + [-1] * 8
    np.testing.assert_allclose(
        found["boxes"][0, :2], [[3, 3, 21, 20], [2, 2, 20, 20]], atol=1e-3
    )
    shares = np.exp(logits[0]) / np.exp(logits[0]).sum(-1, keepdims=True)
    np.testing.assert_allclose(
        found["scores"][0, :3], [shares[1, 2], shares[0, 1], -1], rtol=1e-5
    )


def test_named_suppression_is_that_of_keras_hub():
    layer = detection.NamedNonMaxSuppression(
        ["cat", "dog"], bounding_box_format="xyxy", from_logits=False
    )
    layer = keras.layers.deserialize(keras.layers.serialize(layer))
    assert layer.class_names == ["cat", "dog"]
    boxes = np.array([[[2, 2, 20, 20], [2, 2, 20, 22]]], "float32")
    scores = np.array([[[0.9, 0.1], [0.2, 0.8]]], "float32")
    found = layer(boxes, scores)
    # What the documentation says: of two classes, yet suppressed.
    assert found["num_detections"] == 1 and found["labels"][0, 0] == 0


@pytest.mark.parametrize("stem, strides", [("cifar", 2), ("imagenet", 16)])
def test_cut_network_computes_what_the_whole_one_does(stem, strides):
    network = randomize(
        small_network((96, 96, 3), stem, aux_head=True, skip_reduction=True)
    )
    _, trunk, region_network, found = cut(network)
    assert found == strides
    x = images(1, 96, 96, 3)
    features = keras.Model(
        network.input, network.get_layer("final_relu").output
    )
    between = trunk(x)
    assert {tuple(y.shape[1:3]) for y in between} == {(96 // strides,) * 2}
    np.testing.assert_allclose(
        region_network(between), features(x), rtol=1e-3, atol=1e-4
    )
    # Other sizes too.
    trunk(images(1, 64, 96, 3))


def test_images_of_any_size_are_filled_up():
    network = randomize(small_network((None, None, 3), "imagenet"))
    reduction = network.get_layer("reduction_cell_1")
    before_reduction = keras.Model(network.input, reduction.input)
    model = detection.FasterRCNN(network, 2, **SMALL, anchor_strides=32)
    # A pixel too many, which the network's stem would round down.
    x = images(1, 97, 70, 3)
    filled_up = np.zeros((1, 128, 96, 3), "float32")
    filled_up[:, :97, :70] = x
    outputs = model(x, training=True)
    np.testing.assert_allclose(
        outputs["features"],
        np.concatenate(before_reduction(filled_up), axis=-1),
        rtol=1e-3,
        atol=1e-4,
    )
    anchors = run(model.anchors, x)
    assert outputs["objectness"].shape == (1, len(anchors))
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert {tuple(center) for center in np.round(centers)} == {
        (x, y) for x in (0, 32, 64) for y in (0, 32, 64, 96)
    }


def test_cut_refuses_what_it_cannot_cut():
    other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.ReLU()])
    with pytest.raises(ValueError, match="`backbone` must be a network of"):
        detection.FasterRCNN(other, 2)


@pytest.fixture(scope="module")
def trained():
    """A detector after many looks at a few images, and these."""
    keras.utils.set_random_seed(0)
    x, y = scene(4)
    model = detector(train_batch_norm=True)
    model.compile(keras.optimizers.Adam(5e-3), jit_compile=False)
    history = model.fit(x, y, batch_size=4, epochs=150, verbose=0).history
    return model, x, y, history


def test_learns(trained):
    model, x, y, history = trained
    assert set(history) == {
        "loss",
        "objectness_loss",
        "proposal_box_loss",
        "classification_loss",
        "box_loss",
    }
    assert history["loss"][-1] < 0.2 * history["loss"][0]
    found = model.predict(x, batch_size=3, verbose=0)
    assert set(found) == {"boxes", "labels", "scores"}
    for i in range(len(x)):
        assert found["labels"][i, 0] == y["labels"][i, 0]
        assert iou(found["boxes"][i, 0], y["boxes"][i, 0]) > 0.6
        assert found["scores"][i, 0] > 0.7
    losses = model.evaluate(x, y, verbose=0, return_dict=True)
    assert np.isfinite(losses["loss"])


def test_finds_the_same_in_images_of_odd_size(trained):
    model, x, y, _ = trained
    model.predict(x, verbose=0)
    found = model.predict(x[:, 1:, 2:31], verbose=0)
    for i in range(len(x)):
        assert found["labels"][i, 0] == y["labels"][i, 0]
        moved = y["boxes"][i, 0] - (2, 1, 2, 1)
        assert iou(found["boxes"][i, 0], moved) > 0.6
    assert (found["boxes"] <= (29, 31, 29, 31)).all()


def test_saving(trained, tmp_path):
    model, x, y, _ = trained
    expected = model.predict(x, verbose=0)
    assert (expected["scores"] > 0).any()
    model.save(tmp_path / "detector.keras")
    loaded = keras.saving.load_model(tmp_path / "detector.keras")
    assert loaded.get_config() == model.get_config()
    found = loaded.predict(x, verbose=0)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4)
    step(loaded, x, y)


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm(train):
    model = detector(train_batch_norm=train)
    norms = [
        layer
        for layer in model.backbone._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(norms) > 10
    x, y = scene()
    before = [layer.get_weights() for layer in norms]
    step(model, x, y)
    for layer, old in zip(norms, before):
        same = [np.array_equal(a, b) for a, b in zip(layer.get_weights(), old)]
        assert same == [not train] * 4, layer.path


def huber(difference):
    large = abs(difference)
    return 0.5 * large**2 if large <= 1 else large - 0.5


def test_losses(monkeypatch):
    """All four parts, against plain loops."""

    def sample(is_positive, is_negative, count, share, seed):
        score = ops.cast(is_positive, "int32") * 2
        score += ops.cast(is_negative, "int32")
        score, places = ops.top_k(score, count)
        return places, score > 0

    monkeypatch.setattr(targets, "sample", sample)
    model = detector()
    x, y = scene(4)
    outputs = model(x, training=True)
    model.compute_loss(x=ops.convert_to_tensor(x), y=y, y_pred=outputs)
    found = {k: float(v.result()) for k, v in model.loss_parts.items()}

    anchors = model.anchors(ops.convert_to_tensor(x))
    regions = ops.concatenate(
        [model._propose(ops.convert_to_tensor(x), outputs), y["boxes"]], axis=1
    )
    expected = dict.fromkeys(found, 0.0)
    for kind, candidates, positive, negative, count in (
        ("proposal", anchors, 0.7, 0.3, 256),
        ("region", regions, 0.5, 0.5, 16),
    ):
        is_proposal = kind == "proposal"
        match, is_positive, is_negative = targets.match(
            candidates, y["boxes"], y["labels"], positive, negative, is_proposal
        )
        places, used = sample(is_positive, is_negative, count, 0.5, None)
        places, used, match, is_positive, boxes = map(
            ops.convert_to_numpy,
            (places, used, match, is_positive, candidates),
        )
        if is_proposal:
            # Some learn where boxes are, some do not count.
            assert 0 < is_positive.sum() < 40
            assert not ops.convert_to_numpy(is_negative)[~is_positive].all()
            logits = ops.convert_to_numpy(outputs["objectness"])
            deltas = ops.convert_to_numpy(outputs["anchor_deltas"])
        else:
            chosen = np.take_along_axis(boxes, places[..., None], axis=1)
            logits, deltas = map(
                ops.convert_to_numpy,
                model._classify(outputs["features"], chosen, True),
            )
        classes = places_loss = 0.0
        for i, row in enumerate(places):
            for k, place in enumerate(row):
                if not used[i, k]:
                    continue
                box = boxes[place] if is_proposal else boxes[i, place]
                truth = match[i, place]
                label = y["labels"][i, truth]
                if is_proposal:
                    z = logits[i, place]
                    classes += np.log1p(np.exp(z)) - z * is_positive[i, place]
                    predicted = deltas[i, place]
                else:
                    z = logits[i, k]
                    right = 1 + label if is_positive[i, place] else 0
                    classes += np.log(np.exp(z).sum()) - z[right]
                    predicted = deltas[i, k, label]
                if is_positive[i, place]:
                    wanted = run(targets.encode, box, y["boxes"][i, truth])
                    places_loss += sum(map(huber, wanted - predicted))
        names = ("objectness", "proposal_box")
        if not is_proposal:
            names = ("classification", "box")
        expected[names[0]] = classes / used.sum()
        expected[names[1]] = 2 * places_loss / used.sum()
    assert min(expected.values()) > 0
    assert found == pytest.approx(expected, rel=1e-3)


def test_frozen_layers_stay_as_they_are():
    network = randomize(
        small_network(genotype=CHEAP, penultimate_filters=64, bn_momentum=0.9)
    )
    for name in ("stem", "cell_0"):
        network.get_layer(name).trainable = False
    model = detection.FasterRCNN(network, 2, train_batch_norm=True, **SMALL)
    layers = [model.backbone.get_layer(name) for name in ("stem", "cell_0")]
    frozen = {id(v) for layer in layers for v in layer.variables}
    assert not frozen & {id(v) for v in model.trainable_variables}
    before = [layer.get_weights() for layer in layers]
    last = model.backbone.get_layer("cell_1").get_weights()
    step(model, *scene())
    for layer, old in zip(layers, before):
        for a, b in zip(layer.get_weights(), old):
            np.testing.assert_array_equal(a, b)
    after = model.backbone.get_layer("cell_1").get_weights()
    assert any((a != b).any() for a, b in zip(after, last))


def test_weights_of_images_are_refused():
    x, y = scene()
    model = detector()
    model.compile("sgd", jit_compile=False)
    with pytest.raises(ValueError, match="no `sample_weight`"):
        model.train_on_batch(x, y, sample_weight=np.ones(2))


def test_one_step_trains_both_halves():
    model = detector()
    x, y = scene()
    before = [ops.convert_to_numpy(w).copy() for w in model.trainable_weights]
    step(model, x, y)
    for weight, old in zip(model.trainable_weights, before):
        assert (ops.convert_to_numpy(weight) != old).any(), weight.path


def test_the_network_of_a_user_stays_as_it_is():
    network = randomize(small_network())
    trainable = len(network.trainable_weights)
    model = detection.FasterRCNN(network, 2, **SMALL)
    before = network.get_weights()
    step(model, *scene())
    assert len(network.trainable_weights) == trainable
    for weight, old in zip(network.get_weights(), before):
        np.testing.assert_array_equal(weight, old)


class TestUnusualImages:
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls):
        return detector(num_classes=2)

    def check(self, model, boxes, labels, x=None):
        boxes = np.asarray(boxes, "float32")
        if x is None:
            x = images(len(boxes), 32, 32, 3)
        y = {"boxes": boxes, "labels": np.asarray(labels)}
        logs = step(model, x, y)
        found = model.predict(x, verbose=0)
        for name, values in found.items():
            assert np.isfinite(values).all(), name
        return logs

    def test_without_objects(self, model):
        logs = self.check(model, np.full((2, 3, 4), -1), np.full((2, 3), -1))
        assert logs["box_loss"] == logs["proposal_box_loss"] == 0
        assert logs["classification_loss"] > 0

    def test_without_room_for_objects(self, model):
        logs = self.check(model, np.zeros((2, 0, 4)), np.zeros((2, 0)))
        assert logs["box_loss"] == 0 and logs["classification_loss"] > 0

    def test_outside_and_without_area(self, model):
        boxes = [[[-9, -9, -2, -3], [40, 3, 50, 9], [5, 5, 5, 9]]]
        logs = self.check(model, boxes, [[0, 1, 1]])
        assert logs["box_loss"] == logs["proposal_box_loss"] == 0

    def test_across_the_border(self, model):
        logs = self.check(model, [[[20, 20, 40, 44]]], [[1]])
        assert logs["proposal_box_loss"] > 0

    def test_hundreds_of_objects(self, model):
        self.check(model, random_boxes(1, 400), np.arange(400)[None] % 2)

    def test_objects_of_a_pixel(self, model):
        self.check(model, [[[3, 3, 3.01, 3.01]]], [[0]])

    def test_padding(self, model):
        # What is filled up teaches nothing about boxes.
        x, y = scene()
        x[:, :, 24:] = 0
        self.check(model, y["boxes"], y["labels"], x)

    def test_one_class(self):
        model = detector(num_classes=1)
        x, y = scene()
        y["labels"] = np.minimum(y["labels"], 0)
        step(model, x, y)
        assert set(np.unique(model.predict(x, verbose=0)["labels"])) <= {-1, 0}

    def test_size(self):
        model = detector()
        self.check(model, [[[3, 3, 30, 20]]], [[1]], images(1, 33, 31, 3))
        with pytest.raises(ValueError, match="a known height and width"):
            model(keras.Input((None, 32, 3)))


def test_16_bit():
    x, y = scene()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = detector()
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.proposer.compute_dtype == "bfloat16"
    step(model, x, y)
    assert model.predict(x, verbose=0)["boxes"].dtype == "float32"


def test_names_and_strides_are_checked():
    with pytest.raises(ValueError, match="`class_names` must have one name"):
        detector(class_names=["one"])
    # Of strides of 2.
    for strides in (1, 3, 6, -2):
        with pytest.raises(ValueError, match="`anchor_strides` must be 2, the"):
            detector(anchor_strides=strides)


def test_importing_the_package_leaves_keras_hub_alone():
    code = (
        "import sys, keras_nasnet; assert 'keras_hub' not in sys.modules\n"
        "sys.modules['keras_hub'] = None\n"
        "from keras_nasnet import detection"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert result.stderr.strip().endswith(
        'Detection needs keras-hub: pip install "keras_nasnet[detection]"'
    )


def test_export(trained, tmp_path):
    model, x, _, _ = trained
    path = str(tmp_path / "exported")
    assert detection.export(model, path, image_size=32) < 1e-2
    loaded = tf.saved_model.load(path).signatures["serving_default"]
    expected = model.predict(x, verbose=0)
    # Of any number of images.
    for count in (1, 3):
        found = loaded(images=tf.constant(x[:count]))
        assert set(found) == set(expected)
        for name in expected:
            np.testing.assert_allclose(
                found[name], expected[name][:count], atol=1e-3
            )
    with pytest.raises(ValueError, match="`path` must not exist yet"):
        detection.export(model, path, image_size=32)
    with pytest.raises(ValueError, match="`image_size` must be given"):
        detection.export(model, str(tmp_path / "other"))


def test_export_that_differs(trained, tmp_path, monkeypatch):
    """In noise nothing is found, and the difference is seen all the same."""
    model, _, _, _ = trained
    bias = model.region_deltas.bias
    right = ops.convert_to_numpy(bias).copy()
    save = tf.saved_model.save

    def save_and_change(*args):
        save(*args)
        bias.assign(right + 1)

    monkeypatch.setattr(tf.saved_model, "save", save_and_change)
    try:
        with pytest.raises(ValueError, match="answers something else"):
            detection.export(model, str(tmp_path / "x"), image_size=32)
    finally:
        bias.assign(right)
    assert not list(tmp_path.iterdir())


def test_command(trained, tmp_path, monkeypatch, capsys):
    model, x, y, _ = trained
    config = {**model.get_config(), "image_size": 32}
    named = type(model).from_config({**config, "class_names": ["red", "green"]})
    named.build((None, 32, 32, 3))
    named.set_weights(model.get_weights())
    named.save(tmp_path / "detector.keras")
    # So large that its drawing is smaller.
    large = np.repeat(np.repeat(x[0], 30, 0), 30, 1)
    pixels = np.round((large + 1) * 127.5).astype("uint8")
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    (tmp_path / "bad.png").write_text("no image")
    monkeypatch.chdir(tmp_path)
    command = "detect photo.png bad.png --model detector.keras --out found"
    assert main(command.split()) == 1
    output, errors = capsys.readouterr()
    assert "bad.png is not an image" in errors
    assert os.listdir(tmp_path / "found") == ["photo.png"]
    first = output.splitlines()[1].split()
    assert first[1] == ["red", "green"][y["labels"][0, 0]]
    box = np.array([float(n) for n in first[2:]])
    assert iou(box, 30 * y["boxes"][0, 0]) > 0.5
    picture = np.asarray(Image.open(tmp_path / "found" / "photo.png"))
    assert picture.shape == (800, 800, 3)
    # The box is drawn where it is in the smaller picture.
    left, top, right, bottom = (box * 800 / 960).astype(int)
    colours = {ImageColor.getrgb(colour) for colour in pictures.COLOURS}
    edge = picture[bottom - 3 : bottom + 4, (left + right) // 2]
    assert colours & set(map(tuple, edge.tolist()))


def test_small_pictures_are_drawn_larger():
    image = np.zeros((30, 40, 3), "uint8")
    assert pictures.draw(image, []).size == (400, 300)


def test_command_leaves_its_images_alone(tmp_path, monkeypatch, capsys):
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    (tmp_path / "link").symlink_to(tmp_path)
    before = (tmp_path / "photo.png").read_bytes()
    monkeypatch.chdir(tmp_path)
    for folder in (".", "link"):
        # Before a detector is looked for.
        command = f"detect photo.png --model missing.keras --out {folder}"
        assert main(command.split()) == 2
        error = capsys.readouterr().err
        assert "--out must be a folder without" in error
        assert "photo.png is one of them" in error
    assert (tmp_path / "photo.png").read_bytes() == before


def test_command_draws_every_image_into_a_file_of_its_own():
    images = ["a/x.jpg", "x_1.jpg", "b/x.png", "c/x.png"]
    names = ["x.png", "x_1.png", "x_2.png", "x_3.png"]
    assert cli._drawings(images, "f") == [f"f/{name}" for name in names]


def test_command_wants_a_detector(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small_network(genotype=CHEAP, penultimate_filters=64).save("other.keras")
    for name, message in (
        ("other.keras", "is not a detector"),
        ("missing.keras", "there is no file"),
    ):
        command = f"detect x.png --model {name} --out y"
        assert main(command.split()) == 2
        assert message in capsys.readouterr().err
