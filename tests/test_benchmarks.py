"""The benchmarks take turns, compare like with like, and report ratios."""

import csv
import gzip
import itertools
import json
import types

import keras
import numpy as np
import pytest

from tests.commands import run_command
from tests.networks import images
from tests.networks import randomize
from tests.networks import small_network
from tests.runs import CLASS_NAMES
from tests.runs import write_pictures

pytest.importorskip("tensorflow")
from benchmarks import comparison
from benchmarks import detection  # noqa: E402
from benchmarks import latency  # noqa: E402
from benchmarks import memory  # noqa: E402
from benchmarks import precision  # noqa: E402
from benchmarks import search_efficiency  # noqa: E402
from benchmarks import search_scale  # noqa: E402
from benchmarks import startup  # noqa: E402
from benchmarks import training  # noqa: E402
from training import checkpoints  # noqa: E402
from training.search.decisions import DecisionSpace  # noqa: E402
from training.search.policies import RandomPolicy  # noqa: E402

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="needs TensorFlow"
)
PEER, OURS = comparison.PEER, comparison.OURS


class TestComparison:
    def test_all_take_turns(self):
        called = []
        functions = {name: lambda n=name: called.append(n) for name in "ab"}
        times = comparison.in_turns(functions, rounds=3)
        assert "".join(called) == "abababab"
        # The first one of each does not count.
        assert {n: len(t) for n, t in times.items()} == {"a": 3, "b": 3}

    def test_report(self, tmp_path, capsys):
        path = tmp_path / "times.json"
        times = {PEER: [4, 4, 4], OURS: [1, 9, 2]}
        result = comparison.report(times, network="mobile")
        checkpoints.write_json(result, path)
        assert [file.name for file in tmp_path.iterdir()] == ["times.json"]
        read = json.loads(path.read_text())
        assert read["seconds"] == times
        assert read["median"] == {PEER: 4, OURS: 2}
        assert read["ratio"] == {PEER: 1, OURS: 0.5}
        assert read["network"] == "mobile"
        assert read["machine"]["keras"] == keras.__version__
        comparison.print_report("title", result)
        assert "2000.0ms  1000.0ms    0.50" in capsys.readouterr().out


class TestLatency:
    @pytest.fixture(scope="class")
    def functions(self):
        model = randomize(small_network(classifier_activation=None))
        return latency.contenders(model, model, batch_size=2, bfloat16=True)

    def test_contenders_agree(self, functions):
        x = images(2, 32, 32, 3)
        differences = latency.check_agreement(functions, x)
        assert differences[PEER] == 0
        assert {OURS, "fuse", "compile_inference"} < set(differences)
        with pytest.raises(ValueError, match="fuse computes something else"):
            latency.check_agreement(
                {**functions, "fuse": lambda x: functions[OURS](x) * 1.1}, x
            )

    def test_networks_have_the_same_weights(self):
        theirs, ours = latency.networks("mobile")
        x = images(1, 224, 224, 3)
        functions = {
            name: lambda x, m=model: m.predict_on_batch(x)
            for name, model in ((PEER, theirs), (OURS, ours))
        }
        latency.check_agreement(functions, x)

    def test_rate_of_products(self):
        # Any processor of this century, and none.
        assert 1e8 < latency.product_rate(size=256, rounds=3) < 1e15


class TestStartup:
    def test_stages(self, monkeypatch):
        started = []

        def start(name, trains):
            started.append((name, trains))
            return dict(zip(startup.STAGES, (1, 2, 4, 8)))

        monkeypatch.setattr(startup, "start", start)
        times = startup.measure(rounds=2, trains=True)
        assert started == [(PEER, True), (OURS, True)] * 2
        assert times["until first predict"] == {PEER: [7, 7], OURS: [7, 7]}
        assert times["first training step"][OURS] == [8, 8]

    def test_process(self):
        seconds = startup.start(OURS, trains=False)
        assert list(seconds) == ["import", "build", "first predict"]
        assert all(0 < s < 600 for s in seconds.values())


class TestTraining:
    def test_steps(self):
        def factory(**settings):
            return small_network(**settings)

        steps = training.steps({OURS: factory}, size=32, batch_size=4)
        losses = [float(steps[OURS]()) for _ in range(2)]
        assert losses[0] != losses[1]
        assert np.isfinite(losses).all()

    def test_mixed_precision(self):
        model = training.in_bfloat16(small_network)()
        assert model.get_layer("cell_0").compute_dtype == "bfloat16"
        assert keras.config.dtype_policy().name == "float32"

    def test_pipeline(self):
        assert training.pipeline_rate(batch_size=8, batches=3) > 0


