"""Winograd's algorithm against our own direct kernels: speed, and error against double precision, for 3×3 convolutions with stride 1.

    python -m experiments.winograd [--output DIRECTORY] [--max-trials 256] [--max-seconds 30] [--no-tuning | --plot-only]

Tunes each layer twice, without Winograd's algorithm and with it, with the same budget; then the best kernel of each takes turns with the other. Writes
results.csv (a row a layer), machine.json, and winograd.md, which is made from the CSV alone.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from codegen.inputs import random_inputs
from codegen.kernel import Kernel, build_candidate
from codegen.machine import Machine, detect_machine
from experiments.command import command, count, whole
from experiments.files import COST_MODEL, read_results, write_machine, write_results
from experiments.tables import geometric_mean, markdown_table, write_table
from ir.errors import UserError
from ir.interpreter import interpret
from ir.task import Task, task
from schedule.algorithms import WINOGRAD, allowed_algorithms
from schedule.measurement import Candidate
from schedule.target import Target
from tilewright import api
from tilewright.bench import DISTURBING_CPUS, recorded_schedules
from tilewright.bench_worker import our_contender, peak_contender
from tilewright.problem import Problem
from tilewright.turns import OtherWork, Series, TurnOptions, take_turns

RATIO = 1.4  # wanted: seconds of the direct kernel over Winograd's
SEED = 0  # of the inputs
DIRECT, OURS, AGAIN, PEAK = "direct", "winograd", "again", "peak"
LAYERS = ((128, 28), (256, 14), (512, 7))  # channels in and out, height and width


@dataclass(frozen=True)
class Config:
    batches: tuple[int, ...] = (1, 16)
    layers: tuple[tuple[int, int], ...] = LAYERS
    max_trials: int = 256  # a layer and algorithm
    max_seconds: float = 30.0  # a layer and algorithm
    seed: int = 0
    rounds: int = 10

    def tasks(self) -> list[Task]:
        return [task(f"conv2d:n={n},c={c},h={size},w={size},k={c},r=3,s=3,pad=1") for n in self.batches for c, size in self.layers]


CONFIG = Config()


def tune_all(config: Config, records: dict[str, Path]) -> None:
    """Each layer, without Winograd's algorithm and with it, into a records file for each."""
    for number, of in enumerate(config.tasks(), 1):
        for name, path in records.items():
            print(f"tuning {number}/{len(config.tasks())} {name} {of.key}", file=sys.stderr, flush=True)
            budget = {"max_trials": config.max_trials, "max_seconds": config.max_seconds, "seed": config.seed}
            whole(api.tune(of, records=path, no_winograd=name == DIRECT, cost_model=COST_MODEL, **budget))  # type: ignore[arg-type]  # each of its own type


def run(config: Config, output: Path, tune: bool = True) -> pd.DataFrame:
    """Tune (unless told not to), compare, and write results.csv and machine.json; the rows of the CSV."""
    records = {name: output / f"{name}.db" for name in (DIRECT, OURS)}
    if tune:
        tune_all(config, records)
    machine, tasks = detect_machine(), config.tasks()
    algorithms = {DIRECT: allowed_algorithms(no_winograd=True), OURS: tuple(WINOGRAD)}
    found = {name: recorded_schedules(path, tasks, machine, algorithms[name]) for name, path in records.items()}
    lines = []
    for of, direct, ours in zip(tasks, found[DIRECT], found[OURS], strict=True):
        if direct is None or ours is None:
            raise UserError(f"no record of a {DIRECT if direct is None else OURS} schedule for {of.key} in {output}")
        lines.append(compare(of, {DIRECT: direct, OURS: ours, AGAIN: direct}, machine, config))
    results = pd.DataFrame(lines)
    write_results(output, results)
    write_machine(output, {"machine": machine.to_json(), "versions": api.versions()})
    return results


