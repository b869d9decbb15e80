"""Tuned kernels against TVM MetaSchedule's, on one case of each operator family, with as many threads, and as many trials or with more for TVM.

    python -m experiments.metaschedule --tvm-python PYTHON [--trials 64] [--tvm-trials 64] [--families C1D,GMM]
                                       [--output DIRECTORY] [--records FILE] [--plot-only]

PYTHON is an interpreter in whose environment TVM is (`pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1 xgboost psutil cloudpickle tornado`);
it need not be ours. For each case we tune, then TVM tunes, then the two best kernels take turns, one process idle while the other is timed. Writes
results.csv (a row a case), trials.csv (a row a trial of either), machine.json, and from the CSVs alone metaschedule.md and metaschedule.png, the best so far
of both. Each case is written as soon as it is done, and rows of other families in earlier CSVs are kept: a long run can be made in parts. Wants a machine with
nothing else to do.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from codegen.inputs import random_inputs
from codegen.machine import Machine, allowed_cpus, detect_machine
from codegen.process import Tail, death
from experiments.command import command, count, whole
from experiments.compared import trials_of, tuning_of
from experiments.files import COST_MODEL, RESULTS, check_same_machine, read_results, write_machine, write_results
from experiments.operators import chosen_families
from experiments.tables import geometric_mean, markdown_table, write_table
from graph.operator_suite import FAMILIES
from ir.errors import UserError
from ir.task import Task
from schedule.measurement import Candidate
from tilewright import api
from tilewright.bench import DISTURBING_CPUS, recorded_schedules
from tilewright.bench_worker import our_contender
from tilewright.display import counted
from tilewright.problem import Problem
from tilewright.turns import Contender, OtherWork, Series, TurnOptions, take_turn, wait_for_quiet

WORKER = Path(__file__).with_name("metaschedule_worker.py")
MEAN_RATIO, CASE_RATIO, TUNING_RATIO = 1.5, 1.0, 8.0  # wanted: TVM's seconds over ours, of all kernels together and of each; of all tuning
SEED = 0  # of the inputs
# Of the CSV: of every case, and of those for which TVM has a kernel.
OURS = ("family", "task", "min_seconds", "trials", "failed", "tuning_seconds", "tvm_failure", "other_cpus", "apache_tvm")
COMPARED = ("tvm_trials", "tvm_failed", "tvm_tuning_seconds", "tvm_min_seconds", "ratio", "median_ratio", "tuning_ratio")
TRIALS, TRIAL_COLUMNS = "trials.csv", ("family", "tool", "trial", "elapsed_seconds", "seconds")
TOOLS = ("tilewright", "metaschedule")
DROPPED = ("PYTHON", "TVM_", "OMP_", "GOMP_", "KMP_")  # settings of the user's that would change what TVM imports, or how many threads it has


@dataclass(frozen=True)
class Config:
    """`shape`: which of a family's. The third, as the second of the convolutions has a 1×1 kernel, to which padding and dilation mean nothing.

    MetaSchedule learns once a round. Its own 64 trials a round would let it spend 64 trials without a model, so its rounds are as long as ours.
    """

    families: tuple[str, ...] = tuple(FAMILIES)
    shape: int = 2
    trials: int = 64  # a case
    tvm_trials: int = 64
    trials_per_round: int = 16
    build_timeout_seconds: float = 30.0  # MetaSchedule's own; on a machine with much else to do, everything would time out
    threads: int | None = None  # None: as many as the machine has
    seed: int = 0
    rounds: int = 10
    turn_seconds: float = 0.05

    def cases(self) -> dict[str, Task]:
        """By family."""
        return {name: list(FAMILIES[name].tasks(1))[self.shape] for name in self.families}


CONFIG = Config()


# --- TVM's process --------------------------------------------------------------------------------------------------


class TvmError(Exception):
    """TVM has no kernel for a case; the message says why."""


@dataclass(frozen=True)
class Tvm:
    """A running `metaschedule_worker`, which is there for one case."""

    process: subprocess.Popen[bytes]
    tail: Tail

    def ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Its answer; `TvmError` if it ends instead."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # it died: what it left on its standard error says why
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise TvmError(death(self.process.wait(), self.tail.text()).message)
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def start_tvm(python: str, threads: int) -> Iterator[Tvm]:
    pipe = subprocess.PIPE
    # In a session of its own, so that the processes in which TVM builds and measures end with it.
    process = subprocess.Popen(_command(python), env=_environment(threads), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    assert process.stderr is not None
    tail = Tail(process.stderr)
    try:
        yield Tvm(process, tail)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        tail.text()  # which waits until nobody writes there any more
        with suppress(BrokenPipeError):  # a request that a dead process never took
            process.communicate()


def tvm_versions(python: str) -> dict[str, str]:
    """Of TVM and what it tunes with; `UserError` if that Python has none."""
    try:
        done = subprocess.run([*_command(python), "--versions"], env=_environment(1), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"TVM's Python {python!r} cannot be started: {error.strerror}") from None
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()
        raise UserError(f"{python!r} is no Python with TVM: {words[-1] if words else f'it ended with status {done.returncode}'}")
    try:
        versions: dict[str, str] = json.loads(done.stdout)
    except ValueError:
        raise UserError(f"{python!r} is no Python with TVM: asked for versions, it said {done.stdout[:80]!r}") from None
    return versions


def _command(python: str) -> list[str]:
    return [python, "-I", str(WORKER)]  # -I: it imports nothing from our folders


def _environment(threads: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
    return kept | {"TVM_NUM_THREADS": str(threads)}


# --- the comparison -------------------------------------------------------------------------------------------------


def tune_case(of: Task, records: Path, config: Config) -> None:
    """Tune one case into the records file, as `tilewright tune` does."""
    budget = {"max_trials": config.trials, "batch": config.trials_per_round}
    whole(api.tune(of, records=records, threads=config.threads, seed=config.seed, cost_model=COST_MODEL, **budget))


def run(
    config: Config, output: Path, python: str, records: Path | None = None, tune: Callable[[Task, Path, Config], None] = tune_case
) -> pd.DataFrame:  # fmt: skip
    """Tune with both, compare, and write results.csv, trials.csv and machine.json, which is of what is measured now; the rows of results.csv. `python`: TVM's;
    `UserError` if it has no TVM."""
    tvm = tvm_versions(python)
    cpus = sorted(allowed_cpus())  # before an OpenMP library is loaded, which may narrow them
    machine = detect_machine(api.one_thread_without_openmp(config.threads))
    check_same_machine(output, machine)
    records, cases = records or output / "records.db", config.cases()
    refuse_recorded(records, cases.values(), machine)
    about = {"machine": machine.to_json(), "versions": api.versions(), "tvm_versions": tvm, "config": asdict(config)}
    versions = {"cpu_model": machine.cpu_model, "threads": machine.target.threads, "tilewright": api.versions()["tilewright"]}
    versions |= {name.replace("-", "_"): version for name, version in tvm.items() if name.startswith("apache-tvm")}
    results, trials = _earlier(output), _earlier_trials(output)
    for number, (family, of) in enumerate(cases.items(), 1):
        print(f"{number}/{len(cases)} {family} {of.key}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        tune(of, records, config)
        tuning_seconds = time.perf_counter() - start
        tuned = recorded_schedules(records, [of], machine)[0]
        if tuned is None:
            raise UserError(f"{records} has no valid trial of {of.key}")
        ours = {**tuning_of(of, records, machine), "tuning_seconds": tuning_seconds, "sketch": tuned.sketch}
        answer, series, other_cpus = compare(of, tuned, machine, python, cpus, config)
        found = row(ours, answer, series, other_cpus)
        results[family] = {"family": family, "task": of.key, **found, **versions}
        trials[family] = _trials(family, trials_of(of, records, machine), answer)
        write_results(output, pd.concat([trials[name] for name in FAMILIES if name in trials]), TRIALS)
        write_results(output, _in_order(results))
        write_machine(output, about)
        print(f"    {_outcome(found)}", file=sys.stderr, flush=True)
    return _in_order(results)


def _trials(family: str, ours: pd.DataFrame, answer: Mapping[str, Any]) -> pd.DataFrame:
    """Of both tools, as `TRIAL_COLUMNS`; of ours alone where TVM has no kernel."""
    theirs = pd.DataFrame({name: answer.get(name, []) for name in ("elapsed_seconds", "seconds")}, dtype=float).fillna({"seconds": np.inf})
    both = zip(TOOLS, (ours, theirs.rename_axis("trial").reset_index()), strict=True)
    return pd.concat([each.assign(family=family, tool=tool)[list(TRIAL_COLUMNS)] for tool, each in both if len(each)])


def _in_order(results: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """A row a family, as the suite has them."""
    return pd.DataFrame([results[family] for family in FAMILIES if family in results])


def refuse_recorded(records: Path, cases: Iterable[Task], machine: Machine) -> None:
    """`UserError` if a case has trials already: they are not repeated, so its tuning would take no time."""
    known = [of.key for of in cases if records.exists() and tuning_of(of, records, machine)["trials"]]
    if known:
        raise UserError(f"{records} already has trials of {known[0]}, which makes tuning times meaningless; name another file with --records")


def compare(
    of: Task, tuned: Candidate, machine: Machine, python: str, cpus: Sequence[int], config: Config
) -> tuple[dict[str, Any], list[Series], float]:  # fmt: skip
    """What TVM says of its tuning (`failure` alone where it has no kernel), the series of our kernel and of TVM's, and how many CPUs others kept busy."""
    threads, target = machine.target.threads, machine.target
    ours = our_contender("tuned", Problem(of, random_inputs(of.key, SEED), threads), tuned, target)
    job = {
        "task": of.key,
        "trials": config.tvm_trials,
        "trials_per_round": config.trials_per_round,
        "build_timeout_seconds": config.build_timeout_seconds,
        "threads": threads,
        "seed": config.seed,
        "cpus": cpus,
    }
    with start_tvm(python, threads) as tvm:
        try:
            answer = tvm.ask(job)
            return answer, *take_rounds(ours, tvm, config)
        except TvmError as error:
            # Ours is timed all the same.
            return {"failure": str(error)}, *take_rounds(ours, None, config)


