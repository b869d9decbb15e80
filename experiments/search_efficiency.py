"""How many trials, and seconds, a search needs: learned search from scratch and with a model trained before, against annealing as in AutoTVM (a model from
scratch that knows no roofline, 64 trials a batch), a genetic algorithm without a model, Optuna's TPE, and random search, live, on several tasks and seeds.

    python -m experiments.search_efficiency [--model FILE] [--output DIRECTORY]

`--model`: what `tilewright train` wrote, from other tasks; without it there is no search with a model trained before. What counts after a trial is what `tune`
would keep if it ended there: the fastest few trials and the default schedule are measured again in turns, and the fastest of them is kept. When all runs of a
task are done, whatever any of them would have measured again at any time is, in several series, each built and placed in memory anew: by the first it is
decided what is kept, and by the others how fast that is. Writes results.csv (a row a trial), rounds.csv (a row a batch: how well the model ordered it before it
learned from it), machine.json and search_efficiency.png, and prints a line a method. The figure and the summary are made from the CSVs alone.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from codegen.limits import package_version
from codegen.machine import Machine, detect_machine
from codegen.runner import LiveRunner
from codegen.timing import PATIENT
from costmodel.model import CostModel
from data.store import Store
from experiments.command import command, whole
from experiments.files import model_learned_from, read_results, write_machine, write_results
from experiments.methods import Method, learner_alone, no_learner
from experiments.replayed import ANNEALING_BATCH, RUN, best_after, load_prior
from experiments.tables import geometric_mean
from experiments.tpe import TPESearch, import_optuna
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
COLUMNS = (*RUN, "trial", "elapsed_seconds", "best_gflops")
ROUND_COLUMNS = (*RUN, "n_measured", "pairwise_accuracy", "model_seconds", "elapsed_seconds")
FIRST, AFTER = (1, 2, 4, 8), (16, 32, 64, 128, 256)  # trials; the very first one is the default schedule
SERIES = 3  # of measuring again
AGAIN_ROUNDS, AGAIN_SECONDS = 20, 15.0  # of a series: so many rounds, or as many as there is time for


@dataclass(frozen=True)
class Config:
    """Tasks of networks that `tilewright train --holdout network` holds out."""

    tasks: tuple[str, ...] = (
        "matmul:m=128,n=384,k=384,b=constant,epilogue=bias",
        "batch_matmul:batch=12,m=128,n=128,k=32,b=variable,epilogue=none",
        "conv2d:n=1,c=192,h=46,w=46,k=192,r=1,s=1,stride=1,pad=0,groups=1,dilation=1,layout=nhwc,epilogue=bias",
        "conv2d:n=1,c=96,h=46,w=46,k=24,r=3,s=3,stride=1,pad=1,groups=1,dilation=1,layout=nhwc,epilogue=none",
        "conv2d:n=1,c=192,h=46,w=46,k=192,r=5,s=5,stride=1,pad=2,groups=192,dilation=1,layout=nhwc,epilogue=bias",
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


def run(config: Config, output: Path, model: Path | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure everything and write results.csv and rounds.csv, which are also what is returned; the rows of a task are there when its runs are done.

    `UserError` where the model has learned from any of the tasks, or Optuna is missing.
    """
    machine = detect_machine()
    prior = None if model is None else load_prior(model, config.tasks)
    methods = config.methods(prior)
    import_optuna()
    about = {
        "machine": machine.to_json(), "versions": api.versions() | {"optuna": package_version("optuna")}, "config": asdict(config),
        "model": None if model is None else model.name, **model_learned_from(prior),
    }  # fmt: skip
    results, rounds = pd.DataFrame(), pd.DataFrame()
    with LiveRunner(machine.target, timing=PATIENT) as runner:
        for text in config.tasks:
            of = task(text)
            runner(of, [Candidate.default(sketches(of.program, machine.target)[0])])  # workers, reference: the first run is not to pay for them
            runs = [(seed, name) for seed in range(config.n_seeds) for name in methods]  # methods take turns, so that drift of the machine hits all alike
            traces = [trace(text, methods[name], seed, runner, machine) for seed, name in runs]
            again = list(dict.fromkeys(candidate for each in traces for some in each.finalists for candidate in some))
            choosing, *judging = (speeds_again(of, again, runner) for _ in range(SERIES))
            for (seed, name), found in zip(runs, traces, strict=True):
                best = [speed_of_kept(some, choosing, judging) for some in found.finalists]
                results = pd.concat([results, _named(found.trials.assign(best_gflops=best), text, name, seed)], ignore_index=True)
                rounds = pd.concat([rounds, _named(found.rounds, text, name, seed)], ignore_index=True)
            write_results(output, results, float_format="%.6g")
            write_results(output, rounds, ROUNDS, float_format="%.6g")
            write_machine(output, about)
    return results, rounds


def speeds_again(of: Task, candidates: Sequence[Candidate], runner: LiveRunner) -> dict[Candidate, float]:
    """GFLOP/s of each, all measured in turns; 0 where it fails now."""
    measurements = runner.remeasure(of, candidates, AGAIN_ROUNDS, AGAIN_SECONDS)
    return {candidate: 1e-9 * of.flops / measurement.best_seconds for candidate, measurement in zip(candidates, measurements, strict=True)}


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
    share = results["best_gflops"] / results.groupby("task")["best_gflops"].transform("max")
    reached = best_after(results.assign(trial=results["trial"] + 1, best_share=share), after)
    table = reached.groupby("method", sort=False).agg(lambda shares: geometric_mean(shares) if shares.notna().all() else float("nan"))
    return table.rename_axis(columns="trials")


def model_shares(rounds: pd.DataFrame) -> pd.Series:
    """Per method, the share of a run's time that features, fits and scores take: means over runs."""
    runs = rounds.groupby(["method", "task", "seed"], sort=False)
    return (runs["model_seconds"].sum() / runs["elapsed_seconds"].max()).groupby("method", sort=False).mean()


def report(output: Path) -> str:
    from experiments.search_efficiency_figure import draw

    results, rounds = read_results(output, COLUMNS), read_results(output, ROUND_COLUMNS, ROUNDS)
    draw(results, rounds, output / "search_efficiency.png")
    spread = f"geometric means over {results['task'].nunique()} tasks and {results['seed'].nunique()} seeds"
    shares = ", ".join(f"{method} {share:.1%}" for method, share in model_shares(rounds).items())
    table = summary(results, (*FIRST, *AFTER)).round(3).to_string()
    return f"share of the best of all, after so many trials ({spread})\n{table}\ntime for features, fits and scores: {shares}"


def main(arguments: Sequence[str] | None = None) -> int:
    def add_options(parser: ArgumentParser) -> None:
        parser.add_argument("--model", type=Path, help="a model trained on other tasks")

    def run_it(options: Namespace) -> None:
        run(CONFIG, options.output, options.model)

    return command("search_efficiency", __doc__, run_it, report, arguments, data=None, add_options=add_options)


if __name__ == "__main__":
    sys.exit(main())
