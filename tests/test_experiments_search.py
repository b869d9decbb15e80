"""The search experiments on tiny configurations: they run, and their figures come from the CSV alone."""

import json

import numpy as np
import pandas as pd
import pytest

from costmodel.features import FEATURE_VERSION
from costmodel.model import CostModel
from costmodel.task_features import TaskFeatures
from experiments import search_efficiency, throughput
from experiments.search_efficiency_figure import draw, draw_tasks
from ir.errors import UserError
from schedule.measurement import Candidate


def test_search_efficiency(tmp_path):
    pytest.importorskip("optuna")
    config = search_efficiency.Config(("matmul:m=24,n=40,k=32",), 1, other_trials=8, random_trials=18, batch=4)
    results, rounds = search_efficiency.run(config, tmp_path)
    n_trials = {"learned": 8, "annealing": 8, "genetic": 8, "tpe": 8, "random": 18}
    assert results.groupby("method").size().to_dict() == n_trials
    assert rounds.groupby("method")["n_measured"].sum().to_dict() == n_trials
    assert json.loads((tmp_path / "machine.json").read_bytes())["model_learned_from"] is None
    for _, run in results.groupby("method"):
        assert (run["best_speed"] > 0).all()
        third = [np.partition(run["seconds"].to_numpy()[: i + 1], 2)[2] if i > 1 else np.inf for i in range(len(run))]
        among = run["seconds"].to_numpy() <= third
        assert (run["best_speed"].diff().fillna(1) != 0)[~among].sum() == 0  # the default and the three fastest until then are measured again
        assert (np.diff(run["elapsed_seconds"]) >= 0).all()
    read = pd.read_csv(tmp_path / "results.csv")
    runs = search_efficiency.to_their_ends(read)
    draw(runs, pd.read_csv(tmp_path / "rounds.csv"), tmp_path / "figure.png")
    draw_tasks(runs, tmp_path / "tasks.png")
    assert min((tmp_path / name).stat().st_size for name in ("figure.png", "tasks.png")) > 10_000
    table = search_efficiency.summary(read)
    assert table.index.tolist() == list(n_trials)
    assert table.notna().sum(axis=1).tolist() == [0, 0, 0, 0, 1]  # 16 trials, which only one method had
    assert 0 < table.loc["random", 16] <= 1


def test_search_efficiency_in_parts(tmp_path, capsys):
    pytest.importorskip("optuna")
    config = search_efficiency.Config(("matmul:m=24,n=40,k=32", "transpose:shape=8x12,axes=1x0"), 1, other_trials=4, random_trials=4, batch=4)
    second, _ = search_efficiency.run(config, tmp_path, numbers=[2])
    results, rounds = search_efficiency.run(config, tmp_path, numbers=[1])
    assert tuple(results["task"].unique()) == tuple(rounds["task"].unique()) == config.tasks
    there = pd.read_csv(tmp_path / "results.csv")
    assert there[there["task"] == config.tasks[1]]["best_speed"].tolist() == pytest.approx(second["best_speed"].tolist(), rel=1e-5)
    about = json.loads((tmp_path / "machine.json").read_bytes())
    about["versions"]["features"] = "1"
    (tmp_path / "machine.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=f"its rows have versions features 1; this run {FEATURE_VERSION}; choose another"):
        search_efficiency.run(config, tmp_path, numbers=[1])
    assert search_efficiency.main(["--tasks", "1,12", "--output", str(tmp_path / "out")]) == 2
    assert "there is no task 12; expected numbers from 1 to 11" in capsys.readouterr().err


def test_a_run_that_has_measured_all_there_is_stays_as_it_is():
    rows = [("a", "random", 0, trial, trial + 1.0, speed) for trial, speed in enumerate([1.0, 4.0])]
    rows += [("b", "random", 0, trial, trial + 1.0, speed) for trial, speed in enumerate([2.0, 3.0, 5.0, 10.0])]
    runs = search_efficiency.to_their_ends(pd.DataFrame(rows, columns=["task", "method", "seed", "trial", "elapsed_seconds", "best_speed"]))
    assert runs["task"].tolist() == ["a"] * 3 + ["b"] * 4
    assert runs["trial"].tolist() == [1, 2, 4, 1, 2, 3, 4]
    assert runs["best_share"].tolist() == pytest.approx([0.25, 1.0, 1.0, 0.2, 0.3, 0.5, 1.0])


def test_what_is_kept_is_chosen_by_one_series_and_judged_by_the_others():
    lucky, fast, slow = (Candidate(name, (1,)) for name in ("lucky", "fast", "slow"))
    choosing, judging = {lucky: 9.0, fast: 5.0, slow: 1.0}, [{lucky: 4.0, fast: 5.0, slow: 20.0}, {lucky: 4.5, fast: 5.0, slow: 20.0}]
    assert search_efficiency.speed_of_kept([fast, lucky, slow], choosing, judging) == 4.5
    assert search_efficiency.speed_of_kept([fast, slow], choosing, judging) == 5.0
    assert search_efficiency.speed_of_kept([], choosing, judging) == 0.0


def test_the_summary_is_the_share_of_what_any_run_found():
    runs = {("a", "learned", 0): (4.0, 8.0), ("a", "random", 0): (1.0, 10.0), ("b", "learned", 0): (3.0, 6.0), ("b", "random", 0): (1.0, 3.0)}
    rows = [(*run, trial, best) for run, (first, later) in runs.items() for trial, best in [(0, first), (15, first), (31, later)]]
    table = search_efficiency.summary(pd.DataFrame(rows, columns=["task", "method", "seed", "trial", "best_speed"]))
    assert table.loc["learned", [16, 32]].tolist() == pytest.approx([np.sqrt(0.4 * 0.5), np.sqrt(0.8 * 1.0)])
    assert table.loc["random", [16, 32]].tolist() == pytest.approx([np.sqrt(0.1 / 6), np.sqrt(1.0 * 0.5)])
    assert table[[64, 128, 256]].isna().all(axis=None)


def test_a_model_that_knows_the_tasks_is_refused(tmp_path, capsys):
    known = search_efficiency.CONFIG.tasks[0]
    X, y = np.random.default_rng(0).random((40, len(TaskFeatures.names)), dtype=np.float32), np.arange(1.0, 41.0)
    model = CostModel(n_estimators=2).fit(X, y, np.zeros(40))
    model.save(tmp_path / "m.ubj", FEATURE_VERSION, TaskFeatures.names, "0", training={"split": None, "trained": [known]})
    assert search_efficiency.main(["--model", str(tmp_path / "m.ubj"), "--output", str(tmp_path / "out")]) == 2
    assert "1 of the 11 tasks" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.csv").exists()


def test_throughput(tmp_path):
    config = throughput.Config("conv2d:c=8,h=6,w=6,k=8,r=3,s=3,pad=1", "matmul:m=24,n=40,k=32", 64, 100, 2, 32, 6, 130)
    results = throughput.run(config, tmp_path)
    assert set(results["quantity"]) == {"features", "ranking", "search round", "fit", "trials", "memory"}
    assert (results["value"] > 0).all()