def take_rounds(ours: Contender, tvm: Tvm | None, config: Config) -> tuple[list[Series], float]:
    """The series of ours and of TVM's, which take turns, each beginning every other round; and the CPUs' worth of work that others did in our turns."""
    options = TurnOptions(config.rounds, turn_seconds=config.turn_seconds)
    request = {"warm_seconds": options.warm_seconds, "turn_seconds": options.turn_seconds}
    busy: list[float] = []

    def our_turn() -> tuple[float, float, bool]:
        with OtherWork() as other:
            seconds = take_turn(ours, options)
        busy.append(other.cpus)
        return min(seconds), statistics.median(seconds), wait_for_quiet()

    def tvm_turn() -> tuple[float, float, bool]:
        assert tvm is not None
        answer = tvm.ask(request)
        return answer["min_seconds"], answer["median_seconds"], answer["is_quiet"]

    takers = {"tuned": our_turn} if tvm is None else {"tuned": our_turn, "metaschedule": tvm_turn}
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in takers}
    n_disturbed = dict.fromkeys(takers, 0)
    is_quiet = wait_for_quiet()
    for number in range(config.rounds):
        for name in list(takers) if number % 2 == 0 else reversed(takers):
            n_disturbed[name] += not is_quiet
            least, median, is_quiet = takers[name]()
            turns[name].append((least, median))
    series = [Series(name, "", tuple(least for least, _ in found), tuple(median for _, median in found), n_disturbed[name]) for name, found in turns.items()]
    return series, statistics.fmean(busy)


