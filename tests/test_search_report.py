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


class TestPage:
    @pytest.fixture(scope="class")
    def page(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("searches")
        rng = np.random.default_rng(0)
        folders = []
        for policy in ("Controller", "Random"):
            for seed in range(2):
                folders.append(folder / f"{policy}_{seed}")
                folders[-1].mkdir()
                (folders[-1] / "search.json").write_text(
                    json.dumps({"policy": f"{policy}Policy"})
                )
                with open(folders[-1] / "history.jsonl", "w") as file:
                    for number in range(1, 31):
                        line = {
                            "number": number,
                            "reward": float(rng.uniform(0.2, 0.5)),
                            "entropy": 1.5 if policy == "Controller" else None,
                            "genotype": keras_nasnet.NASNET_A.to_dict(),
                            "seconds": 3.0,
                            "parameters": 12345,
                        }
                        if number == 7:
                            line.update(reward=None, failure="Took <too> long")
                        file.write(json.dumps(line) + "\n")
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
