"""How many trials, and seconds, a search needs: learned search from scratch and with a model trained before, against annealing as in AutoTVM (a model from
scratch that knows no roofline, 64 trials a batch), a genetic algorithm without a model, Optuna's TPE, and random search, live, on several tasks and seeds.

    python -m experiments.search_efficiency [--model FILE] [--tasks 1,2,…] [--output DIRECTORY]

`--model`: what `tilewright train` wrote, from other tasks; without it there is no search with a model trained before. `--tasks`: by number; rows that an
earlier run wrote of other tasks stay, so that the whole can be made in parts. What counts after a trial is what `tune`
would keep if it ended there: the fastest few trials and the default schedule are measured again in turns, and the fastest of them is kept. When all runs of a
task are done, whatever any of them would have measured again at any time is, in several series, each built and placed in memory anew: by the first it is
decided what is kept, and by the others how fast that is. Writes results.csv (a row a trial), rounds.csv (a row a batch: how well the model ordered it before it
learned from it), machine.json, search_efficiency.png and search_efficiency_tasks.png, and prints a line a method. Figures and summary are made from the CSVs
alone.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from codegen.limits import package_version
from codegen.machine import Machine, detect_machine
from codegen.runner import LiveRunner
from codegen.timing import PATIENT
from costmodel.model import CostModel
from data.store import Store
from experiments.command import command, counts, whole
from experiments.compared import with_earlier
from experiments.files import check_alike, check_same_machine, model_learned_from, read_results, write_machine, write_results
from experiments.methods import Method, learner_alone, no_learner
from experiments.replayed import ANNEALING_BATCH, RUN, best_after, load_prior
from experiments.tables import geometric_mean
from experiments.tpe import TPESearch, import_optuna
from ir.errors import UserError
from ir.task import Task, task
from schedule.measurement import Candidate
from schedule.rules import sketches
from search.annealing import AnnealingSearch
from search.evolution import EvolutionarySearch
from search.genetic import GeneticSearch
from search.learner import Learner
from search.random_search import RandomSearch
from search.tuner import Progress, TuneOptions, Tuner, finalists
from tilewright import api
from tilewright.this_machine import machine_record

ROUNDS = "rounds.csv"
COLUMNS = (*RUN, "trial", "elapsed_seconds", "best_speed")
ROUND_COLUMNS = (*RUN, "n_measured", "pairwise_accuracy", "model_seconds", "elapsed_seconds")
FIRST, AFTER = (1, 2, 4, 8), (16, 32, 64, 128, 256)  # trials; the very first one is the default schedule
SERIES = 3  # of measuring again
AGAIN_ROUNDS, AGAIN_SECONDS = 20, 15.0  # of a series: so many rounds, or as many as there is time for


@dataclass(frozen=True)
class Config:
    """Tasks of the networks that `tilewright train --holdout network` holds out, and of the families that only they have: of each kind of operator among
    them one, of convolutions three."""

    tasks: tuple[str, ...] = (
        "matmul:m=128,n=384,k=384,b=constant,epilogue=bias",
        "batch_matmul:batch=12,m=128,n=128,k=32,b=variable,epilogue=none",
        "conv2d:n=1,c=192,h=46,w=46,k=192,r=1,s=1,stride=1,pad=0,groups=1,dilation=1,layout=nhwc,epilogue=bias",
        "conv2d:n=1,c=96,h=46,w=46,k=24,r=3,s=3,stride=1,pad=1,groups=1,dilation=1,layout=nhwc,epilogue=none",
        "conv2d:n=1,c=192,h=46,w=46,k=192,r=5,s=5,stride=1,pad=2,groups=192,dilation=1,layout=nhwc,epilogue=bias",
        "conv_transpose2d:n=1,c=128,h=16,w=16,k=64,r=4,s=4,stride=2,pad=1,output_pad=0,groups=1,dilation=1,layout=nhwc,epilogue=none",
        "softmax:shape=1x12x128x128,axis=3",
        "layer_norm:shape=1x128x384,axes=2,epsilon=1e-12",
        "global_average_pool:n=1,c=96,h=92,w=92,layout=nhwc",
        "transpose:shape=1x128x12x32,axes=0x2x3x1",
        "concat:shapes=1x24x184x184.1x24x184x184.1x24x184x184.1x24x184x184,axis=1",
    )
    n_seeds: int = 3
    prior_trials: int = 256
    other_trials: int = 128
    random_trials: int = 256
    batch: int = 16

    def methods(self, prior: CostModel | None) -> dict[str, Method]:
        found = {
            "learned": Method(EvolutionarySearch, Learner.from_scratch, self.other_trials, self.n_seeds, (self.batch,)),
            "annealing": Method(AnnealingSearch, learner_alone, self.other_trials, self.n_seeds, (ANNEALING_BATCH,)),
            "genetic": Method(GeneticSearch, no_learner, self.other_trials, self.n_seeds, (self.batch,)),
            "tpe": Method(TPESearch, no_learner, self.other_trials, self.n_seeds, (self.batch,)),
            "random": Method(RandomSearch, no_learner, self.random_trials, self.n_seeds, (64,)),
        }
        if prior is None:
            return found
        return {"prior": Method(EvolutionarySearch, partial(Learner.with_prior, prior), self.prior_trials, self.n_seeds, (self.batch,)), **found}


CONFIG = Config()


@dataclass(frozen=True)
class Trace:
    """One run. `trials`: of each the seconds that it measured, and when that was known. `finalists`: what would be measured again after each trial, none before
    the first success. `rounds`: how each batch went."""

    trials: pd.DataFrame
    finalists: list[list[Candidate]]
    rounds: pd.DataFrame


def run(config: Config, output: Path, model: Path | None = None, numbers: Sequence[int] | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure everything, or the tasks with these numbers (from 1 on), and write results.csv and rounds.csv, which are also what is returned; the rows of a
    task are there when its runs are done. Where numbers are given, the rows of other tasks stay.

    `UserError` where the model has learned from any of the tasks, Optuna is missing, or these rows cannot stand beside those of an earlier run: of another
    machine, features, timing, or model.
    """
    machine = detect_machine()
    tasks = _chosen(config, numbers)
    prior = None if model is None else load_prior(model, config.tasks)
    methods = config.methods(prior)
    import_optuna()
    about = {
        "machine": machine.to_json(), "versions": api.versions() | {"optuna": package_version("optuna")}, "config": asdict(config),
        "model": None if model is None else model.name, **model_learned_from(prior),
    }  # fmt: skip
    if numbers is not None:
        check_same_machine(output, machine)
        check_alike(output, about, ("model_learned_from",), ("versions", "features"), ("versions", "timing"))
    results, rounds = pd.DataFrame(), pd.DataFrame()
    with LiveRunner(machine.target, timing=PATIENT) as runner:
        for text in tasks:
            of = task(text)
            runner(of, [Candidate.default(sketches(of.program, machine.target)[0])])  # workers, reference: the first run is not to pay for them
            runs = [(seed, name) for seed in range(config.n_seeds) for name in methods]  # methods take turns, so that drift of the machine hits all alike
            traces = [trace(text, methods[name], seed, runner, machine) for seed, name in runs]
            again = list(dict.fromkeys(candidate for each in traces for some in each.finalists for candidate in some))
            choosing, *judging = (speeds_again(of, again, runner) for _ in range(SERIES))
            for (seed, name), found in zip(runs, traces, strict=True):
                best = [speed_of_kept(some, choosing, judging) for some in found.finalists]
                results = pd.concat([results, _named(found.trials.assign(best_speed=best), text, name, seed)], ignore_index=True)
                rounds = pd.concat([rounds, _named(found.rounds, text, name, seed)], ignore_index=True)
            if numbers is not None:
                results = with_earlier(results, output, COLUMNS, config.tasks)
                rounds = with_earlier(rounds, output, ROUND_COLUMNS, config.tasks, ROUNDS)
            write_results(output, results, float_format="%.6g")
            write_results(output, rounds, ROUNDS, float_format="%.6g")
            write_machine(output, about)
    return results, rounds


