"""Faster R-CNN on the features of a network for classification."""

import math

import keras
import keras_hub
from keras import ops

from keras_nasnet.detection import targets
from keras_nasnet.detection.cutting import cut
from keras_nasnet.detection.roi_align import roi_align
from keras_nasnet.detection.suppression import suppress
from keras_nasnet.normalization import freeze_batch_norms

# As `faster_rcnn_nas` of the TF Object Detection API has them.
PROPOSAL_OVERLAP = 0.7
DETECTION_OVERLAP = 0.6
BOX_LOSS_WEIGHT = 2.0
# Anchors to learn from, per image, and the largest share with an object.
ANCHOR_SAMPLES, ANCHOR_SHARE = 256, 0.5
REGION_SHARE = 0.25
# Boxes among which overlapping ones are sought, per image.
CANDIDATES = 1000
LOSSES = ("objectness", "proposal_box", "classification", "box")
DETECTIONS = ("boxes", "labels", "scores")


@keras.saving.register_keras_serializable("keras_nasnet")
class FasterRCNN(keras.Model):
    """A detector that proposes regions, then classifies each of them.

    The network is cut in two before its last reduction. The cells before it
    see the whole image, and the outputs of the last two of them are the
    features on which regions are proposed. The reduction and the last stack
    then see every region for itself, cut out of these features.

    It is trained with `fit()` on batches of images and dictionaries of
    `"boxes"`, `(images, boxes, 4)`, corners `(left, top, right, bottom)` in
    pixels, and of `"labels"`, `(images, boxes)`, integers from 0. Images with
    fewer boxes are filled up with -1. Images of several sizes are filled up on
    the right and at the bottom, in all batches to one size. `predict()` returns
    a dictionary of `"boxes"`, `"labels"` and `"scores"`, the surest first and
    filled up with -1.

    Args:
        backbone: A network of this package whose cells read the two cells
            before them. It is copied, and a classifier on it is left out.
        num_classes: Integer, number of classes of objects.
        anchor_sizes: Sizes of the anchors in pixels, about those of objects.
        aspect_ratios: Ratios of height to width of the anchors.
        anchor_strides: Integer, pixels between anchors: the pixels between
            features times a power of two. `None` is as dense as the features,
            which is 16 pixels for networks of photographs.
        proposals: Integer, number of regions that are classified.
        region_size: Integer, height and width of the features of a region.
        region_samples: Integer, number of regions to learn from, per image.
        proposal_filters: Integer, filters of the layer that proposes.
        train_batch_norm: Whether batch norms learn and follow the images. A
            detector sees few images at a time, so they usually should not.
        min_score: Float, detections with this score or less are left out.
        max_detections: Integer, number of detections per image at most.
        class_names: Optional list of the names of the classes.
        image_size: Optional integer, side in pixels of the images that the
            detector is made for. Other sizes work too.
        **kwargs: `name`, `dtype` and `trainable`.

    Call arguments:
        inputs: Images `(images, height, width, 3)` as the backbone takes
            them, of any known height and width. Inside, they are filled up
            with zeros on the right and at the bottom to a multiple of the
            anchors' strides.

    Returns:
        A dictionary of `"boxes"`, `(images, max_detections, 4)`, `"labels"`
        and `"scores"`, `(images, max_detections)`, and of what the losses
        need: `"features"`, `"objectness"` and `"anchor_deltas"`. In training,
        of the latter only.

    Raises:
        ValueError: If an argument cannot be used, or an image size.

    Source:
        - [Learning Transferable Architectures for Scalable Image Recognition](
            https://arxiv.org/abs/1707.07012), section 4.3
        - [Faster R-CNN](https://arxiv.org/abs/1506.01497)
        - `faster_rcnn_nas` of the [TF Object Detection API](
            https://github.com/tensorflow/models/tree/master/research/object_detection)

    Example:

    ```python
    backbone = keras_nasnet.NASNetTiny()
    detector = keras_nasnet.detection.FasterRCNN(
        backbone, num_classes=10, anchor_sizes=(16, 32, 64), region_size=8
    )
    detector.compile("sgd", jit_compile=False)
    detector.fit(images, {"boxes": boxes, "labels": labels})
    found = detector.predict(images)
    ```
    """

    def __init__(
        self,
        backbone,
        num_classes,
        anchor_sizes=(64, 128, 256, 512),
        aspect_ratios=(0.5, 1.0, 2.0),
        anchor_strides=None,
        proposals=300,
        region_size=17,
        region_samples=64,
        proposal_filters=512,
        train_batch_norm=False,
        min_score=0.05,
        max_detections=100,
        class_names=None,
        image_size=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(
                f"`class_names` must have one name for each of {num_classes} "
                f"classes. Received {len(class_names)}: {class_names}"
            )
        self.backbone, self.trunk, self.region_network, self.strides = cut(
            backbone
        )
        anchor_strides = anchor_strides or self.strides
        # All that KerasHub's anchors can be apart.
        doublings = math.log2(max(1, anchor_strides) / self.strides)
        if doublings < 0 or doublings % 1:
            raise ValueError(
                f"`anchor_strides` must be {self.strides}, the pixels between "
                "the features of `backbone`, times a power of two. "
                f"Received: anchor_strides={anchor_strides}"
            )
        self.num_classes = num_classes
        self.anchor_sizes = tuple(anchor_sizes)
        self.aspect_ratios = tuple(aspect_ratios)
        self.anchor_strides = anchor_strides
        self.proposals = proposals
        self.region_size = region_size
        self.region_samples = region_samples
        self.proposal_filters = proposal_filters
        self.train_batch_norm = train_batch_norm
        self.min_score = min_score
        self.max_detections = max_detections
        self.class_names = None if class_names is None else list(class_names)
        self.image_size = image_size
        if not train_batch_norm:
            freeze_batch_norms(self.backbone)
        self._add_heads()
        level = round(math.log2(anchor_strides))
        self.anchor_generators = [
            keras_hub.layers.AnchorGenerator(
                "xyxy",
                min_level=level,
                max_level=level,
                num_scales=1,
                aspect_ratios=list(self.aspect_ratios),
                anchor_size=size / anchor_strides,
            )
            for size in self.anchor_sizes
        ]
        self.sampling_seed = keras.random.SeedGenerator()
        self.loss_parts = {
            part: keras.metrics.Mean(name=f"{part}_loss") for part in LOSSES
        }

    def _add_heads(self):
        anchors = len(self.anchor_sizes) * len(self.aspect_ratios)
        layers = keras.layers

        def settings():
            # One initializer gives all layers the same numbers.
            return {
                "kernel_initializer": keras.initializers.RandomNormal(
                    stddev=0.01
                ),
                "dtype": self.dtype_policy,
            }

        self.proposer = layers.Conv2D(
            self.proposal_filters,
            3,
            strides=self.anchor_strides // self.strides,
            padding="same",
            activation="relu",
            name="proposer",
            **settings(),
        )
        self.objectness = layers.Conv2D(
            anchors, 1, name="objectness", **settings()
        )
        self.anchor_deltas = layers.Conv2D(
            4 * anchors, 1, name="anchor_deltas", **settings()
        )
        self.region_pool = layers.GlobalAveragePooling2D(
            name="region_pool", dtype=self.dtype_policy
        )
        # The first class is the background.
        self.region_classes = layers.Dense(
            1 + self.num_classes, name="region_classes", **settings()
        )
        self.region_deltas = layers.Dense(
            4 * self.num_classes, name="region_deltas", **settings()
        )

    def build(self, input_shape):
        channels = sum(x.shape[-1] for x in self.trunk.outputs)
        self.proposer.build((None, None, None, channels))
        for layer in (self.objectness, self.anchor_deltas):
            layer.build((None, None, None, self.proposal_filters))
        channels = self.region_network.output.shape[-1]
        for layer in (self.region_classes, self.region_deltas):
            layer.build((None, channels))

    def call(self, inputs, training=False):
        images = self._filled_up(inputs)
        current, previous = self.trunk(images, training=training)
        features = ops.concatenate([current, previous], axis=-1)
        hidden = self.proposer(features)
        anchors = math.prod(hidden.shape[1:3])
        anchors *= len(self.anchor_sizes) * len(self.aspect_ratios)
        outputs = {
            "features": features,
            "objectness": _reshape(self.objectness(hidden), anchors),
            "anchor_deltas": _reshape(self.anchor_deltas(hidden), anchors, 4),
        }
        if not training:
            outputs.update(self._detect(inputs, outputs))
        return outputs

    def anchors(self, images):
        """Returns the anchors of images, as corners.

        Args:
            images: Tensor `(images, height, width, 3)`.

        Returns:
            A tensor `(anchors, 4)`: row by row, place by place, all sizes and
            for each of them all aspect ratios.
        """
        images = self._filled_up(images)
        sizes = [
            ops.reshape(boxes, (-1, len(self.aspect_ratios), 4))
            for generator in self.anchor_generators
            for boxes in generator(images).values()
        ]
        return ops.reshape(ops.concatenate(sizes, axis=1), (-1, 4))

    def _propose(self, images, outputs):
        """Returns the most promising regions `(images, proposals, 4)`."""
        anchors = self.anchors(images)
        scores, places = ops.top_k(
            ops.stop_gradient(outputs["objectness"]),
            min(CANDIDATES, anchors.shape[0]),
        )
        deltas = ops.stop_gradient(outputs["anchor_deltas"])
        boxes = targets.decode(
            ops.take(anchors, places, axis=0), targets.gather(deltas, places)
        )
        boxes = targets.clip(boxes, *images.shape[1:3])
        kept, exists = suppress(
            boxes, scores, PROPOSAL_OVERLAP, -math.inf, self.proposals
        )
        # What is missing becomes a box without area.
        return ops.where(exists[..., None], targets.gather(boxes, kept), 0.0)

    def _classify(self, features, regions, training):
        """Returns what the second half of the network says about regions.

        Returns:
            Logits of classes, the background first, `(images, regions, 1 +
            classes)`, and differences of the objects' boxes from the regions,
            `(images, regions, classes, 4)`.
        """
        count = regions.shape[1]
        crops = roi_align(features, regions, self.region_size, self.strides)
        crops = ops.reshape(crops, (-1, *crops.shape[2:]))
        width = self.trunk.outputs[0].shape[-1]
        hidden = self.region_network(
            [crops[..., :width], crops[..., width:]], training=training
        )
        hidden = self.region_pool(hidden)
        return (
            _reshape(self.region_classes(hidden), count, 1 + self.num_classes),
            _reshape(self.region_deltas(hidden), count, self.num_classes, 4),
        )

    def _detect(self, images, outputs):
        """Returns what is in images, from the outputs of the first half."""
        regions = self._propose(images, outputs)
        logits, deltas = self._classify(outputs["features"], regions, False)
        height, width = images.shape[1:3]
        boxes = targets.decode(ops.expand_dims(regions, 2), deltas)
        boxes = targets.clip(boxes, height, width)
        scores = ops.softmax(logits)[..., 1:]
        scores = ops.where(targets.has_area(boxes), scores, 0.0)
        # One row of all boxes of all classes, of which the best are looked at.
        total = regions.shape[1] * self.num_classes
        scores, places = ops.top_k(
            _reshape(scores, total), min(total, CANDIDATES)
        )
        boxes = targets.gather(_reshape(boxes, total, 4), places)
        labels = ops.cast(places, "int32") % self.num_classes
        # Classes do not suppress each other: they are moved apart.
        distance = ops.cast(labels * (2 * max(height, width)), "float32")
        kept, exists = suppress(
            boxes + distance[..., None],
            scores,
            DETECTION_OVERLAP,
            self.min_score,
            self.max_detections,
        )
        missing = self.max_detections - kept.shape[1]
        exists = ops.pad(exists, [[0, 0], [0, missing]])
        kept = ops.pad(kept, [[0, 0], [0, missing]])
        return {
            "boxes": ops.where(
                exists[..., None], targets.gather(boxes, kept), -1.0
            ),
            "labels": ops.where(exists, targets.gather(labels, kept), -1),
            "scores": ops.where(exists, targets.gather(scores, kept), -1.0),
        }

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        if sample_weight is not None:
            raise ValueError(
                "`fit()` of a detector takes no `sample_weight` and no "
                "`class_weight`."
            )
        height, width = x.shape[1:3]
        # One more that is missing, as no image of a batch may have any.
        boxes = ops.pad(
            ops.cast(y["boxes"], "float32"),
            [[0, 0], [0, 1], [0, 0]],
            "constant",
            -1.0,
        )
        labels = ops.pad(
            ops.cast(y["labels"], "int32"), [[0, 0], [0, 1]], "constant", -1
        )
        boxes = targets.clip(boxes, height, width)
        # What has nothing inside the image cannot be found.
        labels = ops.where(targets.has_area(boxes), labels, -1)
        parts = (
            *self._proposal_losses(x, boxes, labels, y_pred),
            *self._region_losses(x, boxes, labels, y_pred, training),
        )
        for name, part in zip(LOSSES, parts):
            self.loss_parts[name].update_state(part)
        return sum(parts) + sum(self.losses)

    def _proposal_losses(self, images, boxes, labels, outputs):
        """Returns the losses of whether and where regions are proposed."""
        anchors = self.anchors(images)
        match, is_positive, is_negative = targets.match(
            anchors, boxes, labels, 0.7, 0.3, keep_best=True
        )
        places, is_used = targets.sample(
            is_positive,
            is_negative,
            min(ANCHOR_SAMPLES, anchors.shape[0]),
            ANCHOR_SHARE,
            self.sampling_seed,
        )
        is_positive = targets.gather(is_positive, places)
        is_positive = ops.logical_and(is_positive, is_used)
        expected = targets.encode(
            ops.take(anchors, places, axis=0),
            targets.gather(boxes, targets.gather(match, places)),
        )
        objectness = targets.gather(outputs["objectness"], places)
        deltas = targets.gather(outputs["anchor_deltas"], places)
        losses = ops.binary_crossentropy(
            ops.cast(is_positive, "float32"), objectness, from_logits=True
        )
        return (
            _mean(losses, is_used, is_used),
            _box_loss(expected, deltas, is_positive, is_used),
        )

    def _region_losses(self, images, boxes, labels, outputs, training):
        """Returns the losses of what regions show, and where in them."""
        # True boxes are regions too, so that there is something to learn
        # before the proposals are any good.
        proposed = self._propose(images, outputs)
        regions = ops.concatenate([proposed, boxes], axis=1)
        match, is_positive, is_negative = targets.match(
            regions, boxes, labels, 0.5, 0.5, keep_best=False
        )
        places, is_used = targets.sample(
            is_positive,
            is_negative,
            # How many true boxes a batch has may be open.
            min(self.region_samples, proposed.shape[1]),
            REGION_SHARE,
            self.sampling_seed,
        )
        regions = targets.gather(regions, places)
        is_positive = targets.gather(is_positive, places)
        is_positive = ops.logical_and(is_positive, is_used)
        match = targets.gather(match, places)
        label = ops.where(is_positive, targets.gather(labels, match), 0)
        logits, deltas = self._classify(outputs["features"], regions, training)
        losses = ops.sparse_categorical_crossentropy(
            ops.where(is_positive, label + 1, 0), logits, from_logits=True
        )
        # The differences for the true class.
        deltas = ops.take_along_axis(
            deltas, ops.repeat(label[..., None, None], 4, axis=-1), axis=2
        )
        expected = targets.encode(regions, targets.gather(boxes, match))
        return (
            _mean(losses, is_used, is_used),
            _box_loss(expected, deltas[..., 0, :], is_positive, is_used),
        )

    def make_predict_function(self, force=False):
        make = super().make_predict_function
        if keras.config.backend() != "tensorflow":
            return make(force)
        if self.predict_function is not None and not force:
            return
        functions = {}

        # For every size of images one. Keras lets TensorFlow make one for all,
        # in which heights and widths are unknown.
        def predict(data):
            images = keras.tree.flatten(data)[0]
            # Unknown where they are spread over devices.
            size = tuple(getattr(images, "shape", ())[1:3])
            if size not in functions:
                make(force=True)
                functions[size] = self.predict_function
                self.predict_function = predict
            return functions[size](data)

        self.predict_function = predict

    def predict_step(self, *args):
        outputs = super().predict_step(*args)
        if keras.config.backend() == "jax":
            outputs, state = outputs
            return {name: outputs[name] for name in DETECTIONS}, state
        return {name: outputs[name] for name in DETECTIONS}

    def get_config(self):
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_classes": self.num_classes,
            "anchor_sizes": self.anchor_sizes,
            "aspect_ratios": self.aspect_ratios,
            "anchor_strides": self.anchor_strides,
            "proposals": self.proposals,
            "region_size": self.region_size,
            "region_samples": self.region_samples,
            "proposal_filters": self.proposal_filters,
            "train_batch_norm": self.train_batch_norm,
            "min_score": self.min_score,
            "max_detections": self.max_detections,
            "class_names": self.class_names,
            "image_size": self.image_size,
        }

    @classmethod
    def from_config(cls, config):
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return cls(**{**config, "backbone": backbone})

    def _filled_up(self, images):
        """Fills images up to whole places of anchors.

        Of other sizes, the cells of a network round up, its stem down, and
        their padding moves by up to half a place: features would not be where
        anchors and regions are taken to be.
        """
        size = images.shape[1:3]
        if None in size:
            raise ValueError(
                "Images must have a known height and width, and all those of "
                "training the same. "
                f"Received: images of shape {tuple(images.shape)}"
            )
        below, right = (-n % self.anchor_strides for n in size)
        if not below and not right:
            return images
        return ops.pad(images, [[0, 0], [0, below], [0, right], [0, 0]])


def _reshape(x, *shape):
    """Returns values per image, as float32 whatever computed them."""
    return ops.cast(ops.reshape(x, (-1, *shape)), "float32")


def _box_loss(expected, deltas, is_positive, is_used):
    """Returns the loss of where boxes are, a sum over their four numbers."""
    losses = 4 * keras.losses.huber(expected, deltas)
    return BOX_LOSS_WEIGHT * _mean(losses, is_positive, is_used)


def _mean(values, is_counted, is_used):
    """Returns the sum of the counted values per used one."""
    total = ops.sum(ops.where(is_counted, values, 0.0))
    used = ops.sum(ops.cast(is_used, "float32"))
    return total / ops.maximum(used, 1.0)