def row(ours: Mapping[str, Any], answer: Mapping[str, Any], series: Sequence[Series], other_cpus: float) -> dict[str, Any]:
    """A row of the CSV, but for what case, machine and versions it is. Ratios are TVM's seconds over ours: above 1 we are faster."""
    mine, *others = series
    found = {**ours, "min_seconds": mine.min_seconds, "median_seconds": mine.median_seconds, "tvm_failure": answer.get("failure"), **dict.fromkeys(COMPARED)}
    if others:
        theirs = others[0]
        found |= {
            "tvm_trials": answer["trials"],
            "tvm_failed": answer["failed"],
            "tvm_failures": "; ".join(f"{n} × {message}" for message, n in answer["failures"].items()),
            "tvm_tuning_seconds": answer["tuning_seconds"],
            "tvm_min_seconds": theirs.min_seconds,
            "tvm_median_seconds": theirs.median_seconds,
            "tvm_error_of_tolerance": answer["error_of_tolerance"],
            "tvm_packed": answer["packed"],
            "tvm_target": answer["target"],
            "ratio": theirs.min_seconds / mine.min_seconds,
            "median_ratio": theirs.median_seconds / mine.median_seconds,
            "tuning_ratio": answer["tuning_seconds"] / ours["tuning_seconds"],
        }
    return {**found, "other_cpus": other_cpus, "disturbed_turns": sum(each.n_disturbed for each in series)}


