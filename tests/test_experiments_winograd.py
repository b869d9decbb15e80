"""Winograd against direct: a tiny run, and the table that is made of its CSV alone."""

from dataclasses import replace

import pandas as pd
import pytest

from experiments import winograd
from experiments.winograd import CONFIG, report
from ir.errors import UserError


def test_a_tiny_run(tmp_path):
    config = replace(CONFIG, batches=(1,), layers=((64, 14),), max_trials=16, rounds=2)
    results = winograd.run(config, tmp_path)
    read = pd.read_csv(tmp_path / "results.csv")
    assert len(read) == len(results) == 1
    (row,) = (row for _, row in read.iterrows())
    assert row["winograd_sketch"].startswith("winograd")
    assert not row["direct_sketch"].startswith("winograd")
    assert row["ratio"] == pytest.approx(row["direct_seconds"] / row["winograd_seconds"])
    assert 0 < row["direct_error"] < 1e-5
    assert 0 < row["winograd_error"] < 1e-4
    text = report(tmp_path)
    assert (tmp_path / "winograd.md").read_text() == f"{text}\n"
    assert f"{row['ratio']:.2f}" in text
    assert f"by medians {row['direct_median_seconds'] / row['winograd_median_seconds']:.2f} ×" in text
    assert f"{int(row['ratio'] >= winograd.RATIO)} of 1 layers reach" in text


def test_layers_without_records_are_named(tmp_path):
    with pytest.raises(UserError, match=r"direct\.db"):
        winograd.run(CONFIG, tmp_path, tune=False)
