"""The report computes what figure 6 shows, and one page shows it."""

import json
import re

import keras
import numpy as np
import pytest

import keras_nasnet

pytest.importorskip("tensorflow")
pytest.importorskip("matplotlib")
if keras.config.backend() != "tensorflow":
    pytest.skip("needs TensorFlow", allow_module_level=True)
from training.search import report  # noqa: E402


def test_top_means():
    rewards = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    assert report.top_means(rewards, 1).tolist() == [3, 3, 4, 4, 5]
    assert report.top_means(rewards, 2).tolist() == [3, 2, 3.5, 3.5, 4.5]


def test_latest_means():
    values = np.array([2.0, 4.0, 6.0, 8.0])
    assert report.latest_means(values, 2).tolist() == [2, 3, 5, 7]


def test_failures_count_as_the_worst():
    lines = [{"reward": r} for r in (0.5, None, 0.25)]
    assert report.rewards_of(lines).tolist() == [0.5, 0.25, 0.25]


class TestCurves:
    def draw(self, monkeypatch, curves):
        """Returns the axes on which curves are drawn."""
        sheets = []
        monkeypatch.setattr(
            report, "save_figure", lambda sheet, out: sheets.append(sheet)
        )
        report.plot_panels({"title": curves}, "reward", "none.png")
        return sheets[0].axes[0]

    def test_searches_of_different_lengths(self, monkeypatch):
        long, short = np.arange(1.0, 1001), np.array([5.0, 6.0])
        axes = self.draw(monkeypatch, {"random": [long, short]})
        (line,) = axes.lines
        assert line.get_xdata().tolist() == list(range(1, 1001))
        drawn = line.get_ydata()
        # The mean of both, while there are two.
        assert drawn[:3].tolist() == [3, 4, 3]
        assert drawn[-1] == 1000
        (band,) = axes.collections
        assert band.get_paths()[0].vertices[:, 1].max() == 1000

    def test_entropy_begins_with_the_first_update(self, monkeypatch):
        known = np.array([np.nan] * 20 + [2.0, 1.0])
        axes = self.draw(monkeypatch, {"controller": [known]})
        drawn = axes.lines[0].get_ydata()
        assert np.ma.getmaskarray(drawn).tolist() == [True] * 20 + [False] * 2
        assert drawn[20:].tolist() == [2, 1]
        low, high = axes.get_ylim()
        assert low < 1 and 2 < high < 3

    def test_places_of_unknown_entropies(self, monkeypatch, tmp_path):
        entropies = [None] * 20 + [2.0]
        folder = write_search(tmp_path, "Controller", entropies)
        others = write_search(tmp_path, "Random", [None] * 21)
        drawn = []
        monkeypatch.setattr(
            report,
            "plot_entropy",
            lambda searches, out: (drawn.append(searches), _touch(out)),
        )
        report.write_report([folder, others], tmp_path / "report")
        ((name, (values,)),) = drawn[0].items()
        assert name == "controller"
        expected = [np.nan] * 20 + [2.0]
        np.testing.assert_array_equal(values, expected)


def _touch(path):
    open(path, "w").close()


def write_search(parent, policy, entropies, name=""):
    """Writes the history of a search, a child for each entropy."""
    rng = np.random.default_rng(0)
    folder = parent / f"{policy}{name}"
    folder.mkdir()
    (folder / "search.json").write_text(
        json.dumps({"policy": f"{policy}Policy"})
    )
    with open(folder / "history.jsonl", "w") as file:
        for number, entropy in enumerate(entropies, 1):
            line = {
                "number": number,
                "reward": float(rng.uniform(0.2, 0.5)),
                "entropy": entropy,
                "genotype": keras_nasnet.NASNET_A.to_dict(),
                "seconds": 3.0,
                "parameters": 12345,
            }
            if number == 7:
                line.update(reward=None, failure="Took <too> long")
            file.write(json.dumps(line) + "\n")
    return folder


class TestPage:
    @pytest.fixture(scope="class")
    def page(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("searches")
        folders = [
            write_search(folder, policy, [entropy] * 30, name=seed)
            for policy, entropy in (("Controller", 1.5), ("Random", None))
            for seed in range(2)
        ]
        out = folder / "report"
        assert report.write_report(folders, out) == str(out / "index.html")
        return (out / "index.html").read_text(encoding="utf-8")

    def test_needs_no_other_file(self, page):
        sources = re.findall(r'(?:src|href)="([^"]*)', page)
        assert len(sources) == 3
        for source in sources:
            assert source.startswith("data:image/png;base64,")

    def test_has_every_child(self, page):
        assert page.count("<tr>") == 1 + 120
        assert page.count("12,345") == 120
        assert page.count(">Took &lt;too&gt; long<") == 4
        assert "<too>" not in page
        rewards = re.findall(r"<td[^>]*>(0\.\d{4})</td>", page)
        assert rewards == sorted(rewards, reverse=True)

    def test_sums_up(self, page):
        assert page.count("controller: 30 children, 1 failed") == 2
        assert page.count("random: 30 children, 1 failed") == 2

    def test_folder_without_results(self, tmp_path):
        with pytest.raises(ValueError, match="has no results"):
            report.write_report([tmp_path], tmp_path / "report")
