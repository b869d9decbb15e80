"""How high the search climbs in the scores of a model, with a tiny configuration."""

import json

import numpy as np
import pandas as pd
import pytest
from search_samples import known_sketches, seconds_of

from costmodel.features import FEATURE_VERSION
from costmodel.model import CostModel
from costmodel.task_features import TaskFeatures
from costmodel.trained import shipped_model
from experiments import breeding
from experiments.breeding import FULL, Config, climb, gains, main, scores_of
from schedule.measurement import Candidate
from search.evolution import EvolutionOptions

TINY = Config(tasks=("matmul:m=48,n=48,k=48",), n_seeds=2, batch=4, n_batches=3, random_rows=64, options=EvolutionOptions(64, 2, 8, 2, epsilon=0.0))


def perfect(sketch, X):
    return -1e6 * seconds_of(sketch, X)


def test_breeding_climbs_higher_than_as_many_random_rows():
    (sketch,) = known_sketches()
    methods = Config(options=EvolutionOptions(128, 4, epsilon=0.0)).methods()
    bred, random = (
        [climb([sketch], perfect, methods[name], TINY, seed)[-1]["best_score"] for seed in range(5)] for name in (FULL, "as many random rows, no breeding")
    )
    assert sum(bred) > sum(random)


def test_batches_are_told_in_order():
    found = climb(known_sketches(), perfect, TINY.options, TINY, 0)
    assert [each["trials"] for each in found] == [4, 8, 12]
    assert all(each["best_score"] >= each["mean_score"] for each in found)
    assert found == sorted(found, key=lambda each: each["best_score"])
    again = climb(known_sketches(), perfect, TINY.options, TINY, 0)
    assert [each["mean_score"] for each in again] == [each["mean_score"] for each in found]


def test_scores_are_in_the_order_of_the_candidates():
    (sketch,) = known_sketches()
    X = sketch.space.sample(8, np.random.default_rng(0))
    candidates = [Candidate(sketch.name, tuple(row)) for row in X.tolist()]
    assert scores_of([sketch], candidates, perfect).tolist() == perfect(sketch, X).tolist()


def test_a_run_and_what_is_made_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(breeding, "CONFIG", TINY)
    assert main(["--output", str(tmp_path), "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "no crossover" in printed
    results = pd.read_csv(tmp_path / "results.csv")
    assert len(results) == len(TINY.methods()) * 2 * 3
    assert gains(results, (4, 12)).notna().all(axis=None)
    assert json.loads((tmp_path / "machine.json").read_bytes())["model_learned_from"] == shipped_model().card_.data_sha256
    (tmp_path / "breeding.png").unlink()
    assert main(["--output", str(tmp_path), "--plot-only"]) == 0
    assert (tmp_path / "breeding.png").stat().st_size > 10_000
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("arguments", [["--plot-only"], ["--model", "none.ubj"]])
def test_what_is_missing_is_said_in_one_line(tmp_path, capsys, arguments):
    assert main(["--output", str(tmp_path / "none"), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


def test_a_model_of_other_features_is_refused(tmp_path, capsys):
    rng = np.random.default_rng(0)
    names = TaskFeatures.names[1:]
    model = CostModel(n_estimators=1).fit(rng.random((8, len(names))), rng.random(8), [0] * 8)
    model.save(tmp_path / "model.ubj", FEATURE_VERSION + 1, names, "")
    assert main(["--output", str(tmp_path / "none"), "--model", str(tmp_path / "model.ubj")]) == 2
    assert "features" in capsys.readouterr().err


def test_there_must_be_a_seed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--seeds", "0"])
    assert ended.value.code == 2
    assert "0 is too few; expected 1 or more" in capsys.readouterr().err