class TestPrecision:
    def test_losses_of_single_steps(self):
        losses = precision.Losses()
        for batch, mean in enumerate([2.0, 3.0, 2.5]):
            losses.on_train_batch_end(batch, {"loss": mean})
        assert losses.values == [2.0, 4.0, 1.5]

    def test_report(self, tmp_path, monkeypatch, capsys):
        def train(is_mixed, seed, data, held_out, steps):
            return [2.0 - is_mixed] * steps, 0.5

        split = types.SimpleNamespace(dataset=None)
        monkeypatch.setattr(precision, "train", train)
        monkeypatch.setattr(precision.datasets, "load", lambda *_: split)
        for name in ("cifar_train", "cifar_eval"):
            monkeypatch.setattr(
                precision.datasets, name, lambda *_, **settings: None
            )
        write_pictures(tmp_path / "images", 3)
        run_command(
            precision,
            f"--out={tmp_path / 'losses.png'}",
            f"--photographs={tmp_path / 'images' / CLASS_NAMES[0]}",
            f"--json={tmp_path / 'numbers.json'}",
        )
        assert (tmp_path / "losses.png").stat().st_size > 1000
        numbers = json.loads((tmp_path / "numbers.json").read_text())
        assert numbers["mixed bfloat16"]["loss"] == [1.0] * 500
        assert numbers["agreement"]["photographs"] == 3
        assert "of 3 images" in capsys.readouterr().out


class TestMemory:
    def test_report(self, monkeypatch, tmp_path, capsys):
        asked = []

        def peak(name, task):
            asked.append((name, task))
            return [2**30 if name == PEER else 2**29, 0.25]

        monkeypatch.setattr(memory, "peak", peak)
        path = tmp_path / "peaks.json"
        run_command(
            memory,
            f"--json={path}",
            "--task=mobile_predict",
            "--task=mobile_train",
        )
        # There is nothing to compute again in a prediction.
        assert asked == [
            (PEER, "mobile_predict"),
            (OURS, "mobile_predict"),
            (PEER, "mobile_train"),
            (OURS, "mobile_train"),
            (memory.RECOMPUTING, "mobile_train"),
        ]
        assert json.loads(path.read_text())["mobile_train"][OURS] == {
            "bytes": 2**29,
            "seconds": 0.25,
        }
        assert "0.50GiB    0.50     0.25s" in capsys.readouterr().out

    def test_process(self):
        bytes_, seconds = memory.peak(OURS, "mobile_predict")
        assert 2**27 < bytes_ < 2**34
        assert 0 < seconds < 600


class TestDetection:
    def test_report(self, monkeypatch, tmp_path, capsys):
        programs = []

        def run_program(program):
            compile(program, "program", "exec")
            programs.append(program)
            return [2**30, 0.25]

        monkeypatch.setattr(memory, "run_program", run_program)
        path = tmp_path / "peaks.json"
        run_command(
            detection,
            f"--json={path}",
            "--network=large",
            "--image_size=600",
            "--recompute_cells",
            "--region_samples=16",
        )
        assert len(programs) == 2
        for program in programs:
            assert "NASNetLarge(weights=None, recompute_cells=True)" in program
            assert "region_samples=16" in program
        assert 'if "train" == "train"' in programs[1]
        results = json.loads(path.read_text())["results"]
        assert [x["task"] for x in results] == ["predict", "train"]
        assert results[0]["bytes"] == 2**30
        assert "large     600 train      1.00 GiB" in capsys.readouterr().out


OPERATIONS = ("none", "skip_connect")
SPACE = DecisionSpace([(f"edge_{i}", len(OPERATIONS)) for i in range(6)])


