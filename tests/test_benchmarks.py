"""The benchmarks take turns, compare like with like, and report ratios."""

import json

import keras
import numpy as np
import pytest

import keras_nasnet
from tests.commands import run_command
from tests.networks import images
from tests.networks import randomize
from tests.networks import small_network

pytest.importorskip("tensorflow")
from benchmarks import comparison  # noqa: E402
from benchmarks import latency  # noqa: E402
from benchmarks import memory  # noqa: E402
from benchmarks import startup  # noqa: E402
from benchmarks import training  # noqa: E402
from training import checkpoints  # noqa: E402

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

    def test_mixed_precision(self, monkeypatch):
        monkeypatch.setattr(keras_nasnet, "NASNetMobile", small_network)
        model = training.in_bfloat16()
        assert model.get_layer("cell_0").compute_dtype == "bfloat16"
        assert keras.config.dtype_policy().name == "float32"

    def test_pipeline(self):
        assert training.pipeline_rate(batch_size=8, batches=3) > 0


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
