"""Shows searches on one page: curves, cells and all children.

Run:

    python -m training.search.report --history=runs/search,runs/random \\
        --out=runs/report

`index.html` in that folder needs no other file; its pictures are also there
as PNGs. Searches by the same policy make one curve, with a band over seeds.
"""

import base64
import heapq
import html
import json
import os

import numpy as np
from absl import app
from absl import flags

import keras_nasnet
from keras_nasnet.canvas import save_figure
from training import checkpoints
from training.search.history import RESULTS
from training.search.history import read_lines
from training.search.run import settings_file

FLAGS = flags.FLAGS
# Share of the children after which curves decide the range that is drawn.
SETTLED = 0.03
COLORS = ("#31507a", "#b0563b", "#4f7f4a", "#7b5a94")
# Name of a curve -> how many of the best children so far it averages.
TOPS = {"best": 1, "mean of the top 5": 5, "mean of the top 25": 25}
# Children that the mean of the latest ones is over.
WINDOW = 20


def define_flags():
    flags.DEFINE_list("history", None, "Folders of searches.")
    flags.DEFINE_string("out", None, "Folder of the report.")
    flags.mark_flags_as_required(["history", "out"])


def read_search(folder):
    """Reads what a search has written.

    Args:
        folder: Folder of the search.

    Returns:
        The name of its policy and the lines of its history.

    Raises:
        ValueError: If the folder has no results.
    """
    lines = list(read_lines(os.path.join(folder, RESULTS)))
    if not lines:
        raise ValueError(f"{folder} has no results in {RESULTS}.")
    with open(settings_file(folder)) as file:
        policy = json.load(file)["policy"]
    return policy.removesuffix("Policy").lower(), lines


def rewards_of(lines):
    """Returns the rewards of a history, failures counted as the worst."""
    rewards = [line["reward"] for line in lines]
    known = [reward for reward in rewards if reward is not None]
    worst = min(known, default=0.0)
    return np.array([worst if r is None else r for r in rewards])


def top_means(rewards, count):
    """Returns the mean of the best so far, after every child.

    Args:
        rewards: Array of rewards, in the order of time.
        count: Integer, how many of the best are averaged; fewer while there
            are not as many.
    """
    best, means = [], []
    for reward in rewards:
        heapq.heappush(best, reward)
        if len(best) > count:
            heapq.heappop(best)
        means.append(np.mean(best))
    return np.array(means)


