"""The operator suite: its cases, a tiny run of it, and the table and figure that are made of its CSV alone."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments import operators, operators_figure
from experiments.operators import CONFIG, Config, table
from graph.operator_suite import FAMILIES
from ir.errors import UserError
from ir.task import task
from tilewright import api


def test_every_family_has_four_shapes_at_two_batches():
    cases = CONFIG.cases()
    assert len(cases) == 4 * 2 * len(FAMILIES)
    assert set(cases.values()) == {(family, batch) for family in FAMILIES for batch in (1, 16)}


@pytest.mark.parametrize(
    ("family", "gflops"),
    [
        ("C1D", 2 * 128 * 128 * 64 * 3),
        ("C3D", 2 * 8 * 112 * 112 * 64 * 3 * 343),
        ("T2D", 2 * 8 * 8 * 256 * 512 * 4),
        ("CAP", 2 * 8 * 8 * 16 * 32 * 4 * 32 * 9),
        ("ATT", 12 * 128 * 128 * (4 * 64 + 2)),
    ],
)
def test_the_first_shape_is_the_one_that_is_meant(family, gflops):
    assert next(FAMILIES[family].tasks(1)).flops == gflops
    assert next(FAMILIES[family].tasks(16)).flops == 16 * gflops


def test_softmax_has_its_rows_as_batch():
    assert [next(FAMILIES["SFM"].tasks(batch)).key for batch in (1, 16)] == ["softmax:shape=256x256,axis=1", "softmax:shape=16x256,axis=1"]


def test_families_are_chosen_by_name():
    assert operators.chosen_families("GMM,C1D", tuple(FAMILIES)) == ("GMM", "C1D")
    with pytest.raises(UserError, match="unknown family 'XYZ' \\(known: C1D, "):
        operators.chosen_families("XYZ", tuple(FAMILIES))


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("softmax:shape=3x5,axis=1", 15),
        ("attention:batch=1,heads=2,queries=3,keys=4,dim=5", 24),
        ("elementwise:shapes=2x3.3,value=add(exp(a);exp(exp(b)))", 18),
        ("matmul:m=2,n=3,k=4", 0),
    ],
)
def test_powers_are_counted(text, n):
    assert operators.n_powers(task(text).program) == n


def test_a_case_counts_where_it_is_bound():
    """Powers bound what they take longer for than memory and multiply-adds, and nothing else is left out."""
    fractions = {"multiplies": (0.9, 0.1, 0.0), "moves": (0.2, 0.7, 0.4), "raises": (0.1, 0.3, 0.5)}
    columns = ("kernel_peak_fraction", "kernel_bandwidth_fraction", "kernel_powers_fraction")
    shared = {
        "contender": "tuned", "family": "SFM", "batch": 1, "setting": "tile_k", "ratio_to_best_peer": 2.0, "min_seconds": 1.0, "kernel_seconds": 1.0,
        "gflops": 1.0, "kernel_gflops": 1.0, "memory_level": "L2", "best_peer": "numpy", "other_cpus": 0.0, "median_ratio_to_best_peer": 2.0,
        "noise_minima": 1.0, "trials": 1, "failed": 0,
    }  # fmt: skip
    rows = [{**shared, "task": name, **dict(zip(columns, each, strict=True)), "limit_fraction": max(each)} for name, each in fractions.items()]
    text = table(pd.DataFrame(rows))
    assert "multiply-adds reach 90.0% of the FMA peak (wanted: 92%; 1 cases)" in text
    assert "bound by memory 70.0% of its bandwidth (wanted: 80%; 1 cases)" in text
    assert "bound by powers of two 50.0% of what the machine can work out of these (1 cases)" in text
    assert f"reach {(0.7 * 0.3) ** 0.5:.1%} of the bandwidth (2 cases)" in text


def tune_little(of, records, config):
    api.tune(of, records=records, max_trials=1, threads=None)


def test_powers_are_held_against_the_machine(tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "SFM", replace(FAMILIES["SFM"], shapes=((24, 32),)))
    config = Config(families=("SFM",), batches=(1,), peers=("numpy",), max_trials=1, rounds=2, turn_seconds=0.001)
    results = operators.run(config, tmp_path, tune=tune_little)
    powers_a_second = 1e9 * json.loads((tmp_path / "machine.json").read_text())["limits"]["powers_all"]["best"]
    (tuned,) = results[results["contender"] == "tuned"].to_dict("records")
    assert tuned["kernel_powers_fraction"] == pytest.approx(24 * 32 / powers_a_second / tuned["kernel_seconds"])
    assert tuned["limit_fraction"] == max(tuned[f"kernel_{each}_fraction"] for each in operators.LIMITS)


def test_a_tiny_run(tmp_path, monkeypatch):
    small = replace(FAMILIES["TBG"], shapes=((8, 2, 4),))
    monkeypatch.setitem(FAMILIES, "TBG", small)
    config = Config(families=("TBG",), batches=(1, 16), peers=("numpy",), max_trials=1, rounds=2, turn_seconds=0.001)
    results = operators.run(config, tmp_path, tune=tune_little)
    read = pd.read_csv(tmp_path / "results.csv")
    assert set(read["contender"]) == {"tuned", "default", "numpy"}
    assert list(read["batch"].unique()) == [1, 16]
    assert (read["trials"] == 1).all()
    assert len(read) == len(results)
    tuned = read[read["contender"] == "tuned"]
    flops = np.array([task(key).flops for key in tuned["task"]])
    assert tuned["kernel_gflops"].to_numpy() == pytest.approx(1e-9 * flops / tuned["kernel_seconds"].to_numpy())
    assert tuned["kernel_peak_fraction"].to_numpy() == pytest.approx((tuned["kernel_gflops"] / tuned["peak_gflops"]).to_numpy())
    assert (tuned["limit_fraction"] == tuned[["kernel_peak_fraction", "kernel_bandwidth_fraction", "kernel_powers_fraction"]].max(axis=1)).all()
    assert (tuned["kernel_powers_fraction"] == 0).all()
    assert read.loc[read["contender"] == "numpy", "limit_fraction"].isna().all()
    again = operators.run(replace(config, batches=(16,)), tmp_path, tune=None)
    assert list(again["task"]) == list(read["task"])
    text = operators.report(tmp_path)
    assert "All 2 cases: " in text
    assert "| TBG | transpose, batched product | 2 | " in text
    assert (tmp_path / "operators.png").stat().st_size > 10_000
    lost = read[(read["batch"] == 16) | (read["contender"] != "tuned")]
    text = operators.table(lost)
    assert text.startswith("All 1 cases: ")
    assert f"Not tuned, and in none of these numbers: {read['task'][0]}." in text
    operators_figure.draw(lost, tmp_path / "lost.png")


def test_rows_of_an_earlier_version_are_refused(tmp_path):
    pd.DataFrame({"task": ["matmul:m=1,n=1,k=1"], "limit_fraction": [1.0]}).to_csv(tmp_path / "results.csv")
    with pytest.raises(UserError, match=r"results\.csv: it lacks the column family and \d+ others, as another version's may"):
        operators.run(Config(families=("TBG",)), tmp_path, tune=None)
