"""A sheet to draw boxes and lines on, measured in inches.

Everything of matplotlib that the package needs. It is imported only when
something is drawn, and without its global state: no display is looked for and
no figure of the user is touched.
"""

import contextlib
import os

FORMATS = (".png", ".svg", ".pdf")
FONT_SIZE = 10
MARGIN = 0.12
TITLE_HEIGHT = 0.36

# Inside and border of the boxes, one hue for each kind.
STATE = ("#ffffff", "#8c8c8c")
IDENTITY = ("#ececec", "#8c8c8c")
SEPARABLE = ("#d3e4f7", "#4477aa")
CONVOLUTION = ("#e6dcf3", "#7d5ba6")
POOL = ("#fde2bd", "#c77f1e")
COMBINER = ("#d5ecd4", "#4f9553")
FRAME = ("#f1f5fa", "#c3d0e0")

# Lines: the two inputs of a cell, and what is made of them.
CURRENT_LINE = "#31507a"
PREVIOUS_LINE = "#b0563b"
BLOCK_LINE = "#6f6f6f"


def picture_path(to_file):
    """Returns the path as a string after checking its ending and folder."""
    path = os.fspath(to_file)
    if os.path.splitext(path)[1].lower() not in FORMATS:
        raise ValueError(
            f"`to_file` must end in one of {', '.join(FORMATS)}. "
            f"Received: to_file={path!r}"
        )
    folder = os.path.dirname(path)
    if folder and not os.path.isdir(folder):
        raise ValueError(
            "The folder of `to_file` does not exist. "
            f"Received: to_file={path!r}"
        )
    return path


class Canvas:
    """A white sheet; the origin is its lower left corner.

    Args:
        width: Float, inches.
        height: Float, inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """

    def __init__(self, width, height):
        try:
            from matplotlib import figure
            from matplotlib import style
        except ImportError:
            raise ImportError(
                "Drawing needs matplotlib. Install it with "
                "`pip install matplotlib`."
            ) from None
        self._style = style
        self._left = 0.0
        with self._drawing():
            self._figure = figure.Figure((width, height))
            self._axes = self._figure.add_axes((0, 0, 1, 1))
            self._axes.set(xlim=(0, width), ylim=(0, height))
            self._axes.set_axis_off()

    @contextlib.contextmanager
    def shifted(self, left):
        """Measures x from `left` for a while."""
        self._left += left
        yield
        self._left -= left

    def box(self, x, y, width, height, colors, label="", rounding=0.05):
        """Draws a rounded box with its middle at `(x, y)`.

        `colors` are those of the inside and of the border.
        """
        from matplotlib.patches import FancyBboxPatch

        face, edge = colors
        with self._drawing():
            self._axes.add_patch(
                FancyBboxPatch(
                    (self._left + x - width / 2, y - height / 2),
                    width,
                    height,
                    boxstyle=f"round,pad=0,rounding_size={rounding}",
                    facecolor=face,
                    edgecolor=edge,
                    linewidth=1.1,
                )
            )
        self.text(x, y, label)

    def text(self, x, y, label, **style):
        """Writes centred text, or as `style` says in matplotlib's terms."""
        with self._drawing():
            self._axes.text(
                self._left + x,
                y,
                label,
                **{
                    "size": FONT_SIZE,
                    "ha": "center",
                    "va": "center_baseline",
                    "color": "#222222",
                    "linespacing": 1.05,
                    **style,
                },
            )

    def line(self, points, color, arrow=False):
        """Draws a smooth line through control points.

        Two points are joined straight, four are a cubic Bezier curve.
        """
        from matplotlib.patches import FancyArrowPatch
        from matplotlib.path import Path

        codes = {
            2: [Path.MOVETO, Path.LINETO],
            4: [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
        }[len(points)]
        path = Path([(self._left + x, y) for x, y in points], codes)
        with self._drawing():
            self._axes.add_patch(
                FancyArrowPatch(
                    path=path,
                    arrowstyle="-|>,head_length=3.5,head_width=2"
                    if arrow
                    else "-",
                    color=color,
                    linewidth=1.2,
                    capstyle="round",
                    shrinkA=0,
                    shrinkB=0,
                )
            )

    def rising_line(self, start, end, color):
        """Draws an S-shaped line that leaves and arrives upright."""
        (x0, y0), (x1, y1) = start, end
        bend = 0.55 * (y1 - y0)
        self.line([start, (x0, y0 + bend), (x1, y1 - bend), end], color)

    def save(self, path):
        """Writes the picture, whole or not at all, and returns its path."""
        with self._drawing():
            save_figure(self._figure, path)
        return path

    def _drawing(self):
        """Keeps the user's matplotlib style out of the picture for a while."""
        # Text stays text in SVG, and the same drawing gives the same file.
        svg = {"svg.fonttype": "none", "svg.hashsalt": "keras_nasnet"}
        return self._style.context(["default", svg])


def save_figure(figure, path):
    """Writes a matplotlib figure, whole or not at all.

    Args:
        figure: A `matplotlib.figure.Figure`.
        path: Path whose ending chooses the format.
    """
    extension = os.path.splitext(path)[1][1:].lower()
    partial = f"{path}.{os.getpid()}.tmp"
    # Without a date, so that the same drawing gives the same file.
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    try:
        figure.savefig(
            partial, format=extension, dpi=120, metadata=dates.get(extension)
        )
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
