"""The field's single-operator suite: every operator family, at batch 1 and 16, tuned and compared with other libraries and with the machine's limit.

    python -m experiments.operators [--output DIRECTORY] [--families C1D,GMM] [--max-trials 256] [--max-seconds 60] [--no-tuning | --plot-only]

The shapes are those of Ansor's evaluation (Zheng et al., Ansor: Generating High-Performance Tensor Programs for Deep Learning, OSDI 2020) and some
more of each kind. Tunes each case as `tilewright tune` does, then lets the kernels and the peers that are installed take turns. Writes results.csv (a
row a case and contender), machine.json, and operators.md and operators.png, which are made from the CSV alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from codegen.limits import package_version
from data.record import machine_id
from data.store import Store
from experiments.kernels import markdown_table, print_notes
from ir.errors import UserError
from ir.task import Task, task
from tilewright import api
from tilewright.bench import DISTURBING_CPUS, BenchResult, run_bench
from tilewright.peers import PEERS

BATCHES = (1, 16)
MEAN_RATIO, FAMILY_RATIO, CASE_RATIO = 1.3, 1.05, 0.95  # what all cases together, each family, and each case are to reach of the best peer
BALANCE = 0.5  # a case whose multiply-adds take less than this part of its memory traffic's time is bound by bandwidth


@dataclass(frozen=True)
class Family:
    """`text` is an operator text with `{batch}` and the names in `names` left open; `shapes` gives those. Where there is no `{batch}`, it is the first
    of the names."""

    title: str
    text: str
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def tasks(self, batch: int) -> Iterator[Task]:
        for shape in self.shapes:
            first = batch if batch > 1 and "{batch}" not in self.text else shape[0]
            yield task(self.text.format(batch=batch, **dict(zip(self.names, (first, *shape[1:]), strict=True))))


_PLANES = ((224, 224, 3, 64, 7, 2, 3), (56, 56, 64, 64, 1, 1, 0), (14, 14, 256, 256, 3, 1, 1), (7, 7, 512, 512, 3, 1, 1))
_CONV2D = "conv2d:n={batch},c={c},h={h},w={w},k={k},r={r},s={r},stride={s},pad={p}"
_CONV2D_NAMES = ("h", "w", "c", "k", "r", "s", "p")

FAMILIES = {
    "C1D": Family(
        "convolution 1-D", "conv1d:n={batch},c={c},w={w},k={k},s={r},stride={s},pad={p}", ("w", "c", "k", "r", "s", "p"),
        ((256, 64, 128, 3, 2, 1), (128, 128, 256, 1, 2, 0), (64, 256, 256, 5, 1, 2), (32, 512, 512, 3, 1, 1)),
    ),
    "C2D": Family("convolution 2-D", _CONV2D, _CONV2D_NAMES, _PLANES),
    "C3D": Family(
        "convolution 3-D", "conv3d:n={batch},c={c},d=16,h={h},w={w},k={k},t={r},r={r},s={r},stride={s},pad={p}", _CONV2D_NAMES, _PLANES,
    ),
    "GMM": Family(
        "matrix product", "batch_matmul:batch={batch},m={m},n={n},k={k}", ("m", "n", "k"),
        ((128, 128, 128), (512, 32, 512), (512, 512, 512), (1024, 1024, 1024)),
    ),
    "GRP": Family(
        "grouped convolution", _CONV2D + ",groups=4", _CONV2D_NAMES, ((56, 56, 64, 128, 3, 2, 1), *_PLANES[1:]),
    ),
    "DIL": Family("dilated convolution", _CONV2D + ",dilation=2", _CONV2D_NAMES, _PLANES),
    "DEP": Family(
        "depthwise convolution", "conv2d:n={batch},c={c},h={h},w={w},k={c},r={r},s={r},stride={s},pad={p},groups={c}", ("h", "w", "c", "r", "s", "p"),
        ((112, 112, 32, 3, 1, 1), (112, 112, 64, 3, 2, 1), (14, 14, 512, 3, 2, 1), (7, 7, 1024, 3, 1, 1)),
    ),
    "T2D": Family(
        "transposed convolution", "conv_transpose2d:n={batch},c={c},h={h},w={w},k={k},r={r},s={r},stride={s},pad={p}", _CONV2D_NAMES,
        ((4, 4, 512, 256, 4, 2, 1), (8, 8, 256, 128, 4, 2, 1), (16, 16, 128, 64, 4, 2, 1), (32, 32, 64, 3, 4, 2, 1)),
    ),
    "CAP": Family(
        "capsule convolution", "capsule_conv2d:n={batch},c={c},h={h},w={w},k={k},r={r},s={r},stride={s},pad={p}", _CONV2D_NAMES,
        ((16, 16, 32, 32, 3, 2, 1), (8, 8, 32, 32, 3, 1, 1), (16, 16, 8, 16, 3, 2, 1), (8, 8, 16, 16, 3, 1, 1)),
    ),
    "NRM": Family(
        "norm of a matrix", "reduce:function=l2,shape={batch}x{m}x{n},axes=1x2", ("m", "n"), ((256, 256), (512, 512), (1024, 1024), (4096, 1024)),
    ),
    "CBR": Family(
        "convolution, bias, relu", _CONV2D + ",epilogue=bias+relu", _CONV2D_NAMES,
        (_PLANES[0], (56, 56, 64, 128, 3, 2, 1), (28, 28, 128, 256, 1, 2, 0), _PLANES[3]),
    ),
    "TBG": Family(
        "transpose, batched product", "einsum:equation=bihd.bjhd.bhij,sizes=b{batch}.i{l}.j{l}.h{h}.d{d}", ("l", "h", "d"),
        ((128, 12, 64), (128, 16, 64), (64, 12, 128), (128, 12, 128)),
    ),
    "SFM": Family("softmax of rows", "softmax:shape={m}x{n},axis=1", ("m", "n"), ((256, 256), (512, 512), (1024, 1024), (2048, 2048))),
    "ATT": Family(
        "attention", "attention:batch={batch},heads={h},queries={l},keys={l},dim={d}", ("h", "l", "d"),
        ((12, 128, 64), (12, 512, 64), (8, 1024, 64), (16, 257, 64)),
    ),
}  # fmt: skip


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
    api.tune(of, records=records, max_trials=config.max_trials, max_seconds=config.max_seconds, seed=config.seed)


def run(config: Config, output: Path, records: Path | None = None, tune: Callable[[Task, Path, Config], None] | None = tune_case) -> pd.DataFrame:
    """Tune (not where `tune` is None), compare, and write all files; the rows of the CSV. Of an earlier run it keeps the rows of other cases, so that
    the whole can be made in parts."""
    output.mkdir(parents=True, exist_ok=True)
    records = records or output / "records.db"
    cases = config.cases()
    for number, (of, (family, _)) in enumerate(cases.items(), 1):
        if tune is not None:
            print(f"tuning {number}/{len(cases)} {family} {of.key}", file=sys.stderr, flush=True)
            tune(of, records, config)
    result = run_bench(tuple(cases), records, config.peers, config.rounds, turn_seconds=config.turn_seconds, watch=print_notes)
    results = _with_earlier(pd.DataFrame(rows(result, cases, records)), output / "results.csv")
    results.to_csv(output / "results.csv", index=False)
    versions = api.versions() | {name: package_version(name) for name in PEERS}
    machine = {"machine": result.machine.to_json(), "limits": dict(result.limits), "versions": versions, "rounds": result.rounds}
    (output / "machine.json").write_text(json.dumps(machine, indent=2) + "\n")
    return results


def _with_earlier(results: pd.DataFrame, path: Path) -> pd.DataFrame:
    """In the order of the suite."""
    if path.exists():
        earlier = pd.read_csv(path)
        results = pd.concat([earlier[~earlier["task"].isin(results["task"])], results])
    place = {of.key: number for number, of in enumerate(Config().cases())}
    order = results["task"].map(lambda key: place.get(key, len(place)))
    return results.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)


def rows(result: BenchResult, cases: dict[Task, tuple[str, int]], records: Path) -> list[dict[str, object]]:
    """The bench's rows, with family, batch, the machine's limit and what tuning took."""
    found = []
    with Store(records, create=False) as store:
        for bench in result.tasks:
            family, batch = cases[bench.task]
            known = store.records(bench.task.key, machine_id(api.machine_record(result.machine)), result.machine.target.threads)
            trials = [record for record in known if record.kind == "trial"]
            tuning = {
                "trials": len(trials),
                "failed": sum(not record.ok for record in trials),
                "tuning_seconds": max((record.elapsed_seconds for record in known), default=0.0),
            }
            found += [{"family": family, "batch": batch, **asdict(row), **limit(row), **tuning} for row in bench.rows(result.limits)]
    return found


def limit(row: object) -> dict[str, object]:
    """What bounds a case, the multiply-adds or the memory, and which part of that limit its fastest call reached."""
    compute, memory = row.peak_fraction, row.bandwidth_fraction  # type: ignore[attr-defined]  # a Row
    return {"bound": "memory" if compute < BALANCE * memory else "compute", "limit_fraction": max(compute, memory)}


# --- the table ------------------------------------------------------------------------------------------------------


def table(results: pd.DataFrame) -> str:
    """In Markdown: a line a family, then a line a case, then the marks."""
    tuned = results[results["contender"] == "tuned"]
    families = [_family_line(str(family), mine) for family, mine in tuned.groupby("family", sort=False)]
    cases = [_case_line(row) for _, row in tuned.iterrows()]
    compute, memory = (tuned.loc[tuned["bound"] == bound, "limit_fraction"] for bound in ("compute", "memory"))
    summary = (
        f"All {len(tuned)} cases: {_mean(tuned['ratio_to_best_peer']):.3f} × the best peer (wanted: {MEAN_RATIO}); "
        f"{(tuned['ratio_to_best_peer'] < CASE_RATIO).sum()} cases below {CASE_RATIO}. Compute-bound cases reach {_mean(compute):.1%} of the FMA peak, "
        f"those bound by memory {_mean(memory):.1%} of its bandwidth (geometric means)."
    )
    heads = (
        ["family", "", "cases", "× best peer", "slowest", "fastest", "of the limit"],
        ["family", "batch", "case", "ms", "GFLOP/s", "of peak", "of bandwidth", "best peer", "× best peer", "by medians", "A/A", "trials"],
    )
    notes = "\n".join([
        "“× best peer”: seconds of the best peer's fastest call over ours, above 1 is faster; family lines are geometric means. Limit: the larger of the",
        "fractions of FMA peak and of the bandwidth of the level of memory that holds the case. A star: other processes disturbed the comparison.",
        "A convolution's flops are those of all its windows, padding included, as the field counts; kernels that leave the padding out may pass the peak.",
    ])  # fmt: skip
    return "\n\n".join([summary, markdown_table(heads[0], families), markdown_table(heads[1], cases), notes]) + "\n"


def _family_line(family: str, cases: pd.DataFrame) -> list[str]:
    ratios = cases["ratio_to_best_peer"]
    numbers = [f"{_mean(ratios):.2f}", f"{ratios.min():.2f}", f"{ratios.max():.2f}", f"{_mean(cases['limit_fraction']):.0%}"]
    return [family, FAMILIES[family].title, str(len(cases)), *numbers]


def _case_line(row: pd.Series) -> list[str]:
    return [
        row["family"],
        str(row["batch"]),
        row["task"],
        f"{1e3 * row['min_seconds']:.4f}",
        f"{row['gflops']:.1f}" if row["gflops"] else "–",
        f"{row['peak_fraction']:.0%}" if row["gflops"] else "–",
        f"{row['bandwidth_fraction']:.0%} of {row['memory_level']}",
        row["best_peer"] if isinstance(row["best_peer"], str) else "–",
        f"{row['ratio_to_best_peer']:.2f}{'*' if row['other_cpus'] > DISTURBING_CPUS else ''}",
        f"{row['median_ratio_to_best_peer']:.2f}",
        f"{row['noise_minima']:.2f}",
        f"{row['trials']} ({row['failed']})",
    ]


def _mean(values: pd.Series) -> float:
    return float(np.exp(np.log(values).mean())) if len(values) else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("experiments/results/operators"))
    parser.add_argument("--records", type=Path, help="records to read and append to, by default records.db in the output directory")
    parser.add_argument("--families", help=f"only these, of {','.join(FAMILIES)}")
    parser.add_argument("--batches", help="only these batch sizes, by default 1,16")
    parser.add_argument("--peers", help="comma-separated, by default all that are installed")
    parser.add_argument("--max-trials", type=int, default=CONFIG.max_trials, help="a case")
    parser.add_argument("--max-seconds", type=float, default=CONFIG.max_seconds, help="a case")
    parser.add_argument("--no-tuning", action="store_true", help="compare what is in the records")
    parser.add_argument("--plot-only", action="store_true", help="make the table and the figure from an earlier results.csv")
    given = parser.parse_args()
    try:
        config = replace(
            CONFIG, families=_chosen(given.families, tuple(FAMILIES)), batches=tuple(map(int, given.batches.split(","))) if given.batches else BATCHES,
            peers=tuple(given.peers.split(",")) if given.peers else None, max_trials=given.max_trials, max_seconds=given.max_seconds,
        )  # fmt: skip
        if not given.plot_only:
            run(config, given.output, given.records, None if given.no_tuning else tune_case)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from experiments.operators_figure import draw

    results = pd.read_csv(given.output / "results.csv")
    text = table(results)
    (given.output / "operators.md").write_text(text)
    draw(results, given.output / "operators.png")
    print(text, end="")
    return 0


def _chosen(given: str | None, known: Sequence[str]) -> tuple[str, ...]:
    names = tuple(given.split(",")) if given else tuple(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"unknown family {unknown[0]!r} (known: {', '.join(known)})")
    return names


if __name__ == "__main__":
    sys.exit(main())
