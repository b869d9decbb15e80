"""From measurements to a cost model file, and scores on what a model has not seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from costmodel.features import FEATURE_VERSION
from costmodel.held_out import HeldOutScores, held_out_scores
from costmodel.model import CostModel
from costmodel.task_features import TaskFeatures
from costmodel.trained import trained_model
from costmodel.training import cross_validate, data_sha256, pretraining_model
from costmodel.training import train as train_model
from data.measurements import Measured, read_measured
from data.repeatability import Repeatability, repeatability
from ir.errors import UserError
from ir.identity import program_id
from ir.task import task
from tilewright.splits import NETWORKS, Mask, held_out
from tilewright.training_set import TrainingSet, training_set


@dataclass(frozen=True)
class Training:
    """What was learned from, and how good the model is on what it had not seen: by cross-validation, or on what was held out."""

    n_trials: int
    n_failed: int
    n_trained_tasks: int
    left_out: Counter[str]  # trials that mean nothing to this version, by reason
    judged: Judged

    def to_json(self) -> dict[str, object]:
        counts = {"n_trials": self.n_trials, "n_failed": self.n_failed, "n_trained_tasks": self.n_trained_tasks, "left_out": dict(self.left_out)}
        return counts | self.judged.to_json()


@dataclass(frozen=True)
class Judged:
    """Scores on what `split`, one of `tilewright.splits` or of cross-validation, holds out, and what the noise of the measurements lets any model reach."""

    split: str
    scores: HeldOutScores
    repeatability: Repeatability  # of all the measurements, held out or not
    machines: Mapping[str, Judged]  # where there are several, by what people call each, the same of what it measured

    def to_json(self) -> dict[str, object]:
        bound = self.repeatability.pairwise_bound
        found = {"split": self.split, **self.scores.to_json(), "pairwise_bound": bound, "repeatability": self.repeatability.to_json()}
        return found | ({"machines": {name: each.to_json() for name, each in self.machines.items()}} if self.machines else {})


FEW = 2048  # candidates: below, a second thread gains seconds (1,000: 4.1 instead of 6.6), and loses a minute on a busy machine, where both spin to wait


def train_from_data(
    paths: Sequence[Path], output: Path, seed: int, *, holdout: str | None = None, networks: Sequence[str] = NETWORKS, mix_machines: bool = False
) -> Training:
    """Train on all trials of these directories, Parquet files and records files, and write the model.

    With `holdout`, a split of `tilewright.splits`, the model learns from the rest alone; without, from everything, and is judged by cross-validation.
    `UserError` if there is too little to learn from, nothing to judge, or several machines that are not to be mixed.
    """
    if not paths:
        raise UserError("train needs --records FILE or DATA, one or more")
    measured = read_measured(paths)
    data = training_set(measured, mix_machines=mix_machines)
    mask = held_out(data, holdout, seed, networks) if holdout else np.zeros(len(data.groups), dtype=bool)
    gone = tuple(networks) if holdout == "network" else ()
    X, y, groups = data.X[~mask], data.y[~mask], data.names[~mask]
    model = pretraining_model(seed, n_threads=1 if len(y) < FEW else 0)
    fitted = train_model(X, y, groups, model)
    if holdout:
        judged = _judged(holdout, fitted.predict(data.X[mask]), data, mask, gone, measured)
    else:
        validation = cross_validate(X, y, groups, model, seed=seed, programs=data.programs, candidates=data.place)
        judged = _judged(validation.split, validation.scores, data, ~mask, gone, measured)
    known = {
        "split": holdout,
        "seed": seed,
        "networks": list(gone),
        "machines": measured.machines,
        "trained": data.tasks(~mask),
        "held_out": data.tasks(mask),
    }
    fitted.save(output, FEATURE_VERSION, TaskFeatures.names, data_sha256(X, y, groups), judged.to_json(), known)
    return Training(len(y), int(np.count_nonzero(y == 0)), len(np.unique(data.programs[~mask])), data.left_out, judged)


def evaluate(
    path: Path, paths: Sequence[Path], split: str, *, networks: Sequence[str] | None = None, allow_trained: bool = False, mix_machines: bool = False
) -> Judged:
    """Scores of a model file on what `split` holds out of the measurements, with the seed and (where none are given) the networks that it was trained with.

    `UserError` where it was trained on some of that and this is not allowed, and where it was trained on another machine without mixing being meant.
    """
    model = trained_model(path)
    known = training_of(path, model)
    measured = read_measured(paths)
    foreign = [machine for machine in measured.machines if machine not in known["machines"]]
    if foreign and not mix_machines:
        raise UserError(
            f"{path} was trained on machine {', '.join(known['machines'])}, the measurements are of {', '.join(foreign)}; --mix-machines allows that"
        )
    data = training_set(measured, mix_machines=mix_machines)
    chosen = tuple(networks or known["networks"] or NETWORKS)
    mask = held_out(data, split, known["seed"], chosen)
    if not allow_trained:
        _refuse_trained(path, known, split, data.tasks(mask))
    return _judged(split, model.predict(data.X[mask]), data, mask, chosen if split == "network" else (), measured)


def training_of(path: Path, model: CostModel) -> Mapping[str, Any]:
    """What a loaded model's card says of its training; `UserError` where that is nothing."""
    if not model.card_.training:
        raise UserError(f"{path} does not say what it was trained on; expected a model that tilewright train wrote")
    known: Mapping[str, Any] = model.card_.training
    return known


