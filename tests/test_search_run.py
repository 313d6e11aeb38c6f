"""Searches in real processes lose nothing, whatever is killed."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import keras_nasnet
from keras_nasnet import cli
from tests.commands import run_command

pytest.importorskip("tensorflow")
pytest.importorskip("ray")
if keras.config.backend() != "tensorflow":
    pytest.skip("needs TensorFlow", allow_module_level=True)
from keras_nasnet import litert  # noqa: E402
from tests import run_search  # noqa: E402
from tests import runs  # noqa: E402
from training import recipes  # noqa: E402
from training import train  # noqa: E402
from training.search import budgets  # noqa: E402
from training.search import child  # noqa: E402
from training.search import report  # noqa: E402
from training.search import rerank  # noqa: E402
from training.search import run  # noqa: E402
from training.search import searcher  # noqa: E402
from training.search.decisions import NASNetSpace  # noqa: E402
from training.search.history import RESULTS  # noqa: E402
from training.search.history import History  # noqa: E402
from training.search.history import child_file  # noqa: E402
from training.search.history import read_lines  # noqa: E402
from training.search.policies import POLICIES  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]


def start(folder, trials=12, policy="random", evaluator=None, **engine):
    """Starts a search in a process of its own."""
    folder.mkdir(exist_ok=True)
    task = {
        "workdir": str(folder),
        "notes": str(folder / "notes"),
        "trials": trials,
        "policy": policy,
        "evaluator": {"seconds": 0.1, **(evaluator or {})},
        "engine": {"concurrent": 2, "cpus": 0.5, **engine},
    }
    command = [sys.executable, "-m", "tests.run_search", json.dumps(task)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, code=0):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


def results(folder):
    return list(read_lines(folder / RESULTS))


def notes(folder):
    path = folder / "notes"
    return path.read_text().split() if path.exists() else []


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


class TestRay:
    def test_killed_again_and_again(self, tmp_path):
        folder = tmp_path / "search"
        for stop in (3, 10, 17):
            process = start(folder, 30, "controller")
            wait_for(lambda stop=stop: len(notes(folder)) >= stop)
            process.send_signal(signal.SIGKILL)
            process.wait()
        finish(start(folder, 30, "controller"))
        numbers = [line["number"] for line in results(folder)]
        assert sorted(numbers) == list(range(1, 31))
        # Every child was trained to its end once.
        assert sorted(map(int, notes(folder))) == sorted(numbers)
        # What the last process knew is what the whole history teaches.
        policy = POLICIES["controller"](run_search.SPACE)
        History(policy, folder)
        policy.save(tmp_path)
        with (
            np.load(tmp_path / "policy.npz") as lived,
            np.load(folder / "policy.npz") as interrupted,
        ):
            for key in lived:
                np.testing.assert_array_equal(lived[key], interrupted[key])
        assert not (folder / "ray").exists()

    def test_children_with_troubles(self, tmp_path):
        folder = tmp_path / "search"
        evaluator = {
            **{"killed": [2, 5], "hopeless": [3], "failing": [4]},
            **{"hanging": [6], "raising": [7]},
        }
        finish(start(folder, 10, evaluator=evaluator, time_limit=5))
        lines = {x["number"]: x for x in results(folder)}
        assert sorted(lines) == list(range(1, 11))
        failures = {n: x["failure"] for n, x in lines.items() if "failure" in x}
        assert failures == {
            3: "Its process died.",
            4: "Pretends to.",
            6: "Took longer than 5 s.",
            7: "ValueError: Nobody expects this.",
        }
        for number, line in lines.items():
            # Whatever is known of a child, also if it failed.
            assert line["seed"] == number
            assert line["parameters"] == 100 + number
            assert line["seconds"] > 0
            if number in failures:
                assert line["reward"] is None
            else:
                assert line["reward"] == sum(line["decisions"]) / 18
                assert line["epoch"] == 2
        assert lines[6]["seconds"] >= 5
        assert not list((folder / "children").iterdir())

    @pytest.mark.slow
    def test_children_that_fall_behind_are_stopped(self, tmp_path):
        folder = tmp_path / "search"
        finish(start(folder, 12, stop_early=True))
        lines = results(folder)
        assert sorted(x["number"] for x in lines) == list(range(1, 13))
        assert {line["epoch"] for line in lines} == {1, 2}
        for line in lines:
            # With what it had reached by then.
            reached = sum(line["decisions"]) / {1: 36, 2: 18}[line["epoch"]]
            assert line["reward"] == reached

    @pytest.mark.slow
    def test_processes_do_not_grow_for_ever(self, tmp_path):
        folder = tmp_path / "search"
        count = searcher.CHILDREN_OF_A_PROCESS + 3
        finish(start(folder, count, evaluator={"seconds": 0}, concurrent=1))
        assert sorted(map(int, notes(folder))) == list(range(1, count + 1))
        processes = (folder / "notes.processes").read_text().split()
        assert len(set(processes)) == 2
        assert len(set(processes[:-3])) == 1

    def test_nothing_works(self, tmp_path):
        """A wrong setting is not the children's failure."""
        folder = tmp_path / "search"
        output = finish(start(folder, evaluator={"broken": True}), code=1)
        assert "No child can be trained" in output
        assert "there is no such package" in output
        assert not results(folder)
        # Mended, the same command does everything.
        finish(start(folder))
        assert len(results(folder)) == 12

    def test_impossible_resources(self, tmp_path):
        output = finish(start(tmp_path / "search", gpus=1000), code=1)
        assert "1000 GPUs, but no machine has more than 0" in output

    @pytest.mark.slow
    def test_two_searches_at_once(self, tmp_path):
        folders = [tmp_path / name for name in ("a", "b", "taken")]
        with History(POLICIES["random"](run_search.SPACE), folders[2]):
            processes = [start(folder) for folder in folders]
            output = finish(processes.pop(), code=1)
        assert "Another process searches in" in output
        for process, folder in zip(processes, folders):
            finish(process)
            assert len(results(folder)) == len(set(notes(folder))) == 12

    @pytest.mark.slow
    def test_head_killed_and_restarted(self, tmp_path):
        port = 20_000 + os.getpid() % 20_000
        address = f"127.0.0.1:{port}"
        folder = tmp_path / "search"
        head = Head(port, tmp_path)
        try:
            process = start(folder, 20, address=address)
            wait_for(lambda: len(notes(folder)) >= 5 or process.poll())
            head.kill()
            process.kill()
            process.wait()
            before = len(results(folder))
            assert 3 <= before < 20
            head = Head(port, tmp_path)
            finish(start(folder, 20, address=address))
        finally:
            head.kill()
        numbers = [line["number"] for line in results(folder)]
        assert sorted(numbers) == list(range(1, 21))
        assert sorted(map(int, notes(folder))) == sorted(numbers)


