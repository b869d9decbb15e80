"""Experiments on recorded measurements, on a few made-up ones: they run, figures come from the CSVs alone; and the baselines that they compare with."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import check_grad
from sklearn.base import clone
from training_samples import MACHINE, SOURCES, directory

from costmodel.feature_table import GROUPS
from costmodel.metrics import grouped_quality
from costmodel.model import normalized_throughput
from costmodel.task_features import TaskFeatures
from data.measurements import read_measured
from experiments import feature_groups, measured, model_quality, objectives, transfer
from experiments.baselines import PARTS, SumOverStages, light_gbm, neural_network, part_rows, ridge, sum_gradients
from ir.errors import UserError
from tilewright.training_set import training_set

MEASURES = ["pairwise_accuracy", "recall_at_30", "top_1", "top_5"]


pytestmark = pytest.mark.usefixtures("few_trees")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Softmax has two stages, so some programs have a part more than others."""
    return directory(tmp_path_factory.mktemp("experiments") / "measured", n=24)


@pytest.fixture(scope="module")
def data(samples):
    return training_set(read_measured([samples]))


@pytest.fixture(autouse=True)
def known_data(monkeypatch, data):
    """Features of the samples take longer than all else: they are made once."""
    monkeypatch.setattr(measured, "training_set", lambda _: data)


# --- the experiments --------------------------------------------------------------------------------------------------


def assert_written(output, name, results):
    """The scores are scores, the figure and the summary come from the CSV alone, and machine.json says what was learned from."""
    assert results[MEASURES].apply(lambda column: column.between(0, 1)).all().all()
    about = json.loads((output / "machine.json").read_text())
    assert about["n_candidates"] == 24 * len(SOURCES)
    assert about["n_tasks"] == len(SOURCES) - 1  # one has two names
    assert (output / f"{name}.png").stat().st_size > 10_000