def latest_means(values, window=WINDOW):
    """Returns the mean of the latest values, after every one."""
    sums = np.concatenate([[0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def plot_curves(searches, out):
    """Draws rewards against the number of children, as in figure 6.

    Args:
        searches: Dictionary from a policy to a list of arrays of rewards, one
            for each search.
        out: Path of the PNG.
    """
    panels = {
        f"mean of the last {WINDOW}": latest_means,
        **{
            name: lambda rewards, count=count: top_means(rewards, count)
            for name, count in TOPS.items()
        },
    }
    curves = {
        title: {
            policy: [curve(rewards) for rewards in all_rewards]
            for policy, all_rewards in searches.items()
        }
        for title, curve in panels.items()
    }
    plot_panels(curves, "reward", out)


def plot_entropy(searches, out):
    """Draws how undecided controllers are, in nats per decision.

    Args:
        searches: Dictionary from a policy to a list of arrays of entropies.
        out: Path of the PNG.
    """
    plot_panels({"entropy": searches}, "nats per decision", out)


def plot_panels(panels, label, out):
    """Draws curves over the number of children, with bands over seeds.

    Args:
        panels: Dictionary from a title to a dictionary from the name of a
            curve to its arrays, one for each seed. Where some of them end or
            have NaN, the curve is the mean of the others.
        label: What is drawn.
        out: Path of the PNG.
    """
    from matplotlib import figure

    sheet = figure.Figure((3.6 * len(panels), 3.4), layout="constrained")
    all_axes = np.ravel(sheet.subplots(1, len(panels), squeeze=False))
    for axes, (title, curves) in zip(all_axes, panels.items()):
        lowest, highest = np.inf, -np.inf
        for color, (policy, values) in zip(COLORS, curves.items()):
            length = max(map(len, values))
            stack = _stack(values, length)
            children = np.arange(1, length + 1)
            axes.plot(children, stack.mean(0), color=color, label=policy)
            if len(stack) > 1:
                axes.fill_between(
                    children,
                    stack.min(0),
                    stack.max(0),
                    color=color,
                    alpha=0.15,
                    linewidth=0,
                )
            settled = stack[:, int(SETTLED * length) :]
            lowest = min(lowest, settled.min())
            highest = max(highest, settled.max())
        # The first children are so much worse that they would hide the rest.
        margin = 0.05 * (highest - lowest) or 0.01
        axes.set_ylim(lowest - margin, highest + margin)
        axes.set(title=title, xlabel="children")
        axes.ticklabel_format(useOffset=False)
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel(label)
    all_axes[0].legend()
    save_figure(sheet, out)


def _stack(values, length):
    """Returns arrays as rows of one, masked where they have nothing."""
    stack = np.full((len(values), length), np.nan)
    for row, array in zip(stack, values):
        row[: len(array)] = array
    return np.ma.masked_invalid(stack)


def write_report(folders, out):
    """Writes the page and its pictures.

    Args:
        folders: Folders of searches.
        out: Folder of the report.

    Returns:
        The path of the page.
    """
    os.makedirs(out, exist_ok=True)
    searches = [read_search(folder) for folder in folders]
    rewards, entropies = {}, {}
    for policy, lines in searches:
        rewards.setdefault(policy, []).append(rewards_of(lines))
        # Unknown until the first update, and to other policies.
        known = np.array([line["entropy"] for line in lines], "float")
        if not np.isnan(known).all():
            entropies.setdefault(policy, []).append(known)
    pictures = {"Reward": "curves.png"}
    plot_curves(rewards, os.path.join(out, "curves.png"))
    if entropies:
        pictures["Entropy of the controller"] = "entropy.png"
        plot_entropy(entropies, os.path.join(out, "entropy.png"))
    best, policy = max(
        ((line, policy) for policy, lines in searches for line in lines),
        key=lambda pair: -1 if pair[0]["reward"] is None else pair[0]["reward"],
    )
    if "genotype" in best and best["reward"] is not None:
        title = f"The best cells: {policy}, child {best['number']}"
        pictures[f"{title}, reward {best['reward']:.4f}"] = "best.png"
        keras_nasnet.plot_cell(best["genotype"], os.path.join(out, "best.png"))
    page = os.path.join(out, "index.html")
    checkpoints.write_text(_page(searches, pictures, out), page)
    return page


_COLUMNS = {
    "policy": "policy",
    "number": "child",
    "reward": "reward",
    "parameters": "parameters",
    "multiply_adds": "multiply-adds",
    "seconds": "seconds",
    "failure": "failure",
}


def _page(searches, pictures, folder):
    sections = []
    for title, name in pictures.items():
        with open(os.path.join(folder, name), "rb") as file:
            data = base64.b64encode(file.read()).decode()
        sections.append(
            f"<h2>{html.escape(title)}</h2>\n"
            f'<img alt="{html.escape(title)}" '
            f'src="data:image/png;base64,{data}">'
        )
    rows = []
    for policy, lines in searches:
        for line in lines:
            values = {**line, "policy": policy}
            cells = "".join(_cell(values.get(name)) for name in _COLUMNS)
            rows.append((line["reward"] or 0, f"<tr>{cells}</tr>"))
    rows.sort(key=lambda row: -row[0])
    return _PAGE.format(
        summary="".join(
            f"<li>{html.escape(_summary(policy, lines))}</li>"
            for policy, lines in searches
        ),
        sections="\n".join(sections),
        head="".join(f"<th>{title}</th>" for title in _COLUMNS.values()),
        rows="\n".join(text for _, text in rows),
    )


def _summary(policy, lines):
    rewards = [x["reward"] for x in lines if x["reward"] is not None]
    text = (
        f"{policy}: {len(lines)} children, {len(lines) - len(rewards)} failed"
    )
    if rewards:
        text += f", best {max(rewards):.4f}, mean {np.mean(rewards):.4f}"
    hours = sum(line.get("seconds") or 0 for line in lines) / 3600
    return f"{text}, {hours:.1f} hours of training"


def _cell(value):
    if value is None:
        return "<td></td>"
    if isinstance(value, float):
        text = f"{value:.4f}" if value < 1 else f"{value:.1f}"
    elif isinstance(value, int):
        text = f"{value:,}"
    else:
        text = html.escape(value)
    kind = "" if isinstance(value, str) else ' class="number"'
    key = html.escape(str(value))
    return f'<td{kind} data-value="{key}">{text}</td>'


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Search for cells</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222;
  max-width: 1100px; margin: 2em auto; padding: 0 1em; }}
img {{ max-width: 100%; }}
table {{ border-collapse: collapse; font-size: 14px; }}
th, td {{ padding: .25em .8em; border-bottom: 1px solid #ddd;
  text-align: left; }}
th {{ cursor: pointer; position: sticky; top: 0; background: #f4f4f4; }}
th:hover {{ background: #e4e9f0; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
</style>
<h1>Search for cells</h1>
<ul>{summary}</ul>
{sections}
<h2>All children</h2>
<p>A click on a heading sorts by it.</p>
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
<script>
document.querySelectorAll("th").forEach((heading, column) => {{
  let direction = -1;
  heading.addEventListener("click", () => {{
    const body = document.querySelector("tbody");
    const value = (row) => row.cells[column].dataset.value ?? "";
    const order = (a, b) => {{
      const [x, y] = [value(a), value(b)];
      // Empty cells stay at the end.
      if (x === "" || y === "") return (x === "") - (y === "");
      const difference = x - y;
      return direction * (isNaN(difference) ? x.localeCompare(y) : difference);
    }};
    body.append(...[...body.rows].sort(order));
    direction = -direction;
  }});
}});
</script>
</html>
"""


def main(_):
    folders = list(map(os.path.expanduser, FLAGS.history))
    print(write_report(folders, os.path.expanduser(FLAGS.out)))


if __name__ == "__main__":
    define_flags()
    app.run(main)