def compare(of: Task, schedules: dict[str, Candidate], machine: Machine, config: Config) -> dict[str, object]:
    """A row of the CSV. Errors are those of the worst element, as a part of the largest element."""
    problem = Problem(of, random_inputs(of.key, SEED), machine.target.threads)
    contenders = {name: our_contender(name, problem, schedule, machine.target) for name, schedule in schedules.items()}
    peak, peak_flops = peak_contender(machine.target)
    with OtherWork() as other:
        taken = take_turns([peak, *contenders.values()], TurnOptions(config.rounds))
    series = {each.contender: each for each in taken}
    row: dict[str, object] = {"task": of.key, "batch": problem.parameters["n"], "channels": problem.parameters["c"], "threads": machine.target.threads}
    for name in (DIRECT, OURS):
        seconds = series[name].min_seconds
        row |= {
            f"{name}_sketch": schedules[name].sketch,
            f"{name}_seconds": seconds,
            f"{name}_median_seconds": series[name].median_seconds,
            f"{name}_error": error(of, schedules[name], machine.target),
        }
    row["direct_peak_fraction"] = of.flops / series[DIRECT].min_seconds / (peak_flops / series[PEAK].min_seconds)
    ratios = {"ratio": (DIRECT, OURS), "noise": (AGAIN, DIRECT)}
    return row | {name: _ratio(series[a], series[b]) for name, (a, b) in ratios.items()} | {"other_cpus": other.cpus}


def _ratio(a: Series, b: Series) -> float:
    return a.min_seconds / b.min_seconds


def error(of: Task, schedule: Candidate, target: Target) -> float:
    """On inputs uniform in [-1, 1): those that a kernel is checked with are 1 and -1 where sums are long, of which direct ones are exact."""
    rng = np.random.default_rng(SEED)
    inputs = {tensor.name: 2 * rng.random(tensor.shape, dtype=np.float32) - 1 for tensor in of.program.inputs}
    kernel = Kernel(build_candidate(of, schedule, target))
    expected = interpret(of.program, inputs)
    return float(np.abs(kernel(*inputs.values()) - expected).max() / np.abs(expected).max())


COLUMNS = (
    "task", "direct_seconds", "direct_median_seconds", "direct_peak_fraction", "winograd_seconds", "winograd_median_seconds", "winograd_sketch", "ratio",
    "noise", "direct_error", "winograd_error", "other_cpus",
)  # fmt: skip


def report(output: Path) -> str:
    return write_table(output / "winograd.md", table(read_results(output, COLUMNS)))


def table(results: pd.DataFrame) -> str:
    """In Markdown: a line a layer, then the mark."""
    head = ("layer", "direct, ms", "of peak", "Winograd, ms", "sketch", "× direct", "by medians", "A/A", "error of direct", "error of Winograd")
    lines = [_line(row) for _, row in results.iterrows()]
    reached = (results["ratio"] >= RATIO).sum()
    summary = (
        f"Winograd {geometric_mean(results['ratio']):.2f} × our own best direct kernel (geometric mean; by medians "
        f"{geometric_mean(_by_medians(results)):.2f} ×); {reached} of {len(results)} layers reach {RATIO} ×."
    )
    notes = (
        "Seconds, “× direct” and A/A are of the fastest call; what disturbs the machine tells in the medians. Errors: of the worst element against double "
        "precision, as a part of the largest element. *: others used the CPUs."
    )
    return "\n\n".join(["# Winograd against direct convolution", markdown_table(head, lines), summary, notes])


def _by_medians(results: pd.DataFrame | pd.Series) -> pd.Series:
    return results["direct_median_seconds"] / results["winograd_median_seconds"]


def _line(row: pd.Series) -> Sequence[str]:
    return [
        row["task"],
        f"{1e3 * row['direct_seconds']:.4f}",
        f"{row['direct_peak_fraction']:.0%}",
        f"{1e3 * row['winograd_seconds']:.4f}",
        row["winograd_sketch"],
        f"{row['ratio']:.2f}{'*' if row['other_cpus'] > DISTURBING_CPUS else ''}",
        f"{_by_medians(row):.2f}",
        f"{row['noise']:.2f}",
        f"{row['direct_error']:.1e}",
        f"{row['winograd_error']:.1e}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    def add_options(parser: ArgumentParser) -> None:
        parser.add_argument("--max-trials", type=count, default=CONFIG.max_trials, help="a layer and algorithm")
        parser.add_argument("--max-seconds", type=float, default=CONFIG.max_seconds, help="a layer and algorithm")
        parser.add_argument("--no-tuning", action="store_true", help="compare what is in the records")

    def run_changed(options: Namespace) -> None:
        run(replace(CONFIG, max_trials=options.max_trials, max_seconds=options.max_seconds), options.output, not options.no_tuning)

    return command("winograd", __doc__, run_changed, report, arguments, data=None, add_options=add_options)


if __name__ == "__main__":
    sys.exit(main())