class Head:
    """A Ray cluster of this machine, in a process group of its own."""

    def __init__(self, port, folder):
        ray = pathlib.Path(sys.executable).parent / "ray"
        self.process = subprocess.Popen(
            [
                *(str(ray), "start", "--head", "--block", f"--port={port}"),
                *("--num-cpus=2", "--include-dashboard=false"),
                "--object-store-memory=100000000",
                "--node-ip-address=127.0.0.1",
            ],
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for line in self.process.stdout:
            if "--block" in line:
                break

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class TestErrors:
    """One child's error is its failure, that of all children is nobody's."""

    SUCCESS = {"reward": 0.5, "done": True}
    ERROR = {
        **{"reward": float("nan"), "failure": "KeyError: 1", "seconds": 2.0},
        **{"done": True, searcher.ERROR: "Traceback: KeyError"},
    }

    @pytest.fixture
    def history(self, tmp_path):
        with History(POLICIES["random"](run_search.SPACE), tmp_path) as history:
            yield history

    def work(self, proposer, *outcomes):
        """Begins a child for each of some outcomes, which then come."""
        names = [str(i) for i in range(len(outcomes))]
        for name in names:
            assert proposer.suggest(name)["number"]
        for name, outcome in zip(names, outcomes):
            proposer.on_trial_complete(name, dict(outcome))

    def test_of_one_child(self, history):
        proposer = searcher.PolicySearcher(history, 10)
        self.work(proposer, self.ERROR)
        assert not results(history.folder)
        self.work(proposer, self.SUCCESS, self.ERROR, self.ERROR)
        first, second = results(history.folder)
        assert (first["number"], second["number"]) == (1, 2)
        assert first["failure"] == "KeyError: 1"
        assert first["reward"] is None
        assert searcher.ERROR not in first
        # Two are not enough to stop for.
        assert proposer.suggest("next")["number"] == 5

    def test_after_a_restart(self, history):
        """The child that is begun first again does not block the rest."""
        self.work(searcher.PolicySearcher(history, 10), self.ERROR)
        history.close()
        policy = POLICIES["random"](run_search.SPACE)
        with History(policy, history.folder) as again:
            proposer = searcher.PolicySearcher(again, 10)
            self.work(proposer, self.ERROR, self.SUCCESS)
            assert [x["number"] for x in results(again.folder)] == [1, 2]

    def test_of_all_children(self, history):
        proposer = searcher.PolicySearcher(history, 10)
        outcomes = [self.ERROR] * searcher.MOST_ERRORS
        self.work(proposer, self.SUCCESS, *outcomes, self.SUCCESS)
        assert [x["number"] for x in results(history.folder)] == [1, 5]
        assert proposer.suggest("next") == searcher.Searcher.FINISHED
        assert "KeyError" in proposer.broken

    def test_in_a_used_process(self, history):
        """Only a process in which nothing else ran is believed."""
        evaluator = run_search.Pretender(
            os.path.join(history.folder, "notes"), 0, raising=[1, 2]
        )
        proposer = searcher.PolicySearcher(history, 10)
        trial = object.__new__(searcher.Trial)
        trial.setup(proposer.suggest("a"), evaluator, history.folder, None)
        assert "Nobody expects this." in trial.step()[searcher.ERROR]
        trial.reset_config(proposer.suggest("b"))
        with pytest.raises(ValueError, match="Nobody expects this."):
            trial.step()
        # Should that be the last time Ray tries, the reason is known.
        proposer.on_trial_complete("b", error=True)
        ((_, result),) = proposer.errors
        assert result["failure"] == "ValueError: Nobody expects this."
        assert result["parameters"] == 102

    def test_process_that_has_grown(self, history, monkeypatch):
        """Ray begins a child in another process than the last thirty."""
        monkeypatch.setattr(searcher, "CHILDREN_OF_A_PROCESS", 2)
        evaluator = run_search.Pretender(
            os.path.join(history.folder, "notes"), 0
        )
        proposer = searcher.PolicySearcher(history, 10)
        trial = object.__new__(searcher.Trial)
        trial.setup(proposer.suggest("a"), evaluator, history.folder, None)
        assert "reward" in trial.step()
        trial.reset_config(proposer.suggest("b"))
        assert "reward" in trial.step()
        third = proposer.suggest("c")
        trial.reset_config(third)
        with pytest.raises(RuntimeError, match="enough children"):
            trial.step()
        trial.setup(third, evaluator, history.folder, None)
        assert "reward" in trial.step()

    def test_result_of_another_search(self, history):
        evaluator = run_search.Pretender(
            os.path.join(history.folder, "notes"), 0
        )
        proposer = searcher.PolicySearcher(history, 10)
        task = proposer.suggest("a")
        stale = {**task, "seed": 99, "reward": 0.99, "done": True}
        path = child_file(history.folder, 1)
        pathlib.Path(path).write_text(json.dumps(stale))
        trial = object.__new__(searcher.Trial)
        trial.setup(task, evaluator, history.folder, None)
        assert trial.step()["reward"] == sum(task["decisions"]) / 36
        result = trial.step()
        assert result["reward"] == sum(task["decisions"]) / 18
        # Its own is found when Ray begins the child again.
        trial.setup(task, evaluator, history.folder, None)
        assert trial.step()["reward"] == result["reward"]


# Cells of one block, few images: seconds for a child.
SPACE = NASNetSpace(1, ["identity", "max_pool_3x3", "conv_1x1"], tied=True)
BUDGET = budgets._cifar(
    filters=4, num_cells=1, epochs=2, images=256, size=8, batch_size=32
)


class TestChild:
    def begin(self, cifar10_dir, budget=BUDGET, **settings):
        evaluator = child.ChildEvaluator(
            SPACE, budget, str(cifar10_dir), **settings
        )
        return evaluator((0, 1, 2, 1, 0), seed=3)

    def train(self, *arguments, **settings):
        return list(self.begin(*arguments, **settings))

    def test_learns_on_held_out_images(self, cifar10_dir, monkeypatch):
        loaded = []
        load = child.datasets.load
        monkeypatch.setattr(
            child.datasets,
            "load",
            lambda name, split, data_dir: (
                loaded.append(split) or load(name, split, data_dir)
            ),
        )
        child._load.cache_clear()
        size, first, second = self.train(cifar10_dir)
        assert loaded == ["train[:256]", "train[45000:]"]
        assert not first["done"] and second["done"]
        assert (first["epoch"], second["epoch"]) == (1, 2)
        for result in (first, second):
            assert 0.05 < result["reward"] < 0.5
        model = train.build_model(
            BUDGET.recipe_for(SPACE.decode((0, 1, 2, 1, 0))), list("0123456789")
        )
        assert size == {
            "parameters": model.count_params(),
            "multiply_adds": keras_nasnet.count_macs(model),
        }
        # Same seed, same child; and the images are not read again.
        assert self.train(cifar10_dir)[-1] == second
        assert len(loaded) == 2

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (FloatingPointError("nan"), "The loss is not a number."),
            (MemoryError(), "Out of memory."),
        ],
    )
    def test_failures(self, error, message, cifar10_dir, monkeypatch):
        def fit(*_, **__):
            raise error

        monkeypatch.setattr(keras.Model, "fit", fit)
        results = self.begin(cifar10_dir)
        # Known of those that fail, too.
        assert next(results).keys() == {"parameters", "multiply_adds"}
        with pytest.raises(child.ChildFailed, match=message):
            next(results)

    def test_last_update_of_an_epoch(self, cifar10_dir, monkeypatch):
        """It may spoil the weights when all losses were numbers."""
        logs = keras.callbacks.History()
        logs.history = {"val_accuracy": [0.1], "val_loss": [float("nan")]}
        monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: logs)
        with pytest.raises(child.ChildFailed, match="not a number"):
            self.train(cifar10_dir)

    def test_diverges(self, cifar10_dir):
        budget = budgets._cifar(
            **{"filters": 4, "num_cells": 1, "epochs": 2, "images": 256},
            **{"size": 8, "batch_size": 32},
            learning_rate=float("inf"),
        )
        with pytest.raises(child.ChildFailed, match="not a number"):
            self.train(cifar10_dir, budget)

    def test_time_limit(self, cifar10_dir):
        with pytest.raises(child.ChildFailed, match="longer than 0.001 s"):
            self.train(cifar10_dir, time_limit=0.001)


