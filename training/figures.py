"""Figures, written whole or not at all."""

import os


def save(sheet, path):
    """Writes a matplotlib figure.

    Args:
        sheet: A `matplotlib.figure.Figure`.
        path: Path whose ending chooses the format.
    """
    form = os.path.splitext(path)[1][1:]
    sheet.savefig(f"{path}.new", format=form, dpi=120)
    os.replace(f"{path}.new", path)
