"""The command line. Commands import what they need when they run, so that `--help` answers at once.

Exit status: 0 fine, 1 some task has no valid trial, 2 bad input or usage, 130 interrupted with the best kept.
"""

from __future__ import annotations

import io
import os
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.bounds import MAX_BATCH, MAX_SECONDS, MAX_SEED, MAX_THREADS

if TYPE_CHECKING:
    from graph.network import Network
    from ir.task import Task

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Tilewright finds fast CPU code for the layers of a neural network by learned search.",
)  # fmt: skip

NO_VALID_TRIAL, BAD_INPUT, INTERRUPTED = 1, 2, 130


def _with_place(path: Path | None) -> Path | None:
    """A file that will be written at the end: whether it can be is to be known at the beginning."""
    from ir.errors import UserError
    from ir.files import check_place

    if path is not None and str(path) == "-":
        raise UserError("-: standard output has the tables; name a file")
    if path is not None:
        check_place(path)
    return path


def _check_apart(output: Path | None, *others: Path | str | None) -> None:
    """`UserError` where the output would take the place of what the same command reads, or writes elsewhere: a file, or one of a directory of measurements."""
    if output is None:
        return
    from data.measurements import ABOUT, STORE  # which takes a tenth of a second
    from ir.errors import UserError

    for other in others:
        if other is None:
            continue
        place, taken = os.path.realpath(output), os.path.realpath(other)
        if place == taken or (os.path.dirname(place) == taken and place.endswith((".parquet", ABOUT, STORE))):
            raise UserError(f"{output}: it cannot be written: the same command uses what lies there, as {other}")


TargetArgument = Annotated[str, typer.Argument(metavar="TARGET", help="An .onnx file, or an operator such as matmul:m=512,n=512,k=512.")]
RecordsOption = Annotated[Path | None, typer.Option("--records", metavar="FILE", help="Records file to read and append to.")]
RequiredRecords = Annotated[Path, typer.Option("--records", metavar="FILE", help="Records file to read.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, max=MAX_THREADS, help="Threads to run kernels on; by default all this process may use.")]
RecordedThreads = Annotated[
    int | None, typer.Option("--threads", min=1, max=MAX_THREADS, help="Only what was recorded with so many threads; by default with any number.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=MAX_SEED, help="Same seed, same candidates.")]
SecondsOption = Annotated[
    float | None,
    typer.Option("--max-seconds", min=1.0, max=MAX_SECONDS, help="Time for the whole run; the final measurements of a tuning may take a little more."),
]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", callback=_with_place, help="Write the whole result as JSON.")]
ShapeOption = Annotated[list[str] | None, typer.Option("--shape", metavar="NAME=1,3,48,320", help="Shape of a dynamic input; may be repeated.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print the result alone.")]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="Print every trial.")]
NoWinogradOption = Annotated[bool, typer.Option("--no-winograd", help="Leave out schedules by Winograd's algorithm, which round otherwise.")]
DeterministicOption = Annotated[
    bool, typer.Option("--deterministic", help="Leave out Winograd's algorithm and reductions split in parts, which add the terms of a sum in another order.")
]
TasksOption = Annotated[str | None, typer.Option("--tasks", metavar="0,3-5", help="Work on these tasks only, numbered as `tilewright tasks` does.")]

NetworksOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,NAME", help="Networks that the split `network` holds out; by default minilm,ppocr-det, or those that MODEL was trained without."
    ),
]
MixOption = Annotated[bool, typer.Option("--mix-machines", help="Take measurements of several machines together that no one directory holds.")]


class SearchName(StrEnum):
    evolutionary = "evolutionary"
    annealing = "annealing"
    genetic = "genetic"
    random = "random"


class SuiteName(StrEnum):
    standard = "standard"
    networks = "networks"
    operators = "operators"


class SplitName(StrEnum):
    task = "task"
    network = "network"
    within = "within"


class Form(StrEnum):
    nest = "nest"
    llvm = "llvm"
    asm = "asm"


def main() -> None:
    """Entry point: every error a user can cause is one line on standard error."""
    from ir.errors import UserError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a sign, or a path, that the terminal's encoding lacks is no reason to lose a result
    try:
        app(standalone_mode=True)
    except (UserError, OSError) as error:  # such as of standard output that takes no more
        print(f"tilewright: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except SystemExit as leaving:
        if isinstance(getattr(leaving.__context__, "__cause__", None), KeyboardInterrupt):  # which the command did not see, so it said nothing
            print("tilewright: interrupted", file=sys.stderr)
        raise


def _print_version(wanted: bool) -> None:
    from tilewright import __version__

    if wanted:
        print(f"tilewright {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and nothing else.")] = False,
) -> None:
    """What all commands have in common."""


