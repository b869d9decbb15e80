"""The field's single-operator suite: every operator family, at batch 1 and 16, tuned and compared with other libraries and with the machine's limit.

    python -m experiments.operators [--output DIRECTORY] [--families C1D,GMM] [--max-trials 256] [--max-seconds 60] [--rounds 10] [--no-tuning | --plot-only]

The shapes are those of `graph.operator_suite`. Tunes each case as `tilewright tune` does, then lets the kernels and the peers that are installed take
turns: beside peers calls from Python are timed, beside the machine's limit runs in a row. Writes results.csv (a row a case and contender), machine.json,
and operators.md and operators.png, which are made from the CSV alone.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from experiments.command import command, count, counts, whole
from experiments.compared import about, compared, refuse_early, tuning_of, with_earlier
from experiments.files import COST_MODEL, read_results, write_machine, write_results
from experiments.tables import geometric_mean, markdown_table, write_table
from graph.operator_suite import BATCHES, FAMILIES
from ir.errors import UserError
from ir.program import Apply, Program, Value
from ir.task import Task
from schedule.algorithms import WINOGRAD, algorithm_of
from tilewright import api
from tilewright.bench import DISTURBING_CPUS, BenchResult, Row

MEAN_RATIO, FAMILY_RATIO, CASE_RATIO = 1.3, 1.05, 0.95  # what all cases together, each family, and each case are to reach of the best peer
COMPUTE_MARK, MEMORY_MARK = 0.92, 0.8  # wanted of the FMA peak and of the bandwidth, of the cases that each of them bounds
LIMITS = ("peak", "bandwidth", "powers")  # of what the machine can multiply and add, read, and work out of powers of two
KERNEL_COLUMNS = ("kernel_gflops", *(f"kernel_{each}_fraction" for each in LIMITS))  # of runs in a row
COLUMNS = (
    "family", "batch", "task", "contender", "setting", "min_seconds", "kernel_seconds", "gflops", *KERNEL_COLUMNS, "limit_fraction", "memory_level",
    "best_peer", "ratio_to_best_peer", "median_ratio_to_best_peer", "noise_minima", "other_cpus", "trials", "failed",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    families: tuple[str, ...] = tuple(FAMILIES)
    batches: tuple[int, ...] = BATCHES
    peers: tuple[str, ...] | None = None  # None: all that are installed
    max_trials: int = 256  # a case
    max_seconds: float = 60.0  # a case
    seed: int = 0
    rounds: int = 10
    turn_seconds: float = 0.03

    def cases(self) -> dict[Task, tuple[str, int]]:
        """Family and batch of each case."""
        return {of: (name, batch) for name in self.families for batch in self.batches for of in FAMILIES[name].tasks(batch)}


CONFIG = Config()


def tune_case(of: Task, records: Path, config: Config) -> None:
    """Tune one case into the records file, as `tilewright tune` does."""
    whole(api.tune(of, records=records, max_trials=config.max_trials, max_seconds=config.max_seconds, seed=config.seed, cost_model=COST_MODEL))


def run(config: Config, output: Path, records: Path | None = None, tune: Callable[[Task, Path, Config], None] | None = tune_case) -> pd.DataFrame:
    """Tune (not where `tune` is None), compare, and write results.csv and machine.json; the rows of the CSV. Of an earlier run
    it keeps the rows of other cases, so that the whole can be made in parts."""
    refuse_early(config.peers, None, output, COLUMNS)
    records = records or output / "records.db"
    cases = config.cases()
    for number, (of, (family, _)) in enumerate(cases.items(), 1):
        if tune is not None:
            print(f"tuning {number}/{len(cases)} {family} {of.key}", file=sys.stderr, flush=True)
            tune(of, records, config)
    with compared(tuple(cases), records, config.peers, config.rounds, turn_seconds=config.turn_seconds) as result:
        results = with_earlier(pd.DataFrame(rows(result, cases, records)), output, COLUMNS, [of.key for of in Config().cases()])
        write_results(output, results)
        write_machine(output, about(result))
    return results


def rows(result: BenchResult, cases: dict[Task, tuple[str, int]], records: Path) -> list[dict[str, object]]:
    """The bench's rows, with family, batch, the machine's limit and what tuning took."""
    found = []
    for bench in result.tasks:
        family, batch = cases[bench.task]
        tuning = tuning_of(bench.task, records, result.machine)
        powers_seconds = 1e-9 * n_powers(bench.task.program) / result.limits["powers_all"]["best"]
        found += [{"family": family, "batch": batch, **asdict(row), **kernel(row, powers_seconds), **tuning} for row in bench.rows(result.limits)]
    return found


def n_powers(program: Program) -> int:
    """Values of exp and exp2 that a program works out; those inside of a sigmoid, say, are not counted."""

    def count(value: Value) -> int:
        return (value.function in ("exp", "exp2")) + sum(map(count, value.args)) if isinstance(value, Apply) else 0

    return sum(stage.n_points * count(stage.body) for stage in program.stages)


def kernel(row: Row, powers_seconds: float) -> dict[str, object]:
    """What the machine's limit leaves to our kernel: speeds and fractions of runs in a row, for a call from Python takes half a microsecond, and the
    largest of the fractions: that of what takes longest at full speed, multiply-adds, memory traffic or powers of two. Nothing of the other contenders."""
    if row.kernel_seconds is None:
        return {}
    faster = row.min_seconds / row.kernel_seconds
    of_kernel = [*(faster * each for each in (row.gflops, row.peak_fraction, row.bandwidth_fraction)), powers_seconds / row.kernel_seconds]
    return dict(zip(KERNEL_COLUMNS, of_kernel, strict=True)) | {"limit_fraction": max(of_kernel[1:])}


# --- the table ------------------------------------------------------------------------------------------------------


def report(output: Path) -> str:
    """operators.md and operators.png, made from results.csv alone."""
    from experiments.operators_figure import draw

    results = read_results(output, COLUMNS)
    draw(results, output / "operators.png")
    return write_table(output / "operators.md", table(results))


def table(results: pd.DataFrame) -> str:
    """In Markdown: a line a family, then a line a case, then the marks."""
    tuned = results[results["contender"] == "tuned"]
    untuned = [f"Not tuned, and in none of these numbers: {key}." for key in results.loc[~results["task"].isin(tuned["task"]), "task"].unique()]
    families = [_family_line(str(family), mine) for family, mine in tuned.groupby("family", sort=False)]
    cases = [_case_line(row) for _, row in tuned.iterrows()]
    means = tuned.groupby("family")["ratio_to_best_peer"].agg(geometric_mean)
    by_winograd = tuned["setting"].map(algorithm_of).isin(list(WINOGRAD))
    largest = tuned[list(KERNEL_COLUMNS[1:])].idxmax(axis=1)
    compute, memory, powers = (tuned.loc[(largest == column) & ~by_winograd, "limit_fraction"] for column in KERNEL_COLUMNS[1:])
    moving = tuned.loc[(tuned["kernel_bandwidth_fraction"] > tuned["kernel_peak_fraction"]) & ~by_winograd, "kernel_bandwidth_fraction"]
    summary = (
        f"All {tuned['ratio_to_best_peer'].notna().sum()} cases: {geometric_mean(tuned['ratio_to_best_peer']):.3f} × the best peer (wanted: {MEAN_RATIO}); "
        f"{(means < FAMILY_RATIO).sum()} families below {FAMILY_RATIO}, {(tuned['ratio_to_best_peer'] < CASE_RATIO).sum()} cases below {CASE_RATIO}. "
        f"{by_winograd.sum()} cases are fastest by Winograd's algorithm. Of the "
        f"others those bound by multiply-adds reach {geometric_mean(compute):.1%} of the FMA peak (wanted: {COMPUTE_MARK:.0%}; {len(compute)} cases), those "
        f"bound by memory {geometric_mean(memory):.1%} of its bandwidth (wanted: {MEMORY_MARK:.0%}; {len(memory)} cases), those bound by powers of two "
        f"{geometric_mean(powers):.1%} of what the machine can work out of these ({len(powers)} cases), as geometric means. All that take longer to read and "
        f"write than their multiply-adds do, powers not counted, reach {geometric_mean(moving):.1%} of the bandwidth ({len(moving)} cases)."
    )
    heads = (
        ["family", "", "cases", "× best peer", "slowest", "fastest", "of the limit"],
        ["family", "batch", "case", "ms", "in a row", "GFLOP/s", *(f"of {each}" for each in LIMITS), "best peer", "× best peer", "by medians", "A/A", "trials"],
    )
    notes = "\n".join([
        "“ms” and “× best peer” are of calls from Python, the latter the seconds of the best peer's fastest over ours: above 1 is faster; family lines are",
        "geometric means. “In a row” and the speeds are of our kernel run many times by native code. Limit: the largest of the fractions of FMA peak, of the",
        "bandwidth of the level of memory that holds the case, and of the powers of two that the machine can work out from and to its L1 caches. A star: other",
        "processes disturbed the comparison.",
        "A convolution's flops are those of all its windows, padding included, as the field counts; kernels that leave the padding out may pass the peak.",
    ])  # fmt: skip
    return "\n\n".join([summary, *untuned, markdown_table(heads[0], families), markdown_table(heads[1], cases), notes])


def _family_line(family: str, cases: pd.DataFrame) -> list[str]:
    ratios = cases["ratio_to_best_peer"]
    numbers = [f"{geometric_mean(ratios):.2f}", f"{ratios.min():.2f}", f"{ratios.max():.2f}", f"{geometric_mean(cases['limit_fraction']):.0%}"]
    return [family, FAMILIES[family].title, str(len(cases)), *numbers]


def _case_line(row: pd.Series) -> list[str]:
    return [
        row["family"],
        str(row["batch"]),
        row["task"],
        f"{1e3 * row['min_seconds']:.4f}",
        f"{1e3 * row['kernel_seconds']:.4f}",
        f"{row['kernel_gflops']:.1f}" if row["gflops"] else "–",
        f"{row['kernel_peak_fraction']:.0%}" if row["gflops"] else "–",
        f"{row['kernel_bandwidth_fraction']:.0%} of {row['memory_level']}",
        f"{row['kernel_powers_fraction']:.0%}" if row["kernel_powers_fraction"] else "–",
        row["best_peer"] if isinstance(row["best_peer"], str) else "–",
        f"{row['ratio_to_best_peer']:.2f}{'*' if row['other_cpus'] > DISTURBING_CPUS else ''}",
        f"{row['median_ratio_to_best_peer']:.2f}",
        f"{row['noise_minima']:.2f}",
        f"{row['trials']} ({row['failed']})",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    def add_options(parser: ArgumentParser) -> None:
        parser.add_argument("--records", type=Path, help="records to read and append to, by default records.db in the output directory")
        parser.add_argument("--families", help=f"only these, of {','.join(FAMILIES)}")
        parser.add_argument("--batches", type=counts, default=BATCHES, help="only these batch sizes, by default 1,16")
        parser.add_argument("--peers", help="comma-separated, by default all that are installed")
        parser.add_argument("--max-trials", type=count, default=CONFIG.max_trials, help="a case")
        parser.add_argument("--max-seconds", type=float, default=CONFIG.max_seconds, help="a case")
        parser.add_argument("--rounds", type=count, default=CONFIG.rounds, help="in which kernels and peers take turns")
        parser.add_argument("--no-tuning", action="store_true", help="compare what is in the records")

    def run_changed(options: Namespace) -> None:
        config = replace(
            CONFIG, families=chosen_families(options.families, tuple(FAMILIES)), batches=options.batches,
            peers=tuple(options.peers.split(",")) if options.peers else None, max_trials=options.max_trials, max_seconds=options.max_seconds,
            rounds=options.rounds,
        )  # fmt: skip
        run(config, options.output, options.records, None if options.no_tuning else tune_case)

    return command("operators", __doc__, run_changed, report, arguments, data=None, add_options=add_options)


def chosen_families(given: str | None, known: Sequence[str]) -> tuple[str, ...]:
    names = tuple(given.split(",")) if given else tuple(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"unknown family {unknown[0]!r} (known: {', '.join(known)})")
    return names


if __name__ == "__main__":
    sys.exit(main())
