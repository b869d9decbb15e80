"""The experiments on recorded measurements, on a small recording with tiny configurations; and what they make of results."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from search_samples import known_sketches, seconds_of

from costmodel.features import FEATURE_VERSION
from costmodel.model import CostModel
from costmodel.task_features import TaskFeatures
from experiments import replayed, search_parts, simulation, simulation_figure
from experiments.methods import Method, no_learner
from experiments.paired_figure import draw_differences
from experiments.replayed import Recording, best_after, recorded_tasks, replay, steps
from ir.errors import UserError
from schedule.rules import sketches
from search.evolution import EvolutionarySearch, EvolutionOptions
from search.learner import Learner
from search.random_search import RandomSearch

RECORDS = Path(__file__).parent / "golden" / "conv2d_trials.parquet"
TINY = EvolutionOptions(population=64, generations=1, elites=4)


@pytest.fixture(scope="module")
def recording():
    (records,) = recorded_tasks(RECORDS, 100).values()
    return Recording.of(records)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file of a model that has learned from another task."""
    return write_model(tmp_path_factory.mktemp("model") / "model.ubj", ["matmul:m=96,n=160,k=200"])


def write_model(path, trained):
    rng = np.random.default_rng(0)
    X = rng.random((64, len(TaskFeatures.names)), dtype=np.float32)
    fitted = CostModel(n_estimators=2).fit(X, rng.random(64), np.zeros(64))
    fitted.save(path, FEATURE_VERSION, TaskFeatures.names, "ab" * 32, training={"trained": trained, "machines": [], "split": None})
    return path


def test_features_are_those_of_the_task(recording):
    describe = TaskFeatures(sketches(recording.task.program, recording.target), recording.target)
    for sketch in recording.sketches:
        X = sketch.space.sample(20, np.random.default_rng(0))
        np.testing.assert_array_equal(recording.features(sketch, X), describe(sketch, X))


def test_a_replay_makes_its_trials_and_repeats_itself(recording):
    def runs(seed, **changes):
        method = Method(lambda *given: EvolutionarySearch(*given, TINY), Learner.from_scratch, 40, 1, **changes)
        return replay(recording, method, seed).tolist()

    assert len(runs(0)) == 40
    assert max(runs(0)) <= recording.best_throughput
    assert runs(0) == runs(0) != runs(1)
    assert len(runs(0, batches=(4, 8, 16))) == 40


def test_a_replay_ends_when_everything_was_measured(recording):
    found = replay(recording, Method(RandomSearch, no_learner, 100_000, 1, (64,)), 0)
    n = sum(len(sketch.space.recorded) for sketch in recording.sketches)
    assert n - 4 <= len(found) <= n  # random rows find the last few by luck


