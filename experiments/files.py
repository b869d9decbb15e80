"""The files of an experiment: results.csv, where there are several kinds of rows other CSVs, and machine.json, each written in one step, and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ir.errors import UserError
from ir.files import write_file

RESULTS = "results.csv"
COST_MODEL = "scratch"  # in comparisons with others: the model shipped has learned from their very tasks


def write_results(output: Path, results: pd.DataFrame, name: str = RESULTS, **form: Any) -> None:
    """`form`: of the numbers, as `DataFrame.to_csv` takes it."""
    write_file(output / name, results.to_csv(index=False, **form).encode())


def write_machine(output: Path, about: Mapping[str, object]) -> None:
    write_file(output / "machine.json", (json.dumps(about, indent=2) + "\n").encode())


def read_results(output: Path, name: str = RESULTS, **form: Any) -> pd.DataFrame:
    """`UserError` where there are none, or no CSV. `form`: what an empty cell means, as `read_csv` takes it."""
    path = output / name
    try:
        return pd.read_csv(path, **form)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: it cannot be read: {getattr(error, 'strerror', None) or error}; a run of the experiment makes it") from None
