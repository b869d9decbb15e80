"""Tuned kernels against the machine's own peak and against other libraries, with the mark that each must reach.

    python -m experiments.kernels [--network open-nsfw.onnx] [--output DIRECTORY] [--tasks 0,3-5] [--max-trials 512] [--max-seconds 120]

Tunes each task as `tilewright tune --no-winograd` does (a fraction of the peak says nothing of kernels that multiply less), then lets the kernels, and peers
that are installed, take turns as `tilewright bench` does. Writes results.csv (a row a task and contender), machine.json, and kernels.md, which is made from the
CSV alone and printed. With a network, its ten heaviest tasks too. Wants a machine with nothing else to do; takes about two minutes a task.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from experiments.command import command, count, whole
from experiments.compared import about, compared, refuse_early, tuning_of, with_earlier
from experiments.files import COST_MODEL, read_results, write_machine, write_results
from experiments.tables import geometric_mean, markdown_table, write_table
from ir.task import Task, task
from schedule.algorithms import allowed_algorithms
from tilewright import api
from tilewright.bench import DISTURBING_CPUS, BenchResult
from tilewright.cli import select_tasks

NOISE_LIMIT = 0.03  # "not slower" allows the noise of the comparison, but no more than this: a noisy machine proves nothing


@dataclass(frozen=True)
class Mark:
    """What a task must reach: this fraction of the FMA peak, and this many times the best peer's speed. `noise`: less by the noise will do."""

    peak_fraction: float = 0.0
    peer_ratio: float = 0.0
    noise: bool = False


NOT_SLOWER = Mark(peer_ratio=1.0, noise=True)
NETWORK = Mark(peer_ratio=0.97)
NETWORK_MEAN = 1.1  # geometric mean over the network's tasks of the ratio to the best peer of each


@dataclass(frozen=True)
class Config:
    tasks: tuple[tuple[str, Mark], ...] = (
        ("matmul:m=512,n=512,k=512", replace(NOT_SLOWER, peak_fraction=0.92)),
        ("matmul:m=1024,n=1024,k=1024", replace(NOT_SLOWER, peak_fraction=0.92)),
        ("matmul:m=128,n=3072,k=768", replace(NOT_SLOWER, peak_fraction=0.92)),
        ("matmul:m=512,n=512,k=512,b=variable", Mark(0.85)),
        ("matmul:m=1024,n=1024,k=1024,b=variable", Mark(0.85)),
        ("matmul:m=128,n=3072,k=768,b=variable", Mark(0.85)),
        ("conv2d:c=64,h=56,w=56,k=64,r=3,s=3,pad=1,epilogue=relu", replace(NOT_SLOWER, peak_fraction=0.92)),
        ("conv2d:c=128,h=28,w=28,k=128,r=3,s=3,pad=1,epilogue=relu", replace(NOT_SLOWER, peak_fraction=0.92)),
        ("conv2d:c=256,h=14,w=14,k=256,r=3,s=3,pad=1,epilogue=relu", replace(NOT_SLOWER, peak_fraction=0.92)),
        ("conv2d:c=64,h=56,w=56,k=256,r=1,s=1", Mark(0.88)),
        ("conv2d:c=512,h=7,w=7,k=512,r=3,s=3,pad=1", Mark(0.88)),
        ("conv2d:c=96,h=112,w=112,k=96,r=3,s=3,pad=1,groups=96", NOT_SLOWER),
        ("matmul:m=1,n=1024,k=1024", NOT_SLOWER),
    )
    network: str | None = None
    n_network_tasks: int = 10
    choice: str | None = None  # of all tasks, as `--tasks`
    peers: tuple[str, ...] | None = None  # None: all that are installed
    max_trials: int = 512  # a task
    max_seconds: float = 120.0  # a task
    threads: int | None = None
    seed: int = 0
    rounds: int = 15
    turn_seconds: float = 0.03

    def marked_tasks(self) -> dict[Task, tuple[str, Mark]]:
        """The tasks with their group, "kernels" or "network", and their mark."""
        found = {task(text): ("kernels", mark) for text, mark in self.tasks}
        if self.network is not None:
            found |= dict.fromkeys(heaviest(api.tasks(self.network), self.n_network_tasks), ("network", NETWORK))
        return {chosen: found[chosen] for chosen in select_tasks(tuple(found), self.choice)}


