"""The last layer of a network, which knows the names of its classes."""

import keras


@keras.saving.register_keras_serializable("keras_nasnet")
class Classifier(keras.layers.Dense):
    """A dense layer that carries the names of its classes.

    The names travel with the model through every file, so that a prediction
    can always be read.

    Args:
        units: Integer, number of classes.
        class_names: Optional list of `units` strings.
        **kwargs: As in `keras.layers.Dense`.

    Call arguments:
        inputs: Features `(batch, channels)`.

    Returns:
        A tensor `(batch, units)`.

    Raises:
        ValueError: If there are not as many names as classes.

    Example:

    >>> layer = keras_nasnet.Classifier(2, class_names=["cat", "dog"])
    >>> layer.get_config()["class_names"]
    ['cat', 'dog']
    """

    def __init__(self, units, class_names=None, **kwargs):
        super().__init__(units, **kwargs)
        if class_names is not None and len(class_names) != units:
            raise ValueError(
                f"`class_names` must have one name for each of the {units} "
                f"classes. Received {len(class_names)}: {class_names}"
            )
        self.class_names = None if class_names is None else list(class_names)

    def get_config(self):
        return {**super().get_config(), "class_names": self.class_names}
