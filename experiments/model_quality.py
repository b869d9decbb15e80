"""How good the cost model is on what it has not seen, and how that grows with the measurements that it learns from.

    python -m experiments.model_quality [--data data/measured] [--output DIRECTORY] [--plot-only]

Judges the shipped configuration on three splits (candidates, tasks, networks never seen; see `tilewright.splits`), each with several seeds, on all machines
together and on each. Then, for the tasks held out by the first seed, it learns from a part of the other tasks, and from a part of the candidates of each.
Writes results.csv (a row a fit, and where there are several machines one for each of them), machine.json and model_quality.png, which is made from the CSV
alone. Takes a quarter of an hour for 62,000 candidates on two slow cores.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from costmodel.training import pretraining_model
from experiments.command import command
from experiments.figure_parts import MEASURES
from experiments.files import read_results
from experiments.measured import ALL, Measurements, Row, fit, fit_and_judge, load, splits, write
from tilewright.splits import NETWORKS, Mask, held_out
from tilewright.training import judge, judge_machines
from tilewright.training_set import TrainingSet

# What the model must reach on each split, in the order of `figure_parts.MEASURES`.
MARKS = {"within": (0.92, 0.75, 0.95, 0.99), "task": (0.89, 0.65, 0.93, 0.98), "network": (0.87, 0.60, 0.91, 0.97)}

COLUMNS = (
    "part", "split", "machine", "task_share", "candidate_share", "learned_tasks", "learned_candidates", "recall_at_30_by_chance", "pairwise_bound", *MEASURES,
)  # fmt: skip
SPLIT, CURVE = "split", "curve"  # the parts of the CSV


@dataclass(frozen=True)
class Config:
    splits: tuple[str, ...] = ("within", "task", "network")
    networks: tuple[str, ...] = NETWORKS
    seeds: tuple[int, ...] = (3, 4, 5)  # others than the model was chosen by
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)  # of what there is to learn from
    n_threads: int = 2


CONFIG = Config()


def run(config: Config, data: Path, output: Path) -> pd.DataFrame:
    measured = load(data)
    return write(output, [*_by_split(config, measured), *_curve(config, measured)], measured, config)


def _by_split(config: Config, measured: Measurements) -> Iterator[Row]:
    """Of each fit the scores on all that is held out, and on what each machine measured of it."""
    data = measured.data
    for split, seed, hold, networks in splits(data, config.splits, config.seeds, config.networks):
        model = pretraining_model(seed, config.n_threads)
        learned = fit(model, data, ~hold)
        about = {"part": SPLIT, "split": split, "seed": seed, "task_share": 1.0, "candidate_share": 1.0, **learned}
        scores = model.predict(data.X[hold])
        machines = {measured.machines[number]: found for number, found in judge_machines(scores, data, hold, networks).items()}
        for name, found in {ALL: judge(scores, data, hold, networks), **machines}.items():
            yield {**about, "machine": name, **found.to_json()}


def _curve(config: Config, measured: Measurements) -> Iterator[Row]:
    """The seed says which tasks, or candidates, are learned from; what is held out stays the same."""
    data = measured.data
    hold = held_out(data, "task", config.seeds[0])
    for seed in config.seeds:
        print(f"learning curve, seed {seed}", file=sys.stderr, flush=True)
        for task_share, candidate_share, learn in _parts(data, ~hold, config.shares, np.random.default_rng(seed)):
            found = fit_and_judge(pretraining_model(seed, config.n_threads), data, learn, hold)
            yield {"part": CURVE, "split": "task", "seed": seed, "task_share": task_share, "candidate_share": candidate_share, **found}


def _parts(data: TrainingSet, learn: Mask, shares: Sequence[float], rng: np.random.Generator) -> Iterator[tuple[float, float, Mask]]:
    """(share of tasks, share of candidates, which candidates); a smaller part is in every larger one. All of everything comes once."""
    programs = rng.permutation(np.unique(data.programs[learn]))
    order = pd.Series(rng.random(len(learn))).groupby(data.groups)
    rank, size = order.rank(method="first").to_numpy(), order.transform("size").to_numpy()
    for share in shares:
        yield share, 1.0, learn & np.isin(data.programs, programs[: max(1, round(share * len(programs)))])
        if share < 1:
            yield 1.0, share, learn & (rank <= np.maximum(2, share * size))  # one alone would be its task's best, whatever its speed


def report(output: Path) -> str:
    from experiments.model_quality_figure import draw

    results = read_results(output, COLUMNS)
    draw(results, MARKS, output / "model_quality.png")
    return summary(results)


def summary(results: pd.DataFrame) -> str:
    measures = ["pairwise_accuracy", "recall_at_30", "top_1", "top_5"]
    of_split = results[(results["part"] == SPLIT) & (results["machine"] == ALL)].groupby("split", sort=False)
    means, chance = of_split[measures].mean(), of_split["recall_at_30_by_chance"].mean()
    marks = pd.DataFrame.from_dict({split: MARKS[split] for split in means.index}, orient="index", columns=measures)
    marks["recall_at_30"] = marks["recall_at_30"].where(chance < marks["recall_at_30"])  # what any order reaches says nothing
    reached, n_marks = int((means >= marks).sum().sum()), int(marks.count().sum())
    first = "; ".join(f"{split} {' '.join(f'{value:.3f}' for value in row)}" for split, row in means.iterrows())
    curve = results[results["part"] == CURVE]
    few_tasks = curve[curve["candidate_share"] == 1].groupby("task_share")["pairwise_accuracy"].mean()
    few_candidates = curve[curve["task_share"] == 1].groupby("candidate_share")["pairwise_accuracy"].mean()
    return (
        f"pairwise accuracy, recall@30, top-1 and top-5 by split: {first}; {reached} of {n_marks} marks reached"
        f"{', those left out that any order reaches' if n_marks < means.size else ''}\n"
        f"pairwise accuracy on tasks never seen: {few_tasks.iloc[0]:.3f} from {few_tasks.index[0]:.0%} of the other tasks, "
        f"{few_candidates.iloc[0]:.3f} from {few_candidates.index[0]:.0%} of the candidates of all, {few_tasks.iloc[-1]:.3f} from everything"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    return command("model_quality", __doc__, lambda options: run(CONFIG, options.data, options.output), report, arguments)


if __name__ == "__main__":
    sys.exit(main())
