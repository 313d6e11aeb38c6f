"""Runs our absl commands inside the tests' own process."""

from absl import flags


def run_command(module, *arguments):
    """Does what `python -m MODULE ARGUMENTS` does.

    Args:
        module: A module with `define_flags()` and `main()`.
        *arguments: Such as `"--out=x"`.
    """
    others = set(flags.FLAGS)
    module.define_flags()
    try:
        flags.FLAGS([module.__name__, *arguments])
        module.main([module.__name__])
    finally:
        for name in set(flags.FLAGS) - others:
            delattr(flags.FLAGS, name)