CONFIG = Config()


def heaviest(tasks: Iterable[Task], n: int) -> list[Task]:
    """The n tasks that have the largest share of a network's flops."""
    return sorted(tasks, key=lambda each: -each.flops * each.count)[:n]


def tune_task(of: Task, records: Path, config: Config) -> None:
    """Tune one task into the records file, as `tilewright tune` does."""
    budget = {"max_trials": config.max_trials, "max_seconds": config.max_seconds}
    whole(api.tune(of, records=records, threads=config.threads, seed=config.seed, cost_model=COST_MODEL, no_winograd=True, **budget))


def run(config: Config, output: Path, records: Path | None = None, tune: Callable[[Task, Path, Config], None] | None = tune_task) -> pd.DataFrame:
    """Tune (not where `tune` is None), compare, and write results.csv and machine.json; the rows of the CSV. Of an earlier run it keeps the rows of other
    tasks, so that the whole can be made in parts."""
    refuse_early(config.peers, config.threads, output, COLUMNS)
    records = records or output / "records.db"
    marked = config.marked_tasks()
    if tune is not None:
        for number, of in enumerate(marked):
            print(f"tuning {number + 1}/{len(marked)} {of.key}", file=sys.stderr, flush=True)
            tune(of, records, config)
    with compared(
        tuple(marked), records, config.peers, config.rounds, config.threads, turn_seconds=config.turn_seconds, algorithms=allowed_algorithms(no_winograd=True)
    ) as result:
        order = [of.key for of in replace(config, choice=None).marked_tasks()]
        results = with_earlier(pd.DataFrame(rows(result, marked, records)), output, COLUMNS, order)
        write_results(output, results)
        write_machine(output, about(result))
    return results


def rows(result: BenchResult, marked: dict[Task, tuple[str, Mark]], records: Path) -> list[dict[str, object]]:
    """The bench's rows, with each task's group and mark and what its tuning took, all its runs together."""
    found = []
    for bench in result.tasks:
        group, mark = marked[bench.task]
        tuning = tuning_of(bench.task, records, result.machine)
        marks = {f"mark_{name}": value for name, value in asdict(mark).items()}
        found += [{"group": group, **asdict(row), **tuning, **marks} for row in bench.rows(result.limits)]
    return found


# --- the table ------------------------------------------------------------------------------------------------------


COLUMNS = (
    "group", "task", "contender", "gflops", "peak_fraction", "gb_per_second", "bandwidth_fraction", "memory_level", "best_peer", "ratio_to_best_peer",
    "median_ratio_to_best_peer", "noise_minima", "noise_medians", "other_cpus", "trials", "failed", "tuning_seconds", "mark_peak_fraction",
    "mark_peer_ratio", "mark_noise",
)  # fmt: skip
NUMBERS_OR_NOTHING = ("ratio_to_best_peer", "median_ratio_to_best_peer", "noise_minima", "noise_medians")


def report(output: Path) -> str:
    """kernels.md, made from results.csv alone."""
    results = read_results(output, COLUMNS, keep_default_na=False, na_values=dict.fromkeys(NUMBERS_OR_NOTHING, ""))
    return write_table(output / "kernels.md", table(results))


def table(results: pd.DataFrame) -> str:
    """In Markdown: a line a task with its mark and whether it is reached, then a line for the network as a whole."""
    lines = []
    for (_, key), contenders in results.groupby(["group", "task"], sort=False):
        tuned = contenders[contenders["contender"] == "tuned"]
        lines.append(_line(tuned.iloc[0]) if len(tuned) else [str(key), mark_text(contenders.iloc[0]), *["–"] * 8, "no: not tuned"])
    head = ["task", "at least", "GFLOP/s", "of peak", "GB/s", "best peer", "× best peer", "by medians", "A/A", "trials", "reached"]
    notes = [
        "GFLOP/s, fractions and ratios are of each contender's fastest call; the peak took turns with them. “× best peer” is the seconds of the best peer",
        "over ours: above 1 is faster. GB/s: inputs read once and result written once, beside what can be read from that level of memory. A/A: our kernel",
        f"against itself, by minima and by medians; “not slower” allows for the former, at most {NOISE_LIMIT:.0%}. Trials: failed ones in brackets, and the",
        "seconds that tuning took. A convolution's flops are those of all its windows, padding included, as the field counts: kernels leave padding out.",
    ]
    return "\n\n".join([markdown_table(head, lines), *network_lines(results), "\n".join(notes)])