def test_simulation(tmp_path, model):
    config = simulation.Config(RECORDS, model, 100, 2, 32, 64, 1, 16, evolution=TINY, n_processes=1)
    pytest.importorskip("optuna")
    results = replayed.run(config, tmp_path)
    assert results.groupby("method")["trial"].max().to_dict() == {
        "learned": 32,
        "learned, with a prior": 32,
        "annealing": 32,
        "genetic": 32,
        "random": 64,
        "TPE": 16,
    }
    assert results["best_share"].between(0, 1).all()
    assert json.loads((tmp_path / "machine.json").read_bytes())["model_learned_from"] == "ab" * 32
    read = pd.read_csv(tmp_path / "results.csv")
    simulation_figure.draw(read, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert len(simulation.summary(read, n_scratch=16, n_prior=8).splitlines()) == 2


def test_search_parts(tmp_path, model):
    config = search_parts.Config(RECORDS, model, 100, 2, (8, 16), TINY, n_processes=1)
    results = replayed.run(config, tmp_path)
    read = pd.read_csv(tmp_path / "results.csv")
    table = search_parts.gains(read, config.trials)
    assert set(table.index) == set(results["method"]) - {search_parts.FULL, search_parts.PRIOR}
    assert table.notna().all(axis=None)
    draw_differences(table, tmp_path / "figure.png", "title", "unit")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_model_that_knows_the_task_is_refused(tmp_path, recording):
    path = write_model(tmp_path / "model.ubj", [recording.task.key])
    with pytest.raises(UserError, match="was trained on"):
        replayed.run(simulation.Config(RECORDS, path, 100), tmp_path)
    assert not (tmp_path / "results.csv").exists()


def test_recordings_that_are_too_small_are_refused():
    with pytest.raises(UserError, match="none of its 1 tasks has 100000 trials"):
        recorded_tasks(RECORDS, 100_000)


def results_of(**runs):
    """Results of methods: for each task, the share after each trial of the only seed."""
    rows = [(task, method, 0, *step) for method, tasks in runs.items() for task, shares in tasks.items() for step in steps(np.array(shares), len(shares))]
    return pd.DataFrame(rows, columns=["task", "method", "seed", "trial", "best_share"])


def test_steps_say_all_there_is_to_a_run():
    assert steps(np.array([0.0, 0.5, 0.4, 0.8, 0.1]), 9) == [(2, 0.5), (4, 0.8), (9, 0.8)]
    curve = best_after(results_of(one={"t": [0.0, 0.5, 0.4, 0.8, 0.1]}), [1, 2, 3, 4, 5, 6]).iloc[0]
    assert curve.tolist()[:5] == [0.0, 0.5, 0.5, 0.8, 0.8]
    assert math.isnan(curve.iloc[5])


def test_trials_to_reach_a_quality():
    table = simulation.trials_to_reach(results_of(a={"s": [0.9, 0.96], "t": [0.1, 0.92]}, b={"s": [0.1, 0.2], "t": [0.3, 1.0]}))
    assert table.loc["a"].tolist() == [1.5, math.inf, math.inf]
    assert table.index.tolist() == ["a", "b"]


def test_ratio_of_trials():
    results = results_of(quick={"s": [0.5, 0.8], "t": [0.5, 0.9]}, slow={"s": [0.1] * 7 + [0.85], "t": [0.2, 0.9] + [0.9] * 6})
    found = simulation.ratio(results, "quick", 2, "slow")
    assert (found.times, found.n_tasks, found.n_never) == (pytest.approx(2.0), 2, 0)  # 8 instead of 2 trials, and 2 instead of 2
    assert simulation.ratio(results, "slow", 2, "quick").times == pytest.approx(math.sqrt(0.5))
    assert str(simulation.ratio(results, "slow", 8, "quick")).endswith("(at least: never on 1 of 2 tasks)")


def test_paired_differences():
    both = [results_of(**{search_parts.FULL: {"t": [0.5] * 128}, "other": {"t": [0.5] * 32 + [0.6 + 0.1 * seed] * 96}}).assign(seed=seed) for seed in (0, 1)]
    table = search_parts.gains(pd.concat(both), (32, 64))
    assert table.loc["other", (32, "mean")] == 0
    assert table.loc["other", (64, "mean")] == pytest.approx(15)
    assert table.loc["other", (64, "half")] == pytest.approx(12.706 * 5, rel=1e-3)  # Student's t of one degree of freedom


class TestTPE:
    def searches(self, seed=0):
        pytest.importorskip("optuna")
        from experiments.tpe import TPESearch

        return TPESearch(known_sketches(), None, np.random.default_rng(seed))

    def run(self, seed=0, n_rounds=3):
        search = self.searches(seed)
        (sketch,) = known_sketches()
        trace, throughputs = [], []
        for _ in range(n_rounds):
            batch = search.ask(8)
            told = (1 / seconds_of(sketch, np.array([candidate.row for candidate in batch]))).tolist()
            search.tell(batch, told)
            trace, throughputs = trace + batch, throughputs + told
        return trace, throughputs

    def test_asks_for_valid_rows_and_never_twice(self):
        trace, _ = self.run()
        (sketch,) = known_sketches()
        assert len(trace) == 24 == len(set(trace))
        assert sketch.space.contains(np.array([candidate.row for candidate in trace])).all()

    def test_same_seed_same_candidates(self):
        assert self.run(1)[0] == self.run(1)[0] != self.run(2)[0]

    def test_does_not_ask_for_what_it_was_told(self):
        told = self.run(3)[0]
        search = self.searches(3)
        search.tell(told, [1.0] * len(told))
        assert not set(search.ask(16)) & set(told)

    def test_learns(self):
        _, throughputs = self.run(0, n_rounds=10)
        assert np.mean(throughputs[-24:]) > 1.1 * np.mean(throughputs[:10])

    def test_says_what_is_missing(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "optuna", None)
        from experiments.tpe import TPESearch

        with pytest.raises(UserError, match="needs Optuna"):
            TPESearch(known_sketches(), None, np.random.default_rng(0))