def _chosen(config: Config, numbers: Sequence[int] | None) -> tuple[str, ...]:
    """The tasks with these numbers; all, where there are none."""
    if numbers is None:
        return config.tasks
    if unknown := [number for number in numbers if number > len(config.tasks)]:
        raise UserError(f"there is no task {unknown[0]}; expected numbers from 1 to {len(config.tasks)}")
    return tuple(config.tasks[number - 1] for number in dict.fromkeys(numbers))


def speeds_again(of: Task, candidates: Sequence[Candidate], runner: LiveRunner) -> dict[Candidate, float]:
    """The speed of each in the task's unit, GFLOP/s or GB/s, all measured in turns; 0 where it fails now."""
    measurements = runner.remeasure(of, candidates, AGAIN_ROUNDS, AGAIN_SECONDS)
    return {candidate: of.speed(measurement.best_seconds) for candidate, measurement in zip(candidates, measurements, strict=True)}


def speed_of_kept(finalists: Sequence[Candidate], choosing: Mapping[Candidate, float], judging: Sequence[Mapping[Candidate, float]]) -> float:
    """Of the finalist that is the fastest by the series that chooses, the highest speed by those that judge; 0 of none. By the same series the luckiest would
    be chosen, and its luck counted as speed."""
    return max(speeds[max(finalists, key=choosing.__getitem__)] for speeds in judging) if finalists else 0.0