def _refuse_trained(path: Path, known: Mapping[str, Any], split: str, tasks: Iterable[str]) -> None:
    """`UserError` where the model has learned from some of the tasks that `split` would score. `known`: what its card says of its training."""
    found = learned_from(path, known, tasks)
    if found and not (split == known["split"] == "within"):  # there the same candidates were held out
        trained = f"with --holdout {known['split']}" if known["split"] else "on everything"
        raise UserError(f"{path} was trained {trained}: it knows {found} that --split {split} would score; --allow-trained scores them anyway")


def learned_from(path: Path, known: Mapping[str, Any], tasks: Iterable[str]) -> str:
    """Of how many of these tasks a model has learned, under whatever names, as in `1 of the 6 tasks`; empty where of none."""
    wanted = _programs(f"{path} is to be judged on", tasks)
    seen = wanted & _programs(f"{path} was trained on", known["trained"])
    return f"{len(seen)} of the {len(wanted)} tasks" if seen else ""


def _programs(role: str, names: Iterable[str]) -> set[str]:
    """Their ids: what is the same under another name is for this version to say, not for the one that trained. `role`: what they are, for the error."""
    try:
        return {program_id(task(name).program) for name in names}
    except UserError as error:
        raise UserError(f"{role} tasks that this version does not know, so what it has learned from cannot be told from the others: {error}") from None


def judge(scores: NDArray[np.float32], data: TrainingSet, mask: Mask, networks: tuple[str, ...] = ()) -> HeldOutScores:
    """Of the candidates of the mask, whose scores are given. Where networks are held out, what they share with others counts for them alone.

    `UserError` where no task has two candidates of different speed.
    """
    found = _scores(scores, data, mask, networks)
    if found is None:
        raise UserError("none of the tasks held out has two candidates of different speed, so there is nothing to judge")
    return found


def judge_machines(scores: NDArray[np.float32], data: TrainingSet, mask: Mask, networks: tuple[str, ...] = ()) -> dict[str, HeldOutScores]:
    """The same on what each machine measured, by its id; nothing of those with nothing to judge, nor where there is one machine alone."""
    machines = sorted({group.machine for group in data.of_group})
    several = machines if len(machines) > 1 else []
    found = {machine: _scores(scores[data.machines[mask] == machine], data, mask & (data.machines == machine), networks) for machine in several}
    return {machine: each for machine, each in found.items() if each is not None}


def _scores(scores: NDArray[np.float32], data: TrainingSet, mask: Mask, networks: tuple[str, ...]) -> HeldOutScores | None:
    uses = [{name: n for name, n in group.uses.items() if name in networks} or group.uses for group in data.of_group]
    uses = [{f"{name} on {group.machine}, {group.threads}": n for name, n in mine.items()} for group, mine in zip(data.of_group, uses, strict=True)]
    return held_out_scores(scores, data.seconds[mask], data.groups[mask], uses)


def _judged(split: str, scores: NDArray[np.float32], data: TrainingSet, mask: Mask, networks: tuple[str, ...], measured: Measured) -> Judged:
    """On all machines together, and on each."""
    by_machine = judge_machines(scores, data, mask, networks)
    names = zip(measured.machines, measured.by_machine().items(), strict=True)
    machines = {name: Judged(split, by_machine[number], repeatability(mine), {}) for number, (name, mine) in names if number in by_machine}
    return Judged(split, judge(scores, data, mask, networks), repeatability(measured.records), machines)


def print_training(training: Training, output: Path) -> None:
    from tilewright.display import console, counted

    print_judged(training.judged)
    out = console()
    out.print(f"learned from {counted(training.n_trials, 'trial')} ({training.n_failed} failed) of {counted(training.n_trained_tasks, 'task')}")
    for reason, n in training.left_out.items():
        out.print(Text(f"left out: {counted(n, 'trial')} whose {reason}"))
    out.print(Text(f"model written to {output}"))


def print_judged(judged: Judged) -> None:
    """The scores, where there are several machines those on each too; beside them what noise lets a perfect model reach, and what chance would."""
    from tilewright.display import console, counted, print_table

    scores, repeated = judged.scores, judged.repeatability
    names = ("", "pairwise accuracy", "at most", "recall@30", "by chance", "top-1", "top-5")
    rows = [(name, *_cells(each)) for name, each in {"this model": judged, **{f"on {name}": each for name, each in judged.machines.items()}}.items()]
    print_table(f"held out: {judged.split}", names, rows)
    pairs = f"{repeated.n_pairs} pairs measured twice"
    agreed = f"{repeated.agreement:.1%} of {pairs} agree in their order" if repeated.agreement is not None else "no pair of candidates was measured twice"
    console().print("at most: what the repeatability of the measurements lets any model reach; by chance: recall@30 of any order")
    judged_on = f"{counted(scores.n_candidates, 'candidate')} of {counted(scores.n_tasks, 'task')}"
    console().print(f"{judged_on} ({scores.n_tasks_left_out} with nothing to order); {agreed}")


def _cells(judged: Judged) -> tuple[str, ...]:
    scores, bound = judged.scores, judged.repeatability.pairwise_bound
    numbers = (scores.pairwise_accuracy, bound, scores.recall_at_30, scores.recall_at_30_by_chance, scores.top_1, scores.top_5)
    return tuple("–" if number is None else f"{number:.3f}" for number in numbers)
