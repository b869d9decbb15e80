"""One search on one recorded task, over and over: what `experiments.simulation` and `experiments.search_parts` have in common.

Spaces hold recorded rows alone (`search.recorded`), so what a search asks for is always there: no clock, no noise, and as many seeds as one likes. The
features of all recorded rows of a task are computed once.

Results have a row wherever the best of a run improved, and one at its end: task, method, seed, trial (how many were made), best_share (the best throughput
until then over the best that was recorded). A run that has measured all there is stays as it is until the end.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from codegen.limits import package_version
from costmodel.model import CostModel
from costmodel.task_features import TaskFeatures
from costmodel.trained import trained_model
from data.measurements import read_measured
from data.record import Record
from data.replay import ReplayRunner
from experiments.command import command, count
from experiments.files import model_learned_from, write_machine, write_results
from experiments.methods import Method
from ir.errors import UserError
from ir.task import Task, task
from schedule.measurement import Candidate
from schedule.rules import sketches
from schedule.sketch import Sketch
from schedule.space import Population
from schedule.target import Target
from search.annealing import AnnealingOptions
from search.evolution import EvolutionOptions
from search.learner import throughput
from search.recorded import recorded_sketches
from tilewright import api
from tilewright.training import learned_from, training_of

RUN = ["task", "method", "seed"]  # the columns that name one
COLUMNS = [*RUN, "trial", "best_share"]

# Both look at about a thousand rows for each batch. In a live run they look at five to eight thousand; of a few thousand recorded rows that would be all of
# them, and how they come up would make no difference.
EVOLUTION = EvolutionOptions(population=256, generations=3, elites=16)
ANNEALING = AnnealingOptions(chains=64, steps=16)
ANNEALING_BATCH = 64  # of AutoTVM (Chen et al., NeurIPS 2018)


class RecordedFeatures:
    """`TaskFeatures` of spaces of recorded rows, which are described once. `whole`: all sketches of the task, their spaces as they are."""

    def __init__(self, whole: Sequence[Sketch], known: Sequence[Sketch], target: Target) -> None:
        describe = TaskFeatures(whole, target)
        self._features = {sketch.name: describe(sketch, sketch.space.recorded) for sketch in known}

    def __call__(self, sketch: Sketch, X: Population) -> NDArray[np.float32]:
        return self._features[sketch.name][sketch.space.places(X)]


def known_rows(runner: ReplayRunner, whole: Sequence[Sketch]) -> dict[str, Population]:
    """The recorded rows that today's spaces hold, by sketch."""
    rows = {sketch.name: runner.population(sketch) for sketch in whole}
    return {sketch.name: rows[sketch.name][sketch.space.contains(rows[sketch.name])] for sketch in whole}


@dataclass(frozen=True)
class Recording:
    """What was measured of one task. `sketches`: their spaces hold what was recorded alone."""

    task: Task
    target: Target
    sketches: tuple[Sketch, ...]
    runner: ReplayRunner
    features: RecordedFeatures
    best_throughput: float

    @classmethod
    def of(cls, records: Sequence[Record]) -> Recording:
        """`UserError` where the records are not of one task, machine and number of threads, or none of their rows in a space of today was valid."""
        runner = ReplayRunner(records)
        of, target = task(records[0].task), records[0].target
        whole = sketches(of.program, target)
        known = recorded_sketches(whole, known_rows(runner, whole))
        candidates = [Candidate(sketch.name, tuple(row)) for sketch in known for row in sketch.space.recorded.tolist()]
        best = max((throughput(of, measurement.best_seconds) for measurement in runner(of, candidates)), default=0.0)
        if not best:
            raise UserError(f"none of the {len(records)} measurements of {of.key} is of a candidate that this version knows and that is valid")
        return cls(of, target, known, runner, RecordedFeatures(whole, known, target), best)

    def make_describe(self, task: Task, target: Target) -> RecordedFeatures:
        return self.features