def _outcome(found: Mapping[str, Any]) -> str:
    if found["tvm_failure"] is not None:
        return f"TVM failed: {found['tvm_failure']}"
    busy = f"; other processes kept {found['other_cpus']:.1f} CPUs busy meanwhile" if found["other_cpus"] > DISTURBING_CPUS else ""
    busy += f"; {found['disturbed_turns']} turns began although threads of the one before were busy" if found["disturbed_turns"] else ""
    return f"{found['ratio']:.2f} × TVM's speed; tuning {found['tuning_seconds']:.0f} s, TVM's {found['tvm_tuning_seconds']:.0f} s{busy}"


def _earlier(output: Path) -> dict[str, dict[str, Any]]:
    """The rows that are there, by family: each stays until its successor is measured."""
    earlier = read_results(output, (*OURS, *COMPARED)).to_dict("records") if (output / RESULTS).exists() else []
    return {each["family"]: {str(name): value for name, value in each.items()} for each in earlier}


def _earlier_trials(output: Path) -> dict[str, pd.DataFrame]:
    """The same of trials.csv, which runs of before 0.2 did not write."""
    if not (output / TRIALS).exists():
        return {}
    return {str(family): mine for family, mine in read_results(output, TRIAL_COLUMNS, TRIALS).groupby("family", sort=False)}


# --- the table ------------------------------------------------------------------------------------------------------


def report(output: Path) -> str:
    results = read_results(output, (*OURS, *COMPARED))
    text = write_table(output / "metaschedule.md", table(results))
    if not (output / TRIALS).exists():
        return f"{text}\n\nNo {TRIALS} beside it, which runs of before 0.2 did not write, so no figure."
    from experiments.metaschedule_figure import best_so_far, draw

    runs = best_so_far(results, read_results(output, TRIAL_COLUMNS, TRIALS))
    if runs.empty:
        return f"{text}\n\n{TRIALS} has no case with trials of both, so no figure."
    draw(runs, len(results), output / "metaschedule.png")
    return text