def plotted(module, output, capsys):
    """The two lines of the summary, made from what stands in the output."""
    assert module.main(["--plot-only", "--output", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    return lines


def test_model_quality(samples, tmp_path, capsys):
    config = model_quality.Config(networks=("b",), seeds=(0, 1), shares=(0.5, 1.0), n_threads=1)
    results = model_quality.run(config, samples, tmp_path)
    assert results[results["part"] == "split"].groupby("split").size().to_dict() == {"within": 2, "task": 2, "network": 2}
    curve = results[results["part"] == "curve"]
    assert set(zip(curve["task_share"], curve["candidate_share"], strict=True)) == {(0.5, 1.0), (1.0, 0.5), (1.0, 1.0)}
    assert len(set(curve["n_candidates"])) == 1  # the same are held out
    whole = curve[(curve["task_share"] == 1) & (curve["candidate_share"] == 1)].iloc[0]
    few = curve[curve["candidate_share"] == 0.5]
    assert (few["learned_tasks"] == whole["learned_tasks"]).all()
    assert (few["learned_candidates"] == whole["learned_candidates"] / 2).all()
    assert (curve.loc[curve["task_share"] == 0.5, "learned_tasks"] < whole["learned_tasks"]).all()
    assert "marks reached" in plotted(model_quality, tmp_path, capsys)[0]
    assert_written(tmp_path, "model_quality", results)


def test_model_quality_on_each_machine(tmp_path, monkeypatch):
    both = directory(tmp_path / "both", n=16)
    directory(both, n=16, machine=MACHINE | {"cpu": "x86-64"})
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(measured, "training_set", training_set)
    results = model_quality.run(model_quality.Config(splits=("task",), seeds=(0,), shares=(1.0,), n_threads=1), both, tmp_path / "results")
    n_candidates = results[results["part"] == "split"].set_index("machine")["n_candidates"]
    assert {name.split()[0] for name in n_candidates.index} == {measured.ALL, MACHINE["cpu"], "x86-64"}
    assert n_candidates[measured.ALL] == n_candidates.drop(measured.ALL).sum()
    assert len(model_quality.report(tmp_path / "results").splitlines()) == 2


def test_objectives(samples, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    results = objectives.run(objectives.Config(networks=("b",), seeds=(0,), n_threads=1), samples, tmp_path)
    assert capsys.readouterr().out.splitlines() == ["LightGBM is not installed, so it is left out; pip install '.[experiments]' brings it"]
    assert set(results["method"]) == {
        "squared error", "squared error, weight ½ z", "squared error, weight z", "rank:pairwise and squared error", "rank:pairwise",
        "rank:pairwise, all features", "rank:ndcg", "sum over stages", "sum over stages, weight z", "neural network", "ridge", "roofline", "random",
    }  # fmt: skip
    assert results.groupby("method").size().eq(2).all()
    plotted(objectives, tmp_path, capsys)
    assert_written(tmp_path, "objectives", results)


def test_feature_groups(samples, tmp_path, capsys):
    config = feature_groups.Config(seeds=(0,), groups=("loops", "task"), n_threads=1)
    results = feature_groups.run(config, samples, tmp_path)
    sizes = results.set_index(["features", "group"])["n_features"]
    assert sizes["all", ""] == sizes["without", "loops"] + sizes["alone", "loops"] == len(TaskFeatures.names)
    assert results.loc[results["group"] == "task", "pairwise_accuracy"].tolist()[1] == 0.5  # within a task it tells nothing apart
    lost = feature_groups.losses(results).set_index("group")["pairwise_accuracy"]
    accuracy = results.set_index(["features", "group"])["pairwise_accuracy"]
    assert lost["loops"] == pytest.approx(accuracy["all", ""] - accuracy["without", "loops"])
    plotted(feature_groups, tmp_path, capsys)
    assert_written(tmp_path, "feature_groups", results)


def test_transfer(samples, tmp_path, capsys):
    results = transfer.run(transfer.Config(seeds=(0, 1), min_tasks=2, n_predicted=20, n_threads=1), samples, tmp_path)
    families = results[results["part"] == "families"]
    assert set(families["held_out"]) == {"matmul", "softmax"}  # there is one convolution
    alone = families[(families["held_out"] == "softmax") & (families["learned"] == transfer.UNLIKE)]
    assert (alone["learned_tasks"] == 4).all()
    sizes = results[results["part"] == "sizes"]
    assert (sizes["learned_tasks"] == 3).all()
    assert sizes.groupby(["held_out", "seed"])["n_candidates"].nunique().eq(1).all()  # both are judged on the same
    plotted(transfer, tmp_path, capsys)
    predicted = pd.read_csv(tmp_path / "predicted.csv")
    assert len(predicted) == 20
    assert predicted["rank"].between(0, 1, inclusive="right").all()
    assert predicted["normalized_throughput"].between(0, 1).all()
    assert_written(tmp_path, "transfer", results)


def test_transfer_between_machines(tmp_path, monkeypatch):
    both = directory(tmp_path / "both", n=16)
    directory(both, n=16, machine=MACHINE | {"cpu": "x86-64"})
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(measured, "training_set", training_set)
    results = transfer.run(transfer.Config(seeds=(0,), min_tasks=len(SOURCES), n_predicted=20, n_threads=1), both, tmp_path / "results")
    machines = results[results["part"] == "machines"].set_index(["held_out", "learned"])
    assert {name.split()[0] for name in machines.index.unique("held_out")} == {MACHINE["cpu"], "x86-64"}
    assert (2 * machines["learned_candidates"].xs(transfer.UNLIKE, level="learned") == machines["learned_candidates"].xs(transfer.LIKE, level="learned")).all()
    assert machines.groupby("held_out")["n_candidates"].nunique().eq(1).all()  # both are judged on the same
    assert [line.split(":")[0] for line in transfer.report(tmp_path / "results").splitlines()] == ["sizes", "machines"]  # no family has so many tasks


@pytest.mark.parametrize("module", [model_quality, objectives, feature_groups, transfer])
def test_no_data_and_no_results_are_one_line(module, tmp_path, capsys):
    assert module.main(["--data", str(tmp_path / "none.parquet"), "--output", str(tmp_path)]) == 2
    assert module.main(["--plot-only", "--output", str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == ["error", "error"]


@pytest.mark.parametrize(("module", "function"), [(model_quality, "fit"), (objectives, "fit_and_judge")])
def test_networks_that_are_not_there_are_said_before_anything_is_fitted(module, function, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(module, function, lambda *_: pytest.fail("fitted"))
    with pytest.raises(UserError, match="no measurement is of network 'nowhere'"):
        module.run(replace(module.CONFIG, networks=("nowhere",)), samples, tmp_path)


def test_every_group_of_features_is_an_experiment():
    assert feature_groups.CONFIG.groups == (*GROUPS, feature_groups.AGAINST_USUAL)


# --- the baselines ----------------------------------------------------------------------------------------------------


def parts_data(n, seed):
    """Programs that lose throughput by their main nest and, where it is there, by packing: made-up features, (n,) throughputs, one group."""
    rng = np.random.default_rng(seed)
    X = np.zeros((n, len(TaskFeatures.names)), dtype=np.float32)
    column = TaskFeatures.names.index
    X[:, column("compute.flops")] = 1  # present, whatever else
    X[:, column("compute.l1.bytes")] = rng.random(n)
    packed = rng.random(n) < 0.5
    for name in ("run", "redundancy"):
        X[packed, column(f"pack_a.{name}")] = 0.1 + rng.random(packed.sum())
    X[:, column("task.flops")] = 30
    lost = X[:, column("compute.l1.bytes")] + X[:, column("pack_a.run")] * X[:, column("pack_a.redundancy")]
    return X, 3 - lost.astype(np.float64), np.zeros(n)


def test_rows_of_parts():
    X = parts_data(50, 0)[0]
    rows, programs = part_rows(X)
    packed = X[:, TaskFeatures.names.index("pack_a.run")] > 0
    assert np.bincount(programs).tolist() == (1 + packed).tolist()
    n_common = rows.shape[1] - len(PARTS) - sum(name.split(".")[0] not in PARTS for name in TaskFeatures.names)
    which = rows[:, n_common : n_common + len(PARTS)].argmax(axis=1)
    assert which.tolist() == [0] * 50 + [1] * packed.sum()
    assert (rows[:, n_common + len(PARTS) :] == X[programs][:, [name.split(".")[0] not in PARTS for name in TaskFeatures.names]]).all()
    assert np.nansum(rows[which == 1, :n_common]) == pytest.approx(X[:, [name.startswith("pack_a.") for name in TaskFeatures.names]].sum())


def test_every_part_of_a_real_program_has_a_row(data):
    rows, programs = part_rows(data.X)
    assert np.unique(programs).tolist() == list(range(len(data.y)))
    assert len(rows) > len(data.y)


def test_gradient_of_the_sum():
    """Against differences; and a step, short as the cost model's are, makes the error smaller."""
    rng = np.random.default_rng(0)
    programs, z, w, scores = np.array([0, 1, 1, 2, 2, 2, 1]), rng.random(3), rng.random(3), rng.random(7)

    def error(scores):
        return (w * (np.bincount(programs, scores) - z) ** 2).sum() / 2

    assert check_grad(error, lambda scores: sum_gradients(scores, programs, z, w)[0], scores) < 1e-6
    gradient, curvature = sum_gradients(scores, programs, z, w)
    assert error(scores - SumOverStages().learning_rate * gradient / curvature) < 0.9 * error(scores)


def test_sum_over_stages_learns():
    known, new = parts_data(600, 0), parts_data(300, 1)
    model = SumOverStages(feature_share=1.0).fit(*known)
    found = grouped_quality(model.predict(new[0]), new[1], new[2]).mean
    assert found.pairwise_accuracy > 0.9
    z = normalized_throughput(*new[1:])
    assert np.mean((model.predict(new[0]) - z) ** 2) < 0.1 * z.var()
    again = SumOverStages(feature_share=1.0).fit(*known)
    np.testing.assert_array_equal(again.predict(new[0]), model.predict(new[0]))


def test_sum_over_stages_weighs_by_throughput():
    """Slow programs, which hardly count, say the opposite of fast ones with the same features."""
    X, y, groups = parts_data(600, 0)
    both = np.concatenate([X, X]), np.concatenate([y, 1.5 * (y.max() - y)]), np.concatenate([groups, groups])
    uniform, weighted = (
        grouped_quality(SumOverStages(throughput_weight=weight, feature_share=1.0).fit(*both).predict(X), y, groups).mean for weight in (0.0, 1.0)
    )
    assert uniform.pairwise_accuracy < 0.5
    assert weighted.pairwise_accuracy > 0.8


@pytest.mark.parametrize("make", [ridge, lambda: neural_network(0), lambda: light_gbm(0, 1)], ids=["ridge", "neural network", "LightGBM"])
def test_regressions_learn(make):
    ranker = make()
    if ranker is None:
        pytest.skip("LightGBM is not installed")
    (X, y, groups), new = parts_data(2000, 0), parts_data(300, 1)
    X[0, 0] = np.nan
    scores = ranker.fit(X, y, groups).predict(new[0])
    assert scores.dtype == np.float32
    assert grouped_quality(scores, new[1], new[2]).mean.pairwise_accuracy > 0.85
    np.testing.assert_array_equal(clone(ranker).fit(X, y, groups).predict(new[0]), scores)
