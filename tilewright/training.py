"""From records files to a cost model file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codegen.kernel import find_sketch
from costmodel.features import FEATURE_VERSION, FeatureExtractor
from costmodel.model import CostModel
from costmodel.training import Validation, cross_validate, data_sha256
from costmodel.training import train as train_model
from data.record import Record
from data.store import read_all
from ir.errors import IllegalCandidate, UserError
from ir.task import task
from schedule.target import Target


@dataclass(frozen=True)
class Training:
    """What was learned from, and how good the model is on what it had not seen."""

    n_trials: int
    n_failed: int
    n_settings: int
    left_out: Counter[str]  # trials that mean nothing to this version, by reason
    validation: Validation

    def to_json(self) -> dict[str, object]:
        return {
            "n_trials": self.n_trials,
            "n_failed": self.n_failed,
            "n_settings": self.n_settings,
            "left_out": dict(self.left_out),
            "validation": self.validation.summary(),
        }


def train_from_records(paths: Sequence[Path], output: Path, seed: int) -> Training:
    """Train on all trials of these records files and write the model; `UserError` if there is too little to learn from."""
    if not paths:
        raise UserError("train needs --records FILE, one or more")
    records = [record for record in read_all(paths) if record.kind == "trial"]
    X, y, groups, left_out = dataset(records)
    model = CostModel(seed=seed)
    validation = cross_validate(X, y, groups, model, seed=seed)
    train_model(X, y, groups, model).save(output, FEATURE_VERSION, FeatureExtractor.names, data_sha256(X, y, groups), validation.summary())
    return Training(len(y), int(np.count_nonzero(y == 0)), len(np.unique(groups)), left_out, validation)


def dataset(records: Iterable[Record]) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.str_], Counter[str]]:
    """(n, f) features, (n,) throughputs, (n,) settings by name, and what was left out by reason.

    The features are computed anew from the rows, so records do not grow old with them; a record whose sketch has other columns now is left out.
    """
    by_sketch: dict[tuple[object, str], list[Record]] = {}
    for record in records:
        by_sketch.setdefault((record.setting, record.sketch), []).append(record)
    features, throughputs, groups = [np.empty((0, len(FeatureExtractor.names)), np.float32)], list[float](), list[str]()
    left_out: Counter[str] = Counter()
    for (setting, name), mine in by_sketch.items():
        first, of = mine[0], task(mine[0].task)
        target = Target.from_json({**{k: v for k, v in first.machine.items() if k != "cpu_model"}, "threads": first.threads})
        try:
            sketch = find_sketch(of, name, target)
        except IllegalCandidate:
            left_out["sketch is not made any more"] += len(mine)
            continue
        columns = tuple(symbol.name for symbol in sketch.space.symbols)
        known = [record for record in mine if record.columns == columns]
        left_out["sketch has other columns now"] += len(mine) - len(known)
        if known:
            features.append(FeatureExtractor(sketch, target)(np.array([record.row for record in known], dtype=np.int64)))
            throughputs += [of.work / record.best_seconds if record.ok else 0.0 for record in known]
            groups += [str(setting)] * len(known)
    return np.concatenate(features), np.array(throughputs), np.array(groups), +left_out


def print_training(training: Training, output: Path) -> None:
    from tilewright.display import console, print_table

    validation = training.validation
    if validation.mean is not None:
        mean = validation.mean
        names = ("pairwise accuracy", f"recall@{validation.k}", "top-1", "top-5", "Spearman")
        values = (mean.pairwise_accuracy, mean.recall_at_k, mean.top_1, mean.top_5, mean.spearman)
        print_table(f"held out, {validation.split}", names, [[f"{value:.3f}" for value in values]], left=0)
    out = console()
    out.print(f"{training.n_trials} trials ({training.n_failed} failed) of {training.n_settings} tasks")
    for reason, n in training.left_out.items():
        out.print(f"left out: {n} trials whose {reason}")
    out.print(f"model written to {output}")