def _line(row: pd.Series) -> list[str]:
    compared = bool(row["best_peer"])
    return [
        row["task"],
        mark_text(row),
        f"{row['gflops']:.1f}" if row["gflops"] else "–",
        f"{row['peak_fraction']:.1%}" if row["gflops"] else "–",
        f"{row['gb_per_second']:.1f} ({row['bandwidth_fraction']:.0%} of {row['memory_level']})",
        row["best_peer"] or "–",
        f"{row['ratio_to_best_peer']:.3f}" if compared else "–",
        f"{row['median_ratio_to_best_peer']:.3f}" if compared else "–",
        f"{row['noise_minima']:.3f}, {row['noise_medians']:.3f}",
        f"{row['trials']} ({row['failed']}) {row['tuning_seconds']:.0f} s",
        verdict(row),
    ]


def mark_text(row: pd.Series) -> str:
    parts = [f"{row['mark_peak_fraction']:.0%} of peak"] if row["mark_peak_fraction"] else []
    if row["mark_peer_ratio"]:
        parts.append("not slower than the best peer" if row["mark_noise"] else f"{row['mark_peer_ratio']:.2f} × the best peer")
    return ", ".join(parts)


def verdict(row: pd.Series) -> str:
    """Yes, or no and what is missing; where the machine was busy with other work, neither can be said."""
    if row["other_cpus"] > DISTURBING_CPUS:
        return f"unclear: others kept {row['other_cpus']:.1f} CPUs busy"
    missing = []
    if row["peak_fraction"] < row["mark_peak_fraction"]:
        missing.append("peak")
    if row["mark_peer_ratio"] and not row["best_peer"]:
        missing.append("no peer")
    elif row["mark_peer_ratio"] and row["ratio_to_best_peer"] < row["mark_peer_ratio"] - allowance(row):
        missing.append("peer")
    return f"no: {', '.join(missing)}" if missing else "yes"


def allowance(row: pd.Series) -> float:
    return min(abs(1 - row["noise_minima"]), NOISE_LIMIT) if row["mark_noise"] else 0.0


def network_lines(results: pd.DataFrame) -> list[str]:
    """The geometric mean over the network's tasks, as soon as all are tuned and compared."""
    keys = set(results.loc[results["group"] == "network", "task"])
    ratios = results.loc[(results["group"] == "network") & (results["contender"] == "tuned"), "ratio_to_best_peer"].dropna()
    if not keys or len(ratios) < len(keys):
        return []
    mean = geometric_mean(ratios)
    reached = "yes" if mean >= NETWORK_MEAN else "no"
    return [f"Geometric mean of the network's {len(keys)} heaviest tasks: {mean:.3f} × the best peer of each; at least {NETWORK_MEAN} wanted: {reached}."]


def main(arguments: Sequence[str] | None = None) -> int:
    def add_options(parser: ArgumentParser) -> None:
        parser.add_argument("--records", type=Path, help="records to read and append to, by default records.db in the output directory")
        parser.add_argument("--network", help="an .onnx file whose heaviest tasks are measured too")
        parser.add_argument("--tasks", help="only these of all tasks, such as 0,3-5")
        parser.add_argument("--peers", help="comma-separated, by default all that are installed")
        parser.add_argument("--max-trials", type=count, default=CONFIG.max_trials, help="a task")
        parser.add_argument("--max-seconds", type=float, default=CONFIG.max_seconds, help="a task")
        parser.add_argument("--threads", type=count)
        parser.add_argument("--no-tuning", action="store_true", help="compare what is in the records")

    def run_changed(options: Namespace) -> None:
        config = replace(
            CONFIG, network=options.network, choice=options.tasks, peers=tuple(options.peers.split(",")) if options.peers else None,
            max_trials=options.max_trials, max_seconds=options.max_seconds, threads=options.threads,
        )  # fmt: skip
        run(config, options.output, options.records, None if options.no_tuning else tune_task)

    return command("kernels", __doc__, run_changed, report, arguments, data=None, add_options=add_options)


if __name__ == "__main__":
    sys.exit(main())