@dataclass(frozen=True)
class ReplayConfig(ABC):
    """What experiments that replay have in common."""

    data: Path = Path("data/simulation")
    model: Path | None = None  # trained before, on other tasks
    min_trials: int = 1000  # recorded, of a task that takes part
    n_seeds: int = 10
    n_processes: int = field(default=2, kw_only=True)

    @abstractmethod
    def methods(self, tasks: Iterable[str]) -> Mapping[str, Method]:
        """By name. `UserError` where the model has learned from any of the tasks."""


def run(config: ReplayConfig, output: Path) -> pd.DataFrame:
    """Replay everything and write results.csv, and what it was made from as machine.json."""
    tasks = recorded_tasks(config.data, config.min_trials)
    config.methods(tasks)  # what cannot be is said before anything is replayed
    about = _about(config, tasks)  # of the model as it is now
    results = replay_all(tasks, partial(config.methods, tuple(tasks)), config.n_processes)
    write_results(output, results, float_format="%.6g")
    write_machine(output, about)
    return results


def _about(config: ReplayConfig, tasks: Mapping[str, Sequence[Record]]) -> dict[str, object]:
    """What was replayed, and the machines that it was recorded on."""
    return {
        "recorded_on": {records[0].setting.machine: records[0].machine for records in tasks.values()},
        "threads": sorted({records[0].threads for records in tasks.values()}),
        "recorded_candidates": {of: len(records) for of, records in tasks.items()},
        "replayed_candidates": {of: _n_known(records) for of, records in tasks.items()},
        "config": {name: _plain(value) for name, value in vars(config).items()},
        **model_learned_from(None if config.model is None else trained_model(config.model)),
        "versions": api.versions() | {"optuna": package_version("optuna")},
    }


def _n_known(records: Sequence[Record]) -> int:
    """Of the recorded candidates, those that this version knows: the others take no part."""
    of, runner = task(records[0].task), ReplayRunner(records)
    n_known = sum(map(len, known_rows(runner, sketches(of.program, records[0].target)).values()))
    if n_known < len(records):
        print(
            f"{of.key}: {n_known} of {len(records)} measurements are of candidates that this version knows, each once; the others take no part", file=sys.stderr
        )
    return n_known


def _plain(value: object) -> object:
    """For JSON. Of a file its name: where it lay says nothing to others."""
    return value.name if isinstance(value, Path) else value if isinstance(value, int | tuple) else str(value)


def replay_command(name: str, description: str | None, config: ReplayConfig, report: Callable[[Path], str], arguments: Sequence[str] | None = None) -> int:
    """The exit code of an experiment whose `config` the command line changes."""

    def add_options(parser: ArgumentParser) -> None:
        parser.add_argument("--model", type=Path, help="what tilewright train wrote, from other tasks")
        parser.add_argument("--min-trials", type=count, default=config.min_trials, help="recorded, of a task that takes part")
        parser.add_argument("--seeds", type=count, default=config.n_seeds)

    def run_changed(options: Namespace) -> None:
        run(replace(config, data=options.data, model=options.model, min_trials=options.min_trials, n_seeds=options.seeds), options.output)

    return command(name, description, run_changed, report, arguments, data=config.data, add_options=add_options)