def accuracies(decisions):
    """Returns what the table of the tests says of a cell, in percent."""
    validation = 50 + sum(decisions) + sum(decisions[:2]) / 4
    return validation, 99 - validation


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A table of all cells of two operations."""
    monkeypatch.setattr(search_efficiency, "OPERATIONS", OPERATIONS)
    monkeypatch.setattr(search_efficiency, "SPACE", SPACE)
    path = tmp_path / "table.csv.gz"
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "arch", "c10_val", "c10_test"])
        for i, d in enumerate(itertools.product(range(2), repeat=6)):
            a, b, c, d_, e, f = (OPERATIONS[choice] for choice in d)
            arch = f"|{a}~0|+|{b}~0|{c}~1|+|{d_}~0|{e}~1|{f}~2|"
            writer.writerow([i, arch, *accuracies(d)])
    return path


class TestSearchEfficiency:
    def test_table(self, table):
        cells = search_efficiency.read_table(table)
        assert len(cells) == SPACE.size == 64
        for decisions, values in cells.items():
            expected = np.array(accuracies(decisions)) / 100
            np.testing.assert_allclose(values, expected)

    def test_test_accuracy_of_the_best(self):
        """The best by validation, which is not always that by the test."""
        validation = np.array([0.1, 0.3, 0.2, 0.3, 0.4])
        test = np.array([0.5, 0.2, 0.9, 0.8, 0.1])
        best = search_efficiency.best_test(validation, test)
        assert best.tolist() == [0.5, 0.2, 0.2, 0.2, 0.1]

    def test_cells_that_are_evaluated_again(self, table):
        """Count once among the best."""

        class Settled(RandomPolicy):
            def propose(self, count):
                return super().propose(1) * count

        cells = search_efficiency.read_table(table)
        found = search_efficiency.search(Settled(SPACE), cells, 60)
        numbers = search_efficiency.summarise([found])
        assert numbers["different cells"].tolist() == [3]
        validation = found[0].reshape(3, 20)
        assert (validation == validation[:, :1]).all()
        assert numbers["mean of the top 25"] == pytest.approx(
            [validation[:, 0].mean()]
        )

    def test_report(self, table, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(search_efficiency, "MARKS", (10, 50, 1000))
        out, plot = tmp_path / "numbers.json", tmp_path / "curves.png"
        run_command(
            *(search_efficiency, f"--table={table}", "--seeds=2"),
            *("--evaluations=50", "--policies=random,evolution"),
            *(f"--json={out}", f"--plot={plot}"),
        )
        numbers = json.loads(out.read_text())
        assert list(numbers) == ["random", "evolution"]
        for seed in range(2):
            policy = RandomPolicy(SPACE, seed)
            found = []
            while len(found) < 50:
                for proposal in policy.propose(20):
                    pair = np.array(accuracies(proposal.decisions)) / 100
                    policy.feedback(proposal, pair[0])
                    found.append(pair)
            validation, test = zip(*found[:50])
            expected = {
                "different cells": 50,
                "mean of the last 100": np.mean(validation),
                "mean of the top 25": np.mean(sorted(validation)[-25:]),
                "best": max(validation),
                "test of the best of 10": test[np.argmax(validation[:10])],
                "test of the best of 50": test[np.argmax(validation)],
            }
            reported = {k: v[seed] for k, v in numbers["random"].items()}
            assert reported == pytest.approx(expected, abs=1e-5)
        assert plot.stat().st_size > 1000
        assert "test of the best of 50" in capsys.readouterr().out


class TestSearchScale:
    def simulate(self, policy, **changes):
        settings = {"workers": 10, "children": 200, "seconds": 600}
        return list(
            search_scale.simulate(
                policy, np.array([0.5]), **{**settings, **changes}
            )
        )

    @pytest.mark.parametrize(("thought", "busy"), [(0.0, 1.0), (0.01, 0.145)])
    def test_workers_wait_while_the_policy_thinks(
        self, thought, busy, monkeypatch
    ):
        now = 0.0

        class Thinker(RandomPolicy):
            def feedback(self, proposal, reward):
                nonlocal now
                now += thought
                super().feedback(proposal, reward)

        clock = types.SimpleNamespace(perf_counter=lambda: now)
        monkeypatch.setattr(search_scale, "time", clock)
        policy = Thinker(SPACE, repeat=True)
        # A child takes 0.0145 s on average: ten workers could do seven in the
        # time in which the policy thinks of one.
        state = self.simulate(policy, seconds=0.01)[-1]
        assert state["thought"] == pytest.approx(200 * thought)
        assert state["busy"] == pytest.approx(busy, rel=0.2)
        assert state["busy"] <= 1

    def test_children(self):
        rewards = []

        class Recorder(RandomPolicy):
            def feedback(self, proposal, reward):
                rewards.append(reward)
                super().feedback(proposal, reward)

        states = self.simulate(Recorder(SPACE, repeat=True), children=2000)
        assert len(states) == len(rewards) == 2000
        assert 5 <= rewards.count(None) <= 40
        assert set(rewards) == {None, 0.5}
        # 19 of 20 take 600 s, one takes ten times as long.
        seconds = 2000 * 600 * (0.95 + 0.05 * 10) / 10
        assert states[-1]["clock"] == pytest.approx(seconds, rel=0.2)
        assert all(a["clock"] <= b["clock"] for a, b in zip(states, states[1:]))

    def test_report(self, table, capsys):
        run_command(
            *(search_scale, f"--table={table}", "--policy=random"),
            *("--workers=5", "--children=20"),
        )
        lines = capsys.readouterr().out.splitlines()[1:]
        assert [int(line.split()[0]) for line in lines] == list(range(2, 21, 2))
        assert all(0 < float(line.split()[2]) <= 1 for line in lines)
