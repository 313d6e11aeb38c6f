"""Classifies images with MediaPipe Tasks, in an environment of its own.

    python mediapipe_client.py FILE.tflite IMAGE...

Prints a line of JSON: for every image a list of (name, score), best first.
"""

import json
import sys

from mediapipe import Image
from mediapipe.tasks.python import BaseOptions
from mediapipe.tasks.python.vision import ImageClassifier
from mediapipe.tasks.python.vision import ImageClassifierOptions


def main(model, *images):
    options = ImageClassifierOptions(
        base_options=BaseOptions(model_asset_path=model)
    )
    with ImageClassifier.create_from_options(options) as classifier:
        results = [
            classifier.classify(Image.create_from_file(image))
            for image in images
        ]
    answers = [
        [(c.category_name, c.score) for c in r.classifications[0].categories]
        for r in results
    ]
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