@app.command()
def doctor(threads: ThreadsOption = None, json: JsonOption = None) -> None:
    """What this machine offers: CPU, caches, limits in force, LLVM, libgomp, measured peak, powers of two and bandwidth."""
    from codegen.limits import doctor as examine
    from tilewright.display import also_as_json, print_doctor

    found = examine(threads)
    with also_as_json(json, found):
        print_doctor(found)


@app.command(name="tasks")
def list_tasks(target: TargetArgument, shape: ShapeOption = None, json: JsonOption = None) -> None:
    """The distinct tasks of a network: operator, shape, times used, work, share of the network."""
    from tilewright.display import also_as_json, print_network, tasks_json

    _check_apart(json, target)
    network = _network(target, shape)
    with also_as_json(json, tasks_json(network)):
        print_network(network)


@app.command()
def tune(
    target: TargetArgument,
    records: RecordsOption = None,
    max_trials: Annotated[int | None, typer.Option(min=1, help="Trials over all tasks, those already in the records included.")] = None,
    max_trials_per_task: Annotated[int | None, typer.Option(min=1, help="Trials of each task; 128 where no budget at all is given.")] = None,
    max_seconds: SecondsOption = None,
    tasks: TasksOption = None,
    batch: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Trials that are chosen at once.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.1, max=MAX_SECONDS, help="Seconds for building or measuring one candidate.")] = 10.0,
    search: Annotated[SearchName, typer.Option(help="How candidates are chosen.")] = SearchName.evolutionary,
    cost_model: Annotated[
        str | None,
        typer.Option(
            metavar="shipped|scratch|random|FILE",
            help="What ranks candidates: the model shipped (by default), one learned here, chance, or a trained one; not for --search genetic and random.",
        ),
    ] = None,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not compare outputs with the reference.")] = False,
    require_tuned: Annotated[bool, typer.Option("--require-tuned", help="Fail if some layer of the network is left untuned.")] = False,
    shape: ShapeOption = None,
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    no_winograd: NoWinogradOption = False,
    deterministic: DeterministicOption = False,
    json: JsonOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Search for the fastest code of each task. The same command with the same records goes on where it stopped."""
    from tilewright import api
    from tilewright.display import Watcher, also_as_json, counted, print_result

    _check_apart(json, target, records, cost_model)
    network = _network(target, shape, quiet)
    chosen = select_tasks(network.tasks, tasks)
    ending = "Ctrl-C ends it, and nothing is kept without --records" if records is None else f"Ctrl-C keeps the best so far in {records}"
    headline = f"tuning {len(chosen)} of {counted(len(network.tasks), 'task')} of {target}; {ending}"
    with Watcher(headline, quiet=quiet, verbose=verbose) as watcher:
        result = api.tune(
            chosen, records=records, max_trials=max_trials, max_trials_per_task=max_trials_per_task, max_seconds=max_seconds, batch=batch,
            threads=threads, seed=seed, search=search.value, cost_model=cost_model, check=not no_check, timeout_seconds=timeout,
            no_winograd=no_winograd, deterministic=deterministic, watch=watcher, note=watcher.note,
        )  # fmt: skip
    with also_as_json(json, result.to_json()):
        covered = print_result(result, network, records)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    if any(state.best is None for state in result.states) or (require_tuned and not covered):
        raise typer.Exit(NO_VALID_TRIAL)


@app.command()
def best(
    records: RequiredRecords, threads: RecordedThreads = None, no_winograd: NoWinogradOption = False, deterministic: DeterministicOption = False,
    json: JsonOption = None,
) -> None:  # fmt: skip
    """The best schedule of each recorded task, readable, with its speed and its fraction of the peak."""
    from schedule.algorithms import allowed_algorithms
    from tilewright.display import also_as_json
    from tilewright.inspect import best_json, best_schedules, print_best, without_valid_trial

    _check_apart(json, records)
    found = best_schedules(records, threads, allowed_algorithms(no_winograd=no_winograd, deterministic=deterministic))
    with also_as_json(json, best_json(found)):
        print_best(found, without_valid_trial(records, threads, found))


@app.command()
def show(
    task: Annotated[str, typer.Argument(metavar="TASK", help="An operator text, or the number of a task as `tilewright best` lists them.")],
    records: RequiredRecords,
    ir: Annotated[Form, typer.Option("--ir", help="Loop nest, LLVM IR after optimization, or assembly.")] = Form.nest,
    threads: RecordedThreads = None,
    no_winograd: NoWinogradOption = False,
    deterministic: DeterministicOption = False,
) -> None:
    """The code of a task's best schedule."""
    from schedule.algorithms import allowed_algorithms
    from tilewright.display import say
    from tilewright.inspect import code_text

    say(code_text(task, records, ir.value, threads, allowed_algorithms(no_winograd=no_winograd, deterministic=deterministic)))


