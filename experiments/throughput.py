"""How fast the tuner itself is: features, search rounds, trials, and its memory over many trials.

    python -m experiments.throughput [--output DIRECTORY]

Writes results.csv (a row a quantity) and machine.json, and prints the rows. The last part runs thousands of trials on a runner that answers at once from a
formula, so that the memory is the tuner's own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from codegen.machine import detect_machine
from codegen.runner import LiveRunner
from costmodel.task_features import TaskFeatures
from costmodel.trained import shipped_model
from experiments.command import command, whole
from experiments.files import read_results, write_machine, write_results
from ir.task import Task, task
from schedule.measurement import Candidate, Measurement
from schedule.rules import sketches
from schedule.target import Target
from search.evolution import EvolutionarySearch, EvolutionOptions
from search.learner import Learner
from search.tuner import Progress, TuneOptions, Tuner
from tilewright import api


@dataclass(frozen=True)
class Config:
    conv: str = "conv2d:c=64,h=56,w=56,k=64,r=3,s=3,pad=1,epilogue=bias+relu"
    matmul: str = "matmul:m=512,n=512,k=512"
    population: int = 2048
    ranked: int = 10_000
    repeats: int = 20
    known_trials: int = 512  # that the cost model of the timed search rounds has learned from
    live_trials: int = 256
    memory_trials: int = 5000


CONFIG = Config()
COLUMNS = ("quantity", "value", "unit", "how")


def run(config: Config, output: Path) -> pd.DataFrame:
    """Measure all, and write results.csv and machine.json."""
    machine = detect_machine()
    rows = [row for part in (features, ranking, rounds, trials, memory) for row in part(config, machine.target)]
    results = pd.DataFrame(rows, columns=COLUMNS)
    write_results(output, results)
    write_machine(output, {"machine": machine.to_json(), "versions": api.versions(), "config": asdict(config)})
    return results


Rows = list[tuple[str, float, str, str]]


def timed(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """(minimum, median) seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), float(np.median(seconds))


def features(config: Config, target: Target) -> Rows:
    """Candidates described a second."""
    rows: Rows = []
    for text in (config.conv, config.matmul):
        known = sketches(task(text).program, target)
        describe = TaskFeatures(known, target)
        X = known[0].space.sample(config.population, np.random.default_rng(0))
        fastest, median = timed(lambda describe=describe, sketch=known[0], X=X: describe(sketch, X), config.repeats)
        how = f"{len(describe.names)} features of {config.population} rows of {text}"
        rows += [("features", len(X) / fastest, "candidates/s at best", how), ("features", len(X) / median, "candidates/s, median", how)]
    return rows


def ranking(config: Config, target: Target) -> Rows:
    """Features of candidates and their scores by the shipped model."""
    known = sketches(task(config.conv).program, target)
    describe, model = TaskFeatures(known, target), shipped_model()
    X = known[0].space.sample(config.ranked, np.random.default_rng(0))
    fastest, median = timed(lambda: model.predict(describe(known[0], X)), config.repeats)
    how = f"{len(X)} candidates of {config.conv} described and scored by the shipped model"
    return [("ranking", fastest, "s at best", how), ("ranking", median, "s, median", how)]


def rounds(config: Config, target: Target) -> Rows:
    """A whole round of evolutionary search: population, generations, features, ranking."""
    of = task(config.conv)
    known = sketches(of.program, target)
    learner, rng = Learner.from_scratch(target, 0), np.random.default_rng(0)
    X = known[0].space.sample(config.known_trials, rng)
    learner.observe(of, known, [Candidate(known[0].name, tuple(row)) for row in X.tolist()], list(1.0 + rng.random(len(X))))
    start = time.perf_counter()
    learner.fit(of)
    fit = time.perf_counter() - start
    options = EvolutionOptions()
    search = EvolutionarySearch(known, learner.scorer(of), rng, options)
    fastest, median = timed(lambda: search.ask(16), config.repeats)
    how = f"{options.population:,} rows, {options.generations} generations, model of {config.known_trials} trials, {config.conv}"
    return [("search round", fastest, "s at best", how), ("search round", median, "s, median", how), ("fit", fit, "s", f"{config.known_trials} trials")]


def trials(config: Config, target: Target) -> Rows:
    """Live trials a second, everything included but the start of the workers."""
    of = task(config.matmul)
    with LiveRunner(target) as runner:
        runner(of, [Candidate.default(sketches(of.program, target)[0])])
        options = TuneOptions(max_trials=config.live_trials)
        tuner = Tuner([of], target, runner, Learner.from_scratch(target, 0), EvolutionarySearch, None, options, machine={}, versions={})
        start = time.perf_counter()
        state = whole(tuner.run()).tasks[0]
        seconds = time.perf_counter() - start
    return [
        ("trials", state.n_trials / seconds, "trials/s", f"{config.live_trials} trials of {config.matmul}, build, check, search, model and final measurement")
    ]


class InstantRunner:
    """Seconds from a formula."""

    build_seconds = measure_seconds = 0.0

    def __call__(
        self, task: Task, candidates: Sequence[Candidate], *, deadline: float | None = None, on_result: Callable[[int, Measurement], None] | None = None
    ) -> list[Measurement]:
        results = [Measurement((1e-3 * (1 + sum(candidate.row) % 997 / 997),)) for candidate in candidates]
        for i, result in enumerate(results):
            if on_result is not None:
                on_result(i, result)
        return results

    def remeasure(
        self, task: Task, candidates: Sequence[Candidate], rounds: int, *, good_seconds: float = 0.0, deadline: float | None = None
    ) -> list[Measurement]:  # fmt: skip
        return self(task, candidates)


def memory(config: Config, target: Target) -> Rows:
    """Resident memory of the tuner's process along a long run."""
    marks = {config.memory_trials // 10: 0.0, config.memory_trials // 2: 0.0, config.memory_trials: 0.0}

    def watch(progress: Progress) -> None:
        if progress.trial is not None and progress.n_trials in marks:
            marks[progress.n_trials] = psutil.Process().memory_info().rss / 2**20

    options = TuneOptions(max_trials=config.memory_trials, batch=64)
    tuner = Tuner(
        [task(config.conv)],
        target,
        InstantRunner(),
        Learner.from_scratch(target, 0),
        EvolutionarySearch,
        None,
        options,
        machine={},
        versions={},
        watch=watch,
    )
    whole(tuner.run())
    return [("memory", value, "MiB resident", f"after {n} trials") for n, value in marks.items()]


def report(output: Path) -> str:
    return read_results(output, COLUMNS).to_string(index=False)


def main(arguments: Sequence[str] | None = None) -> int:
    return command("throughput", __doc__, lambda options: run(CONFIG, options.output), report, arguments, data=None)


if __name__ == "__main__":
    sys.exit(main())