def trace(text: str, method: Method, seed: int, runner: LiveRunner, machine: Machine) -> Trace:
    of = task(text)
    runner.forget()
    (batch,) = method.batches
    options = TuneOptions(max_trials=method.n_trials, batch=batch, seed=seed)
    known_at: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.trial is not None:
            known_at.append(progress.elapsed_seconds)

    with TemporaryDirectory() as directory, Store(Path(directory) / "trials.db") as store:
        tuner = Tuner(
            [of], machine.target, runner, method.learner(machine.target, seed), method.search, store, options,
            machine=machine_record(machine), versions=api.versions(), watch=watch,
        )  # fmt: skip
        measured = whole(tuner.run()).tasks[0].measured
        rounds = store.rounds()
    trials = pd.DataFrame({"elapsed_seconds": known_at, "seconds": list(measured.values())}).rename_axis("trial").reset_index()
    shown = ("n_measured", "n_failed", "pairwise_accuracy", "recall_at_k", "k", "top_1", "top_5", "model_seconds", "elapsed_seconds")
    return Trace(trials, _finalists_so_far(measured), pd.DataFrame([{"round": each.round, **{name: getattr(each, name) for name in shown}} for each in rounds]))


def _finalists_so_far(measured: Mapping[Candidate, float]) -> list[list[Candidate]]:
    """The first trial is the default schedule."""
    trials = list(measured.items())
    return [finalists(dict(trials[: i + 1]), (trials[0][0],)) for i in range(len(trials))]


def _named(rows: pd.DataFrame, text: str, method: str, seed: int) -> pd.DataFrame:
    """With the run that they are of in front."""
    return pd.DataFrame({"task": text, "method": method, "seed": seed}, index=rows.index).join(rows)


def summary(results: pd.DataFrame, after: Sequence[int] = AFTER) -> pd.DataFrame:
    """Per method, the share of the best that any run of a task found which it had reached after so many trials: geometric means over tasks and seeds. NaN for
    more trials than it had."""
    reached = best_after(to_their_ends(results), after)
    table = reached.groupby("method", sort=False).agg(lambda shares: geometric_mean(shares) if shares.notna().all() else float("nan"))
    return table.rename_axis(columns="trials")


def to_their_ends(results: pd.DataFrame) -> pd.DataFrame:
    """Rows with `trial`, how many were made, and `best_share`, of the best that any run of the task found. A run that has measured all that its search
    found in a small space stays as it is until it would have had as many trials as the method has elsewhere."""
    share = results["best_speed"] / results.groupby("task")["best_speed"].transform("max")
    made = results.assign(trial=results["trial"] + 1, best_share=share)
    last = made.groupby(RUN, sort=False).tail(1)
    longest = last["method"].map(made.groupby("method")["trial"].max())
    whole_runs = pd.concat([made, last.assign(trial=longest)[last["trial"] < longest]], ignore_index=True)
    number = whole_runs.groupby(RUN, sort=False).ngroup()
    return whole_runs.iloc[np.lexsort((whole_runs["trial"], number))].reset_index(drop=True)


def model_shares(rounds: pd.DataFrame) -> pd.Series:
    """Per method, the share of a run's time that features, fits and scores take: means over runs."""
    runs = rounds.groupby(["method", "task", "seed"], sort=False)
    return (runs["model_seconds"].sum() / runs["elapsed_seconds"].max()).groupby("method", sort=False).mean()


def report(output: Path) -> str:
    from experiments.search_efficiency_figure import draw, draw_tasks

    results, rounds = read_results(output, COLUMNS), read_results(output, ROUND_COLUMNS, ROUNDS)
    runs = to_their_ends(results)
    draw(runs, rounds, output / "search_efficiency.png")
    draw_tasks(runs, output / "search_efficiency_tasks.png")
    spread = f"geometric means over {results['task'].nunique()} tasks and {results['seed'].nunique()} seeds"
    shares = ", ".join(f"{method} {share:.1%}" for method, share in model_shares(rounds).items())
    table = summary(results, (*FIRST, *AFTER)).round(3).to_string()
    return f"share of the best of all, after so many trials ({spread})\n{table}\ntime for features, fits and scores: {shares}"


def main(arguments: Sequence[str] | None = None) -> int:
    def add_options(parser: ArgumentParser) -> None:
        parser.add_argument("--model", type=Path, help="a model trained on other tasks")
        parser.add_argument("--tasks", type=counts, help=f"their numbers, from 1 to {len(CONFIG.tasks)}, with commas; rows of others stay (all, anew)")

    def run_it(options: Namespace) -> None:
        run(CONFIG, options.output, options.model, options.tasks)

    return command("search_efficiency", __doc__, run_it, report, arguments, data=None, add_options=add_options)


if __name__ == "__main__":
    sys.exit(main())