@app.command()
def bench(
    target: TargetArgument,
    records: RecordsOption = None,
    peers: Annotated[str | None, typer.Option(help="Comma-separated: numpy, torch, onnxruntime; by default those installed.")] = None,
    tasks: TasksOption = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each contender takes.")] = 10,
    require_tuned: Annotated[bool, typer.Option("--require-tuned", help="Fail if some task has no record, or a layer cannot be tuned.")] = False,
    shape: ShapeOption = None,
    threads: ThreadsOption = None,
    no_winograd: NoWinogradOption = False,
    deterministic: DeterministicOption = False,
    json: JsonOption = None,
) -> None:
    """Tuned and default schedules against other libraries, in turns. Ctrl-C keeps what is compared so far."""
    from schedule.algorithms import allowed_algorithms
    from tilewright.bench import BenchFailed, run_bench
    from tilewright.display import also_as_json, print_bench, print_compared, print_refusals

    _check_apart(json, target, records)
    network = _network(target, shape)
    algorithms = allowed_algorithms(no_winograd=no_winograd, deterministic=deterministic)
    wanted = None if peers is None else [name.strip() for name in peers.split(",")]
    failed: BenchFailed | None = None
    try:
        result = run_bench(select_tasks(network.tasks, tasks), records, wanted, rounds, threads, algorithms=algorithms, watch=print_compared)
    except BenchFailed as error:
        result, failed = error.result, error
    with also_as_json(json, result.to_json()):
        tuned = print_bench(result) and not network.unsupported
        print_refusals(network)
    if failed is not None:
        raise failed
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    if require_tuned and not tuned:
        raise typer.Exit(NO_VALID_TRIAL)


@app.command()
def record(
    targets: Annotated[list[str] | None, typer.Argument(metavar="[TARGET]...", help="ONNX files and operator texts.")] = None,
    suite: Annotated[SuiteName | None, typer.Option(help="A set of tasks, instead of targets; networks that are not there yet are fetched by pip.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIRECTORY", help="Where measurements are kept, and gone on from.")] = Path("measured"),
    merge: Annotated[list[Path] | None, typer.Option(metavar="DIRECTORY", help="Add the measurements of another such directory; may be repeated.")] = None,
    max_trials: Annotated[int | None, typer.Option(min=2, help="Candidates of each task, those already measured included; 128 by default.")] = None,
    max_seconds: Annotated[
        float | None, typer.Option(min=1.0, max=MAX_SECONDS, help="Time for candidates; what the machine can do is measured before, files are written after.")
    ] = None,
    passes: Annotated[
        int | None, typer.Option(min=1, help="How often each candidate is measured, some seconds apart; 2 by default, or as often as those of this seed were.")
    ] = None,
    shape: ShapeOption = None,
    threads: ThreadsOption = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Same seed, same candidates; 0 by default.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Measure candidates of many tasks to learn from: half drawn uniformly, half searched for, some measured twice. Resumes, appends, merges."""
    from graph.shapes import parse_shapes
    from graph.suite import named_suite, target_suite
    from ir.errors import UserError
    from search.campaign import CampaignOptions
    from tilewright.record import MAX_TRIALS, print_recorded, record

    if suite is not None and (targets or shape):
        raise UserError(f"--suite {suite.value} and targets or shapes are not for one campaign: give one of them, then append the other to the same directory")
    merge_alone = bool(merge) and suite is None and not targets
    if merge_alone and (shape or any(given is not None for given in (max_trials, max_seconds, passes, threads, seed))):
        raise UserError(
            "--merge without targets or --suite measures nothing, so --max-trials, --max-seconds, --passes, --shape, --threads and --seed are not for it"
        )
    chosen = None if merge_alone else named_suite(suite.value) if suite is not None else target_suite(targets or [], parse_shapes(shape or []))
    for note in chosen.notes if chosen is not None and not quiet else ():
        print(f"note: {note}", file=sys.stderr)
    options = CampaignOptions(max_trials or MAX_TRIALS, max_seconds, seed or 0)
    recorded = record(chosen, out, options, merge=merge or (), threads=threads, passes=passes, quiet=quiet)
    print_recorded(recorded)
    if recorded.interrupted:
        raise typer.Exit(INTERRUPTED)
    if recorded.given_up or recorded.untimed:
        raise typer.Exit(NO_VALID_TRIAL)


@app.command()
def train(
    data: Annotated[list[Path] | None, typer.Argument(metavar="[DATA]...", help="Directories of `tilewright record`, Parquet files, records files.")] = None,
    records: Annotated[list[Path] | None, typer.Option("--records", metavar="FILE", help="The same as an argument; may be repeated.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", callback=_with_place, help="Where to write the model (.ubj).")] = Path("model.ubj"),
    holdout: Annotated[SplitName | None, typer.Option(help="Learn from all but this, and print the scores on it; else cross-validation.")] = None,
    networks: NetworksOption = None,
    mix_machines: MixOption = False,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Train a cost model from measurements, and print its held-out scores."""
    from tilewright.display import also_as_json
    from tilewright.splits import NETWORKS
    from tilewright.training import print_training, train_from_data

    chosen = _held_out_networks(networks, holdout)
    measured = [*(records or []), *(data or [])]
    _check_apart(output, *measured)
    _check_apart(json, output, *measured)
    report = train_from_data(
        measured, output, seed, holdout=holdout and holdout.value, networks=chosen or NETWORKS, mix_machines=mix_machines,
    )  # fmt: skip
    with also_as_json(json, report.to_json()):
        print_training(report, output)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file that `tilewright train` wrote.")],
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help="Directories of `tilewright record`, Parquet files, records files.")],
    split: Annotated[SplitName, typer.Option(help="Score on what this holds out.")] = SplitName.task,
    networks: NetworksOption = None,
    allow_trained: Annotated[bool, typer.Option("--allow-trained", help="Score on tasks that the model was trained on, too.")] = False,
    mix_machines: MixOption = False,
    json: JsonOption = None,
) -> None:
    """Score a trained cost model on measurements that it was not trained on."""
    from tilewright.display import also_as_json
    from tilewright.training import evaluate as judge
    from tilewright.training import print_judged

    chosen = _held_out_networks(networks, split)
    _check_apart(json, model, *data)
    judged = judge(model, data, split.value, networks=chosen, allow_trained=allow_trained, mix_machines=mix_machines)
    with also_as_json(json, judged.to_json()):
        print_judged(judged)


