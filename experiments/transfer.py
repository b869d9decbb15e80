"""Whether the cost model knows what it has never seen the like of: an operator family left out, shapes of another size, another machine.

    python -m experiments.transfer [--data data/measured] [--output DIRECTORY] [--plot-only]

  families  models that have learned from no task of the family, and models that have seen its other tasks, by cross-validation, score the same tasks; both have
            learned from as many.
  sizes     tasks are halved by their work; a model of one half, and one of as many tasks of any size, score the same tasks of the other half.
  machines  where the data are of several: a model of the other machines, and one of all of them, score tasks of this one that neither has seen anywhere.
  predicted candidates of tasks held out: where their scores stand within the task, and what was measured, as predicted.csv.

Writes results.csv (a row a model and what it is judged on), predicted.csv, machine.json and transfer.png, which is made from the CSVs alone. The families of
one seed take sixteen minutes for 71,000 candidates on two slow cores.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from costmodel.model import CostModel, normalized_throughput
from costmodel.training import pretraining_model
from experiments.command import command
from experiments.files import read_results, write_results
from experiments.measured import Measurements, Row, fit_and_judge, load, write
from tilewright.splits import Mask, held_out
from tilewright.training import judge
from tilewright.training_set import TrainingSet

FOLDS = 5  # of cross-validation
FAMILIES, SIZES, MACHINES = "families", "sizes", "machines"  # the parts of the CSV
LIKE, UNLIKE = "the like", "nothing like it"  # what was learned from
PREDICTED = "predicted.csv"


@dataclass(frozen=True)
class Config:
    seeds: tuple[int, ...] = (0, 1)
    min_tasks: int = 4  # that a family needs: the best of fewer is chance
    n_predicted: int = 20_000  # candidates in predicted.csv
    n_threads: int = 2


CONFIG = Config()


def run(config: Config, data: Path, output: Path) -> pd.DataFrame:
    measured = load(data)
    rows = [row for seed in config.seeds for of in (_families, _sizes, _machines) for row in of(config, measured, seed)]
    predicted = _predicted(config, measured.data)
    results = write(output, rows, measured, config)
    write_results(output, predicted, PREDICTED, float_format="%.4g")
    return results


def _model(config: Config, seed: int) -> CostModel:
    return pretraining_model(seed, config.n_threads)


def _families(config: Config, measured: Measurements, seed: int) -> Iterator[Row]:
    """Both learn from as many programs: as cross-validation leaves, or as there are outside of the family, where that is less."""
    data = measured.data
    programs = np.unique(data.programs)
    n_most = len(programs) * (FOLDS - 1) // FOLDS
    seen = _with_the_like(config, data, np.ones(len(data.y), dtype=bool), n_most, seed)
    for family, mask in _masks_of_families(data, config.min_tasks):
        print(f"family {family}, seed {seed}", file=sys.stderr, flush=True)
        others = np.setdiff1d(programs, data.programs[mask])
        n = min(n_most, len(others))
        learn = np.isin(data.programs, np.random.default_rng(seed).permutation(others)[:n])
        alike = seen[mask] if n == n_most else _with_the_like(config, data, mask, n, seed)
        about = {"part": FAMILIES, "held_out": family, "seed": seed, "n_programs": len(programs) - len(others)}
        yield {**about, "learned": UNLIKE, **fit_and_judge(_model(config, seed), data, learn, mask)}
        yield {**about, "learned": LIKE, **judge(alike, data, mask).to_json()}


def _with_the_like(config: Config, data: TrainingSet, mask: Mask, n_programs: int, seed: int) -> NDArray[np.float32]:
    """Scores of the candidates of the mask, each by a model that learned from so many programs, or as there are, but not from its own."""
    rng = np.random.default_rng(seed)
    scores = np.empty(len(data.y), dtype=np.float32)
    for fold in np.array_split(rng.permutation(np.unique(data.programs[mask])), FOLDS):
        hold = mask & np.isin(data.programs, fold)
        others = np.setdiff1d(data.programs, fold)
        learn = np.isin(data.programs, rng.permutation(others)[:n_programs])
        if hold.any():
            scores[hold] = _model(config, seed).fit(data.X[learn], data.y[learn], data.names[learn]).predict(data.X[hold])
    return scores[mask]


def _masks_of_families(data: TrainingSet, min_tasks: int) -> Iterator[tuple[str, Mask]]:
    """(family, which candidates are of its programs, under any name and on any machine), of so many programs and more; the largest first."""
    programs: dict[str, set[str]] = defaultdict(set)
    for group in data.of_group:
        for family in sorted(group.operators):
            programs[family].add(group.program)
    for family, mine in sorted(programs.items(), key=lambda found: -len(found[1])):
        mask = np.isin(data.programs, sorted(mine))
        if len(mine) >= min_tasks and not mask.all():
            yield family, mask


def _sizes(config: Config, measured: Measurements, seed: int) -> Iterator[Row]:
    """Who learns from a random half is judged on the tasks of a size that are not in it, and so is the other, to be compared."""
    data = measured.data
    print(f"sizes, seed {seed}", file=sys.stderr, flush=True)
    work = {group.program: group.work for group in data.of_group}
    programs = np.array(sorted(work, key=work.__getitem__))
    n = len(programs) // 2
    small, random = np.isin(data.programs, programs[:n]), np.isin(data.programs, np.random.default_rng(seed).permutation(programs)[:n])
    for name, half in (("larger tasks", ~small), ("smaller tasks", small)):
        hold = half & ~random
        for learned, learn in ((UNLIKE, ~half), (LIKE, random)):
            yield {"part": SIZES, "held_out": name, "seed": seed, "learned": learned, **fit_and_judge(_model(config, seed), data, learn, hold)}


def _machines(config: Config, measured: Measurements, seed: int) -> Iterator[Row]:
    data = measured.data
    unseen = held_out(data, "task", seed)
    for number, name in measured.machines.items() if len(measured.machines) > 1 else ():
        print(f"machine {name}, seed {seed}", file=sys.stderr, flush=True)
        mine = data.machines == number
        for learned, learn in ((UNLIKE, ~mine & ~unseen), (LIKE, ~unseen)):
            found = fit_and_judge(_model(config, seed), data, learn, mine & unseen)
            yield {"part": MACHINES, "machine": name, "held_out": name, "seed": seed, "learned": learned, **found}


def _predicted(config: Config, data: TrainingSet) -> pd.DataFrame:
    """A row a candidate: the share of its task's candidates that score no higher (a score says nothing across tasks), and its throughput over their best."""
    seed = config.seeds[0]
    hold = held_out(data, "task", seed)
    scores = _model(config, seed).fit(data.X[~hold], data.y[~hold], data.names[~hold]).predict(data.X[hold])
    groups = data.groups[hold]
    rank = pd.Series(scores).groupby(groups).rank(pct=True, method="max")
    found = pd.DataFrame({"rank": rank, "normalized_throughput": normalized_throughput(data.y[hold], groups)})
    return found.sample(min(config.n_predicted, len(found)), random_state=seed)


def report(output: Path) -> str:
    from experiments.transfer_figure import draw

    results = read_results(output, ("part", "held_out", "learned", "n_tasks", "pairwise_accuracy"))
    predicted = read_results(output, ("rank", "normalized_throughput"), PREDICTED)
    draw(results, predicted, output / "transfer.png")
    return summary(results)


def summary(results: pd.DataFrame) -> str:
    lines = []
    means_of = {FAMILIES: "mean over families", SIZES: "mean of both sizes", MACHINES: "mean over machines"}
    for part, mine in results.groupby("part", sort=False):
        means = mine.pivot_table(index="held_out", columns="learned", values="pairwise_accuracy")
        lost = (means[LIKE] - means[UNLIKE]).sort_values(ascending=False)
        lines.append(
            f"{part}: pairwise accuracy {means[UNLIKE].mean():.3f} having seen {UNLIKE}, {means[LIKE].mean():.3f} having seen {LIKE} ({means_of[part]}); "
            f"most is lost for {lost.index[0]}: {100 * lost.iloc[0]:.1f} points"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    return command("transfer", __doc__, lambda options: run(CONFIG, options.data, options.output), report, arguments)


if __name__ == "__main__":
    sys.exit(main())