def recorded_tasks(path: Path, min_trials: int) -> dict[str, list[Record]]:
    """First measurements by task, of the tasks with so many or more; `UserError` where there are none."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in read_measured([path]).records:
        if record.is_trial:
            found[record.task].append(record)
    enough = {of: records for of, records in found.items() if len(records) >= min_trials}
    for of, records in enough.items():
        if len(settings := {record.setting for record in records}) > 1:
            raise UserError(f"{path}: {of} was measured on {len(settings)} machines or with as many numbers of threads; a replay needs the measurements of one")
    if not enough:
        raise UserError(f"{path}: none of its {len(found)} tasks has {min_trials} trials or more; tilewright record measures so many of a few tasks")
    return enough


def load_prior(path: Path, tasks: Iterable[str]) -> CostModel:
    """The model of a file; `UserError` where it has learned from any of the tasks that it is to help with."""
    model = trained_model(path)
    if found := learned_from(path, training_of(path, model), tasks):
        raise UserError(f"{path} was trained on what it is to help with: it knows {found}; expected a model of other tasks")
    return model


def replay_all(tasks: Mapping[str, Sequence[Record]], make_methods: Callable[[], Mapping[str, Method]], n_processes: int) -> pd.DataFrame:
    """The results of all methods and seeds on all tasks. `make_methods` is called once a task, in the process that replays it."""
    work = partial(_replay_task, make_methods)
    if n_processes == 1:
        return pd.concat(map(work, tasks.values()), ignore_index=True)
    with ProcessPoolExecutor(n_processes, get_context("spawn")) as pool:
        return pd.concat(pool.map(work, tasks.values()), ignore_index=True)


def _replay_task(make_methods: Callable[[], Mapping[str, Method]], records: Sequence[Record]) -> pd.DataFrame:
    recording = Recording.of(records)
    rows: list[tuple[object, ...]] = []
    for name, method in make_methods().items():
        for seed in range(method.n_seeds):
            throughputs = replay(recording, method, seed)
            rows += [(recording.task.key, name, seed, *step) for step in steps(throughputs / recording.best_throughput, method.n_trials)]
    print(f"replayed {recording.task.key}", file=sys.stderr, flush=True)
    return pd.DataFrame(rows, columns=COLUMNS)


def replay(recording: Recording, method: Method, seed: int) -> NDArray[np.float64]:
    """(n,) throughputs in the order of the trials, 0 for failures; fewer than the method may have where all that was recorded has been asked for."""
    of = recording.task
    learner = method.learner(recording.target, seed, make_describe=recording.make_describe)
    search = method.search(recording.sketches, learner.scorer(of), np.random.default_rng(seed))
    found: list[float] = []
    for batch in chain(method.batches, repeat(method.batches[-1])):
        n = min(batch, method.n_trials - len(found))
        learner.fit(of)
        candidates = search.ask(n, explore=learner.is_lost) if n else []
        if not candidates:
            return np.array(found)
        throughputs = [throughput(of, measurement.best_seconds) for measurement in recording.runner(of, candidates)]
        found += throughputs
        learner.quality(of, recording.sketches, candidates, throughputs)  # what the learner trusts follows from it
        search.tell(candidates, throughputs)
        learner.observe(of, recording.sketches, candidates, throughputs)
    raise AssertionError("batches never end")


def steps(shares: NDArray[np.float64], n_trials: int) -> list[tuple[int, float]]:
    """(trials, best so far) wherever the best improved, and after `n_trials`."""
    so_far = np.maximum.accumulate(shares)
    improved = np.flatnonzero(np.diff(so_far, prepend=0.0) > 0)
    found = {int(at) + 1: float(so_far[at]) for at in improved}
    return list((found | {n_trials: float(so_far[-1])}).items())


def best_after(results: pd.DataFrame, trials: Sequence[int] | NDArray[np.int64]) -> pd.DataFrame:
    """Best so far of each run (rows: task, method, seed) after so many trials (columns); 0 before the first success, NaN where the run has ended."""
    found = {name: _after(run, np.asarray(trials)) for name, run in results.groupby(RUN, sort=False)}
    return pd.DataFrame(list(found.values()), index=pd.MultiIndex.from_tuples(list(found), names=RUN), columns=list(trials))


def _after(run: pd.DataFrame, trials: NDArray[np.int64]) -> NDArray[np.float64]:
    at, best = run["trial"].to_numpy(), np.concatenate([[0.0], run["best_share"].to_numpy()])
    return np.where(trials <= at[-1], best[np.searchsorted(at, trials, side="right")], np.nan)