def table(results: pd.DataFrame) -> str:
    """In Markdown: whether the marks are reached, then a line a case, then why TVM has no kernel where it has none."""
    compared, failed = results[results["ratio"].notna()], results[results["ratio"].isna()]
    head = ["family", "", "case", "ms", "TVM's", "× TVM", "by medians", "trials", "TVM's", "tuning s", "TVM's", "× less"]
    failures = [f"{line['family']}: TVM has no kernel, {line['tvm_failure']}" for _, line in failed.iterrows()]
    notes = "\n".join([
        "“× TVM”: seconds of the fastest call of TVM's kernel over ours, above 1 is faster. Trials: failed ones in brackets. Tuning: seconds that the whole",
        "call took. TVM's weights are packed before any timing, as ours are, and its results were compared with numpy's. A star: other processes disturbed",
        "the comparison. Our kernels are called by the addresses of their arguments, which are prepared; TVM's by its own call from Python, which takes longer",
        "and is counted: of a kernel of a few microseconds that may be all of the difference. Ours may use Winograd's algorithm, TVM's are of the direct",
        "definition.",
    ])  # fmt: skip
    return "\n\n".join([_summary(compared), markdown_table(head, [_line(line) for _, line in results.iterrows()]), *failures, notes])


def _summary(compared: pd.DataFrame) -> str:
    if compared.empty:
        return "TVM has no kernel for any case."
    slowest = compared.sort_values("ratio").iloc[0]
    ours, theirs = compared["tuning_seconds"].sum(), compared["tvm_tuning_seconds"].sum()
    versions = ", ".join(sorted(set(compared["apache_tvm"].astype(str))))
    # With fewer trials than TVM it is enough not to be slower.
    equal = compared["trials"].sum() >= compared["tvm_trials"].sum()
    mean_wanted, tuning_wanted = (f"; wanted: {MEAN_RATIO}", f" (wanted: {TUNING_RATIO:g})") if equal else ("", "")
    return (
        f"{counted(len(compared), 'case')} against MetaSchedule of TVM {versions}: {geometric_mean(compared['ratio']):.2f} × its speed "
        f"(geometric mean{mean_wanted}); the slowest {slowest['ratio']:.2f} × ({slowest['family']}), {(compared['ratio'] < CASE_RATIO).sum()} slower "
        f"than TVM (wanted: none). Tuning took {ours:.0f} s, TVM's {theirs:.0f} s: {theirs / ours:.1f} × less{tuning_wanted}."
    )


def _line(line: pd.Series) -> list[str]:
    ours = [line["family"], FAMILIES[line["family"]].title, line["task"], f"{1e3 * line['min_seconds']:.4f}"]
    trials, tuning = f"{line['trials']} ({line['failed']})", f"{line['tuning_seconds']:.1f}"
    if np.isnan(line["ratio"]):
        return [*ours, "–", "–", "–", trials, "–", tuning, "–", "–"]
    return [
        *ours,
        f"{1e3 * line['tvm_min_seconds']:.4f}",
        f"{line['ratio']:.2f}{'*' if line['other_cpus'] > DISTURBING_CPUS else ''}",
        f"{line['median_ratio']:.2f}",
        trials,
        f"{line['tvm_trials']:.0f} ({line['tvm_failed']:.0f})",
        tuning,
        f"{line['tvm_tuning_seconds']:.1f}",
        f"{line['tuning_ratio']:.1f}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    def add_options(parser: ArgumentParser) -> None:
        parser.add_argument("--tvm-python", help="an interpreter whose environment has TVM")
        parser.add_argument("--records", type=Path, help="records to append to, without trials of the cases, by default records.db in the output directory")
        parser.add_argument("--families", help=f"only these, of {','.join(FAMILIES)}")
        parser.add_argument("--trials", type=count, default=CONFIG.trials, help="of a case")
        parser.add_argument("--tvm-trials", type=count, help="TVM's, by default as many")

    def run_changed(options: Namespace) -> None:
        if options.tvm_python is None:
            raise UserError("--tvm-python is needed to tune with TVM: an interpreter whose environment has it")
        tvm_trials = options.trials if options.tvm_trials is None else options.tvm_trials
        config = replace(CONFIG, families=chosen_families(options.families, tuple(FAMILIES)), trials=options.trials, tvm_trials=tvm_trials)
        run(config, options.output, options.tvm_python, options.records)

    return command("metaschedule", __doc__, run_changed, report, arguments, data=None, add_options=add_options)


if __name__ == "__main__":
    sys.exit(main())