@pytest.mark.parametrize("states", [1, 5])
def test_recipe_for_other_cells(states):
    """`train --genotype` keeps the width, whatever a cell concatenates."""
    cell = keras_nasnet.CellGenotype(
        [keras_nasnet.Block(("conv_1x1", 0), ("identity", 1))] * states
    )
    genotype = keras_nasnet.Genotype(cell, cell)
    recipe = train.with_genotype(recipes.get("cifar10_tiny"), genotype)
    model = train.build_model(recipe, list("0123456789"))
    assert len(cell.outputs) == states
    assert model.get_layer("cell_0").filters == 16


class TestBudgets:
    @pytest.mark.parametrize("name", list(budgets.BUDGETS))
    def test_never_sees_test_images(self, name):
        recipe = budgets.BUDGETS[name].recipe
        assert recipe.train_split.startswith("train[:")
        assert recipe.eval_split == "train[45000:]"
        assert int(recipe.train_split[7:-1]) <= 45_000

    def test_published(self):
        recipe = budgets.BUDGETS["paper"].recipe
        assert recipe.model["num_cells"] == 2
        assert (recipe.epochs, recipe.schedule) == (20, "cosine")
        assert recipe.train_split == "train[:45000]"

        final = budgets.BUDGETS["paper_final"].recipe_for(keras_nasnet.NASNET_A)
        assert final.model["num_cells"] == 6
        assert final.model["penultimate_filters"] == 768

    @pytest.mark.parametrize("name", ["paper", "laptop"])
    def test_the_best_are_trained_longer_and_larger(self, name):
        children = budgets.BUDGETS[name]
        best = budgets.BUDGETS[f"{name}_final"]
        assert best.recipe.epochs > children.recipe.epochs
        sizes = [
            (budget.recipe.model["num_cells"], budget.filters)
            for budget in (children, best)
        ]
        assert sizes[0] < sizes[1]

    def test_width_is_that_of_the_first_cells(self):
        """However many states a cell concatenates."""
        for decisions in ((0, 1, 2, 1, 0), (0, 0, 2, 1, 0)):
            genotype = SPACE.decode(decisions)
            model = train.build_model(BUDGET.recipe_for(genotype), ["a", "b"])
            assert model.get_layer("cell_0").filters == 4

    @pytest.mark.parametrize("parameters", [3_000, 20_000])
    def test_equal_size(self, parameters):
        budget = budgets.Budget(BUDGET.recipe, 4, parameters)
        for decisions in ((0, 1, 2, 1, 0), (0, 0, 2, 2, 1)):
            recipe = budget.recipe_for(SPACE.decode(decisions))
            model = train.build_model(recipe, list("0123456789"))
            assert model.count_params() == pytest.approx(parameters, rel=0.2)