def _held_out_networks(names: str | None, split: SplitName | None) -> tuple[str, ...] | None:
    from ir.errors import UserError

    if names is not None and split is not SplitName.network:
        raise UserError(f"--networks {names}: only the split `network` holds out networks")
    return None if names is None else tuple(name.strip() for name in names.split(","))


@app.command()
def plot(
    records: RequiredRecords,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIRECTORY", help="Where figures and report.html go.")] = Path("report"),
) -> None:
    """Learning curves and more as PNG, and one self-contained report.html."""
    from tilewright.display import say
    from tilewright.report import write_report

    for path in write_report(records, output):
        say(path)


@app.command(name="export")
def export_records(
    records: RequiredRecords,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="A .parquet or .jsonl file.")],
) -> None:
    """Write the records as Parquet or JSON lines."""
    from data import exchange
    from data.store import Store
    from tilewright.display import counted, say

    _check_apart(output, records)
    with Store(records, create=False) as store:
        say(f"{counted(exchange.export_records(store, output), 'record')} written to {output}")


@app.command(name="import")
def import_records(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A .parquet or .jsonl file that `tilewright export` wrote.")],
    records: Annotated[Path, typer.Option("--records", metavar="FILE", help="Records file to add them to; made where there is none.")],
) -> None:
    """Add exported records to a records file; those already there are skipped."""
    from data import exchange
    from tilewright.display import counted, say

    imported = exchange.import_records(records, source)
    say(f"{counted(imported.n_new, 'record')} added to {records}, {imported.n_known:,} there already")


def _network(target: str, shapes: list[str] | None, quiet: bool = False) -> Network:
    from graph.shapes import parse_shapes
    from graph.targets import resolve_target

    network = resolve_target(target, parse_shapes(shapes or []))
    for note in () if quiet else network.notes:
        print(f"note: {note}", file=sys.stderr)
    return network


def select_tasks(tasks: tuple[Task, ...], choice: str | None) -> tuple[Task, ...]:
    """The tasks that a text such as `0,3-5` names; all without one."""
    from ir.errors import UserError

    if choice is None:
        return tasks
    numbers: list[int] = []
    for part in choice.split(","):
        named = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", part.strip())
        if named is None:
            raise UserError(f"--tasks {choice}: {part!r} is neither a number nor a range such as 3-5")
        first, last = int(named[1]), int(named[2] or named[1])
        if first > last:
            raise UserError(f"--tasks {choice}: the range {part.strip()} runs backwards")
        if last >= len(tasks):
            raise UserError(f"--tasks {choice}: there is no task {last}; the tasks are 0 to {len(tasks) - 1}")
        numbers += range(first, last + 1)
    return tuple(tasks[number] for number in dict.fromkeys(numbers))
