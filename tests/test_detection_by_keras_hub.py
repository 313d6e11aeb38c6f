"""KerasHub's own checks of a backbone, on ours."""

import keras
import pytest

pytest.importorskip("keras_hub")
# KerasHub's checks import it without KerasHub requiring it.
pytest.importorskip("grain")
from keras_hub.src.tests.test_case import TestCase  # noqa: E402

from keras_nasnet.detection import NASNetBackbone  # noqa: E402

SMALL = {"num_cells": 1, "penultimate_filters": 192, "stem_filters": 4}


@pytest.mark.slow
class TestByKerasHub(TestCase):
    def test_backbone(self):
        self.run_vision_backbone_test(
            cls=NASNetBackbone,
            init_kwargs={"image_shape": (64, 64, 3), **SMALL},
            input_data=keras.ops.ones((2, 64, 64, 3)),
            expected_output_shape=(2, 2, 2, 192),
            expected_pyramid_output_keys=["P2", "P3", "P4", "P5"],
            expected_pyramid_image_sizes=[(16, 16), (8, 8), (4, 4), (2, 2)],
        )

    def test_saved_model(self):
        self.run_model_saving_test(
            cls=NASNetBackbone,
            init_kwargs={"image_shape": (32, 32, 3), **SMALL},
            input_data=keras.ops.ones((2, 32, 32, 3)),
        )
