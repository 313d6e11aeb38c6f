"""Copies weights into a model by name: all of them or none."""

from typing import Any
from typing import NamedTuple

# Of each kind, in an error message.
SHOWN_PROBLEMS = 3


class Entry(NamedTuple):
    """A weight to copy.

    Args:
        name: Its name at the source, for messages.
        path: Path of our weight that it belongs to, `None` if unknown.
        value: An array or variable.
    """

    name: str
    path: str | None
    value: Any


def copy_weights(entries, model, source):
    """Copies weights into a model.

    Args:
        entries: List of `Entry`.
        model: A Keras model, or a part of one.
        source: Name of the source, for messages.

    Returns:
        The number of weights that were copied.

    Raises:
        ValueError: If a weight is left over on either side, is there twice
            or has another shape. Nothing has been copied then.
    """
    targets = {variable.path: variable for variable in model.weights}
    taken = {}
    extra = []
    misshapen = []
    for name, path, value in entries:
        if path is None:
            extra.append(f"{name} is unknown")
        elif path not in targets:
            extra.append(f"{name} is not in the model (as {path})")
        elif path in taken:
            extra.append(f"{name} and {taken[path].name} are both {path}")
        elif tuple(value.shape) != tuple(targets[path].shape):
            misshapen.append(
                f"{name} has shape {tuple(value.shape)}, expected "
                f"{tuple(targets[path].shape)} of {path}"
            )
        taken.setdefault(path, Entry(name, path, value))
    missing = [
        f"{path} is not in the source" for path in targets if path not in taken
    ]
    if extra or missing or misshapen:
        shown = [
            problem
            for problems in (extra, missing, misshapen)
            for problem in sorted(problems)[:SHOWN_PROBLEMS]
        ]
        more = len(extra + missing + misshapen) - len(shown)
        raise ValueError(
            f"{source} with {len(entries)} weights does not fit {model.name} "
            f"with {len(targets)}: {'; '.join(shown)}"
            + (f"; and {more} more." if more else ".")
        )
    for path, entry in taken.items():
        targets[path].assign(entry.value)
    return len(taken)
