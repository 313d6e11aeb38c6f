"""Copies weights into a model by name: all of them or none."""

from typing import Any
from typing import NamedTuple

SHOWN_PROBLEMS = 10


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
    problems = []
    taken = {}
    for name, path, value in entries:
        if path is None:
            problems.append(f"{name} is unknown")
        elif path not in targets:
            problems.append(f"{name} is not in the model (as {path})")
        elif path in taken:
            problems.append(f"{name} and {taken[path].name} are both {path}")
        elif tuple(value.shape) != tuple(targets[path].shape):
            problems.append(
                f"{name} has shape {tuple(value.shape)}, expected "
                f"{tuple(targets[path].shape)} of {path}"
            )
        if path is not None:
            taken[path] = Entry(name, path, value)
    problems += [
        f"{path} is not in the source" for path in targets.keys() - taken.keys()
    ]
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        raise ValueError(
            f"{source} with {len(entries)} weights does not fit {model.name} "
            f"with {len(targets)}: "
            + "; ".join(sorted(problems)[:SHOWN_PROBLEMS])
            + (f"; and {more} more." if more > 0 else ".")
        )
    for path, entry in taken.items():
        targets[path].assign(entry.value)
    return len(taken)