class TestCommands:
    """What the commands do before and after the search."""

    LINES = [
        {"number": i, "reward": reward, "genotype": runs.GENOTYPE.to_dict()}
        for i, reward in enumerate((0.25, None, 0.75, 0.5), 1)
    ]

    @pytest.fixture
    def calls(self, monkeypatch, tmp_path):
        """Arguments of searches, which end at once."""
        monkeypatch.setenv("HOME", str(tmp_path))
        calls = []

        def search(policy, budget, trials, workdir, **_):
            calls.append((budget, workdir))
            line = {
                **{"decisions": [0], "parameters": 1, "multiply_adds": 2},
                **{"epoch": 3, "seconds": 4.0, **self.LINES[0]},
            }
            failed = {**self.LINES[1], "decisions": [1], "failure": "Hangs."}
            write_history(pathlib.Path(workdir), [failed, line][-trials:])
            return line

        monkeypatch.setattr(run, "run", search)
        return calls

    def test_search(self, calls, tmp_path):
        run_command(run, "--trials=1", "--workdir=~/search")
        # As published, unless something else is asked for.
        expected = (budgets.BUDGETS["paper"], str(tmp_path / "search"))
        assert calls == [expected]
        assert (tmp_path / "search/best.json").exists()

    def test_rerank(self, calls, tmp_path):
        write_history(tmp_path / "search", self.LINES)
        run_command(
            *(rerank, "--history=~/search", "--top=1", "--workdir=~/best")
        )
        expected = (budgets.BUDGETS["paper_final"], str(tmp_path / "best"))
        assert calls == [expected]
        (row,) = read_table(tmp_path / "best/rerank.csv")
        assert (row["accuracy"], row["accuracy_in_search"]) == ("0.25", "0.75")
        assert (tmp_path / "best/winner.json").exists()

    def test_failed_candidates_are_listed(self, calls, tmp_path, capsys):
        write_history(tmp_path / "search", self.LINES)
        for name in "ab":
            runs.GENOTYPE.save(tmp_path / f"{name}.json")
        run_command(
            *(rerank, f"--genotypes={tmp_path}/a.json,{tmp_path}/b.json"),
            "--workdir=~/best",
        )
        best, failed = read_table(tmp_path / "best/rerank.csv")
        assert best["accuracy"] == "0.25" and not best["failure"]
        assert not failed["accuracy"] and failed["failure"] == "Hangs."
        assert "1 of 2 failed" in capsys.readouterr().out

    def test_cells_in_several_searches(self, tmp_path):
        """Count with the best that they have reached in one of them."""
        write_history(tmp_path / "a", self.LINES[:2])
        write_history(tmp_path / "b", self.LINES)
        folders = [str(tmp_path / name) for name in "ab"]
        (cells,), rewards = rerank.best_of(folders, 1)
        assert (cells.name, rewards) == ("b_3", [0.75])
        with pytest.raises(ValueError, match="`top` is 2, but .* has 1 diff"):
            rerank.best_of(folders, 2)


