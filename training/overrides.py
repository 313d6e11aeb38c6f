"""Flags that override fields of a recipe."""

import dataclasses

from absl import flags

FLAGS = flags.FLAGS
DEFINERS = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
}


def define(kind, names):
    """Defines a flag for each of some fields.

    Args:
        kind: Dataclass of the recipes.
        names: Names of the fields.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(kind)}
    for name in names:
        definer = DEFINERS.get(kinds[name], flags.DEFINE_string)
        definer(name, None, f"Overrides the recipe's {name}.")


def given(names):
    """Returns a dictionary of the flags that were given, out of some."""
    return {n: FLAGS[n].value for n in names if FLAGS[n].present}
