"""The files of an experiment: results.csv, where there are several kinds of rows other CSVs, and machine.json, each written in one step, and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pandas as pd

from codegen.machine import Machine
from costmodel.model import CostModel
from ir.errors import UserError
from ir.files import write_file

RESULTS = "results.csv"
COST_MODEL = "scratch"  # in comparisons with others: the model shipped has learned from their very tasks


def write_results(output: Path, results: pd.DataFrame, name: str = RESULTS, **form: Any) -> None:
    """`form`: of the numbers, as `DataFrame.to_csv` takes it."""
    write_file(output / name, results.to_csv(index=False, **form).encode())


def check_same_machine(output: Path, machine: Machine) -> None:
    """Before rows are added to those that are there: `UserError` where these are of a machine of another kind."""
    told = _told(output, [("machine", "target")], "of which machine the rows beside it are")
    for there in told:
        if {**there, "features": ""} != {**machine.target.to_json(), "features": ""}:  # a later LLVM knows more of the same CPU
            raise UserError(
                f"{output / RESULTS}: its rows are of another machine ({_kind(there)}; this one: {_kind(machine.target.to_json())}); choose another --output"
            )


def check_alike(output: Path, about: Mapping[str, Any], *paths: tuple[str, ...]) -> None:
    """Before rows are added to those that are there: `UserError` where what machine.json says of these at any of the paths is not what `about` says."""
    for names, value in zip(paths, _told(output, paths, "what the rows beside it were made with"), strict=False):
        if value != _at(about, names):
            raise UserError(f"{output / RESULTS}: its rows have {' '.join(names)} {value}; this run {_at(about, names)}; choose another --output")


def _told(output: Path, paths: Sequence[Sequence[str]], what: str) -> list[Any]:
    """What machine.json says at each of the paths; nothing where there are no rows yet, or no such file. `UserError` where it does not say that."""
    path = output / "machine.json"
    if not (output / RESULTS).exists() or not path.exists():
        return []
    try:
        about = json.loads(path.read_bytes())
        return [_at(about, names) for names in paths]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: it does not say {what}: {error}") from None


def _at(about: Any, names: Sequence[str]) -> Any:
    """What stands there under one name after the other."""
    return reduce(getitem, names, about)


def _kind(target: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in target.items() if name != "features")


def model_learned_from(model: CostModel | None) -> dict[str, str | None]:
    """For machine.json: the hash of the data that a model trained before learned from, which tells it better than the name of its file."""
    return {"model_learned_from": None if model is None else model.card_.data_sha256}


def write_machine(output: Path, about: Mapping[str, object]) -> None:
    write_file(output / "machine.json", (json.dumps(about, indent=2) + "\n").encode())


def read_results(output: Path, columns: Sequence[str], name: str = RESULTS, **form: Any) -> pd.DataFrame:
    """`UserError` where there are none, no CSV, or none with these columns. `form`: what an empty cell means, as `read_csv` takes it."""
    path = output / name
    try:
        results = pd.read_csv(path, **form)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: it cannot be read: {getattr(error, 'strerror', None) or error}; a run of the experiment makes it") from None
    missing = [column for column in columns if column not in results]
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UserError(f"{path}: it lacks the column {missing[0]}{others}, as another version's may; run the experiment again, into another directory")
    if results.empty:
        raise UserError(f"{path}: it has no rows; a run of the experiment makes them")
    return results