def read_table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_history(folder, lines):
    folder.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / RESULTS).write_text(text)


def test_from_search_to_phone(cifar10_dir, tmp_path, monkeypatch, capsys):
    """Search, report, rerank, train, predict, draw, export."""
    monkeypatch.setitem(budgets.BUDGETS, "laptop", BUDGET)
    monkeypatch.setitem(budgets.BUDGETS, "laptop_final", BUDGET)
    data_dir = f"--data_dir={cifar10_dir}"
    space = ["--num_blocks=1", "--operations=identity,max_pool_3x3,conv_1x1"]
    folder = tmp_path / "search"
    for trials in (2, 3):  # the second time it goes on
        run_command(
            *(run, "--budget=laptop", f"--trials={trials}"),
            *(f"--workdir={folder}", data_dir, *space),
        )
    shown = capsys.readouterr().out
    assert "Goes on after 2 children." in shown
    assert "3/3" in shown
    lines = results(folder)
    assert sorted(line["number"] for line in lines) == [1, 2, 3]
    assert all(0 < line["reward"] < 1 for line in lines)
    best = max(lines, key=lambda line: line["reward"])
    assert json.loads((folder / "best.json").read_text()) == best["genotype"]
    assert list((folder / "tensorboard").iterdir())

    with pytest.raises(ValueError, match="other settings: seed"):
        run_command(
            *(run, "--budget=laptop", "--trials=4", "--seed=1"),
            *(f"--workdir={folder}", *space),
        )

    run_command(report, f"--history={folder}", f"--out={tmp_path / 'report'}")
    page = (tmp_path / "report/index.html").read_text()
    assert f"{best['reward']:.4f}" in page
    assert {f.name for f in (tmp_path / "report").iterdir()} == {
        *("index.html", "curves.png", "best.png"),
    }

    ranked = tmp_path / "ranked"
    runs.GENOTYPE.save(tmp_path / "pools.json")
    run_command(
        *(rerank, f"--history={folder}", "--top=1", f"--workdir={ranked}"),
        *(data_dir, f"--genotypes={tmp_path / 'pools.json'}"),
        "--budget=laptop_final",
    )
    table = (ranked / "rerank.csv").read_text().splitlines()
    assert len(table) == 3
    winner = ranked / "winner.json"
    assert keras_nasnet.Genotype.load(winner).name == table[1].split(",")[0]

    run_command(
        train,
        "--recipe=cifar10_tiny",
        f"--workdir={tmp_path / 'trained'}",
        f"--genotype={winner}",
        "--train_split=train[:128]",
        "--epochs=1",
        data_dir,
    )
    model = keras.models.load_model(tmp_path / "trained/final.keras")
    image = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3))
    expected = model.predict(image, verbose=0)
    assert expected.sum() == pytest.approx(1, abs=1e-5)
    built = keras_nasnet.NASNet(
        (32, 32, 3),
        genotype=str(winner),
        num_cells=1,
        penultimate_filters=96,
    )
    cells = keras_nasnet.Genotype.load(winner)
    assert built.get_layer("cell_0").genotype == cells.normal
    picture = tmp_path / "winner.png"
    assert cli.main(["plot", str(winner), "--out", str(picture)]) == 0
    assert picture.stat().st_size > 1000
    keras_nasnet.export_tflite(model, tmp_path / "winner.tflite")
    phone = litert.LiteModel(tmp_path / "winner.tflite")
    np.testing.assert_allclose(
        phone.predict_on_batch(image.astype("float32")), expected, atol=1e-4
    )
