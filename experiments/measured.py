"""What the experiments on recorded measurements share: the data, and a ranker judged on a part of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from codegen.limits import package_version
from costmodel.model import Ranker
from costmodel.training import data_sha256
from data.measurements import read_measured
from data.repeatability import repeatability
from experiments.files import write_machine, write_results
from tilewright.api import versions
from tilewright.splits import Mask, held_out
from tilewright.training import judge
from tilewright.training_set import TrainingSet, training_set

Row = dict[str, object]

ALL = "all"  # machines together


@dataclass(frozen=True)
class Measurements:
    """`machines`: by id what people call each. `pairwise_bounds`: by such a name, and of `ALL`, the pairwise accuracy
    that noise lets any model reach, None where no pair of candidates was measured twice."""

    data: TrainingSet
    machines: dict[str, str]
    pairwise_bounds: dict[str, float | None]


def load(path: Path) -> Measurements:
    """Of a directory that `tilewright record` wrote, or a file of records."""
    measured = read_measured([path])
    records = measured.by_machine()
    bounds = {name: repeatability(mine).pairwise_bound for name, mine in {ALL: measured.records, **records}.items()}
    return Measurements(training_set(measured), dict(zip(measured.machines, records, strict=True)), bounds)


def write(output: Path, rows: Sequence[Row], measured: Measurements, config: Any) -> pd.DataFrame:
    """results.csv, and what it was made from as machine.json. Rows that name no machine are of all."""
    data, results = measured.data, pd.DataFrame([{"machine": ALL, **row} for row in rows])
    results["pairwise_bound"] = results["machine"].map(measured.pairwise_bounds)
    write_results(output, results, float_format="%.5g")
    about = {
        "machines": measured.machines,
        "data_sha256": data_sha256(data.X, data.y, data.names),
        "n_candidates": len(data.y),
        "n_tasks": len(set(data.programs.tolist())),
        "left_out": dict(data.left_out),
        "config": asdict(config),
        "versions": versions() | {name: package_version(name) for name in ("scikit-learn", "lightgbm")},
    }
    write_machine(output, about)
    return results


def splits(data: TrainingSet, names: Sequence[str], seeds: Sequence[int], networks: Sequence[str]) -> Iterator[tuple[str, int, Mask, tuple[str, ...]]]:
    """(split, seed, what is held out, the networks that this is for, if any). The split by network is the same for every seed."""
    found = [(split, seed, held_out(data, split, seed, networks)) for split in names for seed in seeds]  # what cannot be is said before anything is fitted
    for split, seed, hold in found:
        print(f"split {split}, seed {seed}", file=sys.stderr, flush=True)
        yield split, seed, hold, tuple(networks) if split == "network" else ()


def fit_and_judge(
    model: Ranker, data: TrainingSet, learn: Mask, hold: Mask, networks: tuple[str, ...] = (), columns: Sequence[int] | slice = slice(None)
) -> Row:
    """Scores on what `hold` takes of a model that learned from what `learn` takes; of the features it sees `columns`."""
    learned = fit(model, data, learn, columns)
    return {**learned, **judge(model.predict(data.X[hold][:, columns]), data, hold, networks).to_json()}


def fit(model: Ranker, data: TrainingSet, learn: Mask, columns: Sequence[int] | slice = slice(None)) -> Row:
    """How much the model learned from what `learn` takes, and how long that took."""
    start = time.perf_counter()
    model.fit(data.X[learn][:, columns], data.y[learn], data.names[learn])
    seconds = time.perf_counter() - start
    return {"learned_tasks": len(set(data.programs[learn].tolist())), "learned_candidates": int(learn.sum()), "fit_seconds": seconds}
