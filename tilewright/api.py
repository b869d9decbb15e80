"""The Python interface: tasks, tuning, kernels."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from codegen.kernel import Kernel, build_candidate, known_sketches
from codegen.limits import Limits
from codegen.machine import Machine, check_cpu, detect_machine
from codegen.openmp import register_openmp
from codegen.runner import LiveRunner
from codegen.timing import TIMING_VERSION
from costmodel.features import FEATURE_VERSION
from costmodel.model import RandomModel
from costmodel.trained import shipped_model, trained_model
from data.meaning import with_meaning
from data.record import TIMEOUT, UNCHECKED, Record, best_of, has_others, machine_id, of_algorithms
from data.store import Store
from graph.targets import resolve_target
from ir.errors import IllegalCandidate, UserError
from ir.task import Task
from ir.task import task as _task
from schedule.algorithms import ALGORITHMS, allowed_algorithms
from schedule.measurement import Candidate
from search.annealing import AnnealingSearch
from search.evolution import EvolutionarySearch
from search.genetic import GeneticSearch
from search.learner import Learner
from search.random_search import RandomSearch
from search.tuner import Progress, SearchFactory, TaskState, TuneOptions, Tuner
from tilewright.bounds import MAX_BATCH, MAX_SEED, MAX_THREADS, check_seconds, whole
from tilewright.this_machine import is_quiet, machine_record, quiet_limits

SEARCHES: dict[str, SearchFactory] = {
    "evolutionary": EvolutionarySearch,
    "annealing": AnnealingSearch,
    "genetic": GeneticSearch,
    "random": RandomSearch,
}
UNSCORED = ("genetic", "random")  # the searches that ask no cost model
SHIPPED, SCRATCH, RANDOM = "shipped", "scratch", "random"  # cost models that are no files
DEFAULT_TRIALS_PER_TASK = 128  # where no budget is given

Pair = int | Sequence[int]


# --- tasks ----------------------------------------------------------------------------------------------------------


def operator(text: str) -> Task:
    """The task of an operator text such as `matmul:m=512,n=512,k=512`."""
    return _task(text)


def matmul(m: int, n: int, k: int, *, b: str = "constant", epilogue: str = "none") -> Task:
    """(m, k) times (k, n). `b`: "constant" (packed once, as weights are) or "variable". `epilogue`: as in "bias+relu"."""
    return _task(f"matmul:m={m},n={n},k={k},b={b},epilogue={epilogue}")


def batch_matmul(batch: int, m: int, n: int, k: int, *, b: str = "variable", epilogue: str = "none") -> Task:
    """(batch, m, k) times (batch, k, n)."""
    return _task(f"batch_matmul:batch={batch},m={m},n={n},k={k},b={b},epilogue={epilogue}")


def conv2d(
    n: int, c: int, h: int, w: int, k: int, r: int, s: int, *, stride: Pair = 1, pad: Pair = 0, groups: int = 1, dilation: Pair = 1,
    layout: str = "nhwc", epilogue: str = "none",
) -> Task:  # fmt: skip
    """Convolution of n images of c channels and h by w pixels with k filters of r by s; weights are (k, c/groups, r, s).

    `stride` and `dilation` are one number or (vertical, horizontal), `pad` one number, (vertical, horizontal), or (top, left, bottom, right).
    """
    sizes = f"n={n},c={c},h={h},w={w},k={k},r={r},s={s},stride={_joined(stride)},pad={_joined(pad)}"
    return _task(f"conv2d:{sizes},groups={groups},dilation={_joined(dilation)},layout={layout},epilogue={epilogue}")


def _joined(numbers: Pair) -> str:
    return "x".join(map(str, numbers)) if isinstance(numbers, Sequence) and not isinstance(numbers, str) else str(numbers)


def _as_task(task: Task | str) -> Task:
    if not isinstance(task, Task | str):
        raise UserError(f"expected a task, or the text of an operator, got {type(task).__name__}")
    return _task(task) if isinstance(task, str) else task


def tasks(target: str | Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> tuple[Task, ...]:
    """The distinct tasks of an ONNX file or of an operator text, each with how often the network uses it.

    `shapes` gives the dynamic inputs of a network by name.
    """
    return resolve_target(str(target), shapes or {}).tasks


# --- tuning ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What a tuning run found. `limits` are the machine's own, measured before the run."""

    states: tuple[TaskState, ...]
    machine: Machine
    limits: Limits
    elapsed_seconds: float
    interrupted: bool

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(state.task for state in self.states)

    def compile(self, task: Task | str | None = None) -> Kernel:
        """The kernel of the task's best schedule; without `task`, of the only one. `UserError` if it has no valid trial."""
        if task is None and len(self.states) != 1:
            raise UserError(f"compile which of the {len(self.states)} tasks? Name one of result.tasks")
        key = self.states[0].task.key if task is None else _as_task(task).key
        state = next((state for state in self.states if state.task.key == key), None)
        if state is None:
            raise UserError(f"{key} was not tuned in this run")
        if state.best is None:
            raise UserError(f"{state.task.key} has no valid trial{_reasons(state)}")
        return _kernel(state.task, state.best, self.machine)

    def to_json(self) -> dict[str, object]:
        """The whole result: the machine, and for each task what was tried and found."""
        return {
            "machine": self.machine.to_json(),
            "limits": self.limits.to_json(),
            "elapsed_seconds": self.elapsed_seconds,
            "interrupted": self.interrupted,
            "tasks": [self._task_json(state) for state in self.states],
        }

    def peak_fraction(self, state: TaskState) -> float | None:
        """Of the machine's multiply-adds; None where nothing is known, or no flops are."""
        if not state.best_seconds or not state.task.flops:
            return None
        return state.task.speed(state.best_seconds) / self.limits.peak_gflops

    def _task_json(self, state: TaskState) -> dict[str, object]:
        best = state.best
        return {
            "key": state.task.key,
            "name": state.task.name,
            "count": state.task.count,
            "flops": state.task.flops,
            "trials": state.n_trials,
            "failed": dict(state.failures),
            "failed_finally": dict(state.final_failures),
            "is_judged": state.is_judged,
            "given_up": state.given_up,
            "default_seconds": state.default_seconds,
            "best_seconds": state.best_seconds,
            "best_gflops": 1e-9 * state.task.flops / state.best_seconds if state.best_seconds else None,
            "best_gb_per_second": 1e-9 * state.task.program.n_bytes / state.best_seconds if state.best_seconds else None,
            "peak_fraction": self.peak_fraction(state),
            "tuning_seconds": state.tuning_seconds,
            "sketch": best.sketch if best else None,
            "row": list(best.row) if best else None,
        }


def tune(
    what: Task | str | Path | Iterable[Task | str],
    *,
    records: str | Path | None = None,
    max_trials: int | None = None,
    max_trials_per_task: int | None = None,
    max_seconds: float | None = None,
    batch: int = 16,
    threads: int | None = None,
    seed: int = 0,
    search: str = "evolutionary",
    cost_model: str | None = None,
    check: bool = True,
    timeout_seconds: float = 10.0,
    no_winograd: bool = False,
    deterministic: bool = False,
    watch: Callable[[Progress], None] = lambda progress: None,
    note: Callable[[str], None] = lambda text: None,
) -> Result:
    """Search for the fastest schedule of each task.

    `what` is a task, several (one that comes twice is tuned once; a text is an operator's), or a target as in `tasks`. With `records`, a file, every trial is
    kept there, and trials already there count and are not repeated. Without any budget each task gets `DEFAULT_TRIALS_PER_TASK` trials. `search` is one of
    `SEARCHES`; `cost_model` is what ranks candidates: "shipped" (if None), the model that comes with Tilewright, or the file of another one that
    `tilewright train` wrote, each put right by what is measured; "scratch", one that learns from nothing; or "random". The searches "genetic" and "random" ask
    none, and take none. `check`: compare every candidate's output with the reference. `no_winograd` leaves out schedules by Winograd's algorithm, which round
    otherwise; `deterministic` those by split reductions too, which add the terms of a sum in parts. Records of what is left out do not count. `watch` sees
    every trial; `note` is told, before the first, what whoever tunes should know: that the records are of other machines, or that this one is busy.
    `UserError` if anything asked for cannot be had. Ctrl-C ends the run early and keeps what was found.
    """
    started = time.monotonic()
    _check_search(search, cost_model)
    max_trials = None if max_trials is None else whole("max_trials", max_trials, 1)
    max_trials_per_task = None if max_trials_per_task is None else whole("max_trials_per_task", max_trials_per_task, 1)
    batch, seed = whole("batch", batch, 1, MAX_BATCH), whole("seed", seed, 0, MAX_SEED)
    check_seconds("max_seconds", max_seconds)
    check_seconds("timeout_seconds", timeout_seconds)
    if max_trials is None and max_trials_per_task is None and max_seconds is None:
        max_trials_per_task = DEFAULT_TRIALS_PER_TASK
    chosen = _chosen(what)
    machine = detect_machine(one_thread_without_openmp(threads))
    learner = make_learner(cost_model or (RANDOM if search in UNSCORED else SHIPPED), machine, seed)
    options = TuneOptions(max_trials, max_trials_per_task, max_seconds, batch, seed, allowed_algorithms(no_winograd=no_winograd, deterministic=deterministic))
    with ExitStack() as stack:
        store = stack.enter_context(Store(records)) if records is not None else None
        unused = None if store is None else unused_records(store, chosen, machine)
        if unused is not None:
            note(unused)
        if threads is None and register_openmp() is None:
            note("no OpenMP library is found, such as the xgboost wheel brings: kernels run on one thread")
        limits = quiet_limits(machine)
        if not is_quiet(limits, machine):
            speedup = f"{machine.target.threads} threads were {limits.fma_scaling:.1f} times as fast as one"
            note(f"something else keeps this machine busy ({speedup}): what is measured now will be less certain")
        runner = stack.enter_context(LiveRunner(machine.target, timeout_seconds=timeout_seconds, check=check, seed=seed))
        tuner = Tuner(
            chosen, machine.target, runner, learner, SEARCHES[search], store, options,
            machine=machine_record(machine), versions=versions() | {TIMEOUT: f"{timeout_seconds:g}"} | ({} if check else {UNCHECKED: "yes"}),
            watch=watch, started=started,
        )  # fmt: skip
        found = tuner.run()
    return Result(found.tasks, machine, limits, found.elapsed_seconds, found.interrupted)


def _check_search(search: str, cost_model: str | None) -> None:
    if search not in SEARCHES:
        raise UserError(f"unknown search {search!r} (known: {', '.join(SEARCHES)})")
    if cost_model is not None and search in UNSCORED:
        raise UserError(f"the search {search} asks no cost model, so it takes none; got {cost_model}")


def _chosen(what: Task | str | Path | Iterable[Task | str]) -> tuple[Task, ...]:
    chosen: dict[str, Task] = {}
    for each in tasks(what) if isinstance(what, str | Path) else map(_as_task, what if isinstance(what, Iterable) else (what,)):
        same = chosen.get(each.key)
        chosen[each.key] = each if same is None else replace(same, count=same.count + each.count)
    if not chosen:
        raise UserError("there is no task to tune")
    return tuple(chosen.values())


def one_thread_without_openmp(threads: int | None) -> int | None:
    """The thread count to ask for: one where no OpenMP library is found, `UserError` if more were asked for, or no whole number."""
    threads = None if threads is None else whole("threads", threads, 1, MAX_THREADS)
    if register_openmp() is not None:
        return threads
    if threads is not None and threads > 1:
        raise UserError(f"{threads} threads need libgomp, which the xgboost wheel brings, and none is found; use one thread")
    return 1


def make_learner(cost_model: str, machine: Machine, seed: int) -> Learner:
    """`UserError` for a file that is no cost model, or is one for other features."""
    if cost_model == SCRATCH:
        return Learner.from_scratch(machine.target, seed)
    if cost_model == RANDOM:
        return Learner(RandomModel(seed), machine.target)
    if cost_model != SHIPPED and not os.path.exists(cost_model):  # where one may not look, `Path.exists` raises
        raise UserError(f"cost model {cost_model}: it does not exist; expected {SHIPPED}, {SCRATCH}, {RANDOM}, or a file that tilewright train wrote")
    prior = shipped_model() if cost_model == SHIPPED else trained_model(cost_model)
    return Learner.with_prior(prior, machine.target, seed)


# --- records and kernels --------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Versions of all that decides about a candidate's code, its seconds and its features."""
    packages = {name: importlib.metadata.version(name) for name in ("tilewright", "llvmlite", "numpy", "xgboost")}
    return {**packages, "features": str(FEATURE_VERSION), "timing": str(TIMING_VERSION), "python": platform.python_version()}


def compile(
    task: Task | str, *, records: str | Path, threads: int | None = None, no_winograd: bool = False, deterministic: bool = False
) -> Kernel:  # fmt: skip
    """The kernel of the best recorded schedule of the task for this machine and thread count, some left out as in `tune`; `UserError` if there is none."""
    wanted = _as_task(task)
    machine = detect_machine(one_thread_without_openmp(threads))
    with Store(records, create=False) as store:
        best = recorded_best(store, wanted, machine, allowed_algorithms(no_winograd=no_winograd, deterministic=deterministic))
        if best is None:
            hint = unused_records(store, [wanted], machine)
            asked = f"{records} has no valid trial of {wanted.key} for this machine with {machine.target.threads} threads"
            raise UserError(f"{asked}, or none of this version or by these algorithms" if hint is None else f"{asked}; {hint}")
    return _kernel(wanted, Candidate(best.sketch, best.row), machine)


def unused_records(store: Store, tasks: Sequence[Task], machine: Machine) -> str | None:
    """Why the store's trials of these tasks do not count on this machine with its threads, if there are some and none does: what is silently passed over
    would be measured again for no reason that its owner could see."""
    here, keys = (machine_id(machine_record(machine)), machine.target.threads), {task.key for task in tasks}
    counts = [each for each in store.tasks() if each.setting.task in keys]
    if not counts or any((each.setting.machine, each.setting.threads) == here for each in counts):
        return None
    mine = sorted({each.setting.threads for each in counts if each.setting.machine == here[0]})
    whose = f"of this machine with {' and '.join(map(str, mine))} threads, not {here[1]}" if mine else "all of other machines, or of this one with another LLVM"
    return f"{store.path}: {sum(each.n_trials for each in counts)} trials of these tasks do not count: they are {whose}"


def recorded_best(store: Store, task: Task, machine: Machine, algorithms: Collection[str] = ALGORITHMS) -> Record | None:
    """The record to use for the task on this machine with its thread count, among those that mean something to today's sketches."""
    sketches = tuple(known_sketches(task.key, machine.target).values())
    records = store.records(task.key, machine_id(machine_record(machine)), machine.target.threads)
    return best_of(of_algorithms(with_meaning(records, sketches), algorithms), left_out=has_others(records, algorithms))


def _kernel(task: Task, candidate: Candidate, machine: Machine) -> Kernel:
    """`UserError` for a candidate of another version that is none any more."""
    check_cpu(machine.target, detect_machine().target)
    register_openmp()
    try:
        return Kernel(build_candidate(task, candidate, machine.target))
    except IllegalCandidate as error:
        raise UserError(f"the schedule of {task.key} was recorded by another version and means nothing now: {error}") from None


def _reasons(state: TaskState) -> str:
    if state.given_up:
        return f": {state.given_up}"
    listed = ", ".join(f"{n} {failure}" for failure, n in state.failures.most_common())
    example = next(iter(state.messages.values()), "")
    return f": {listed}; {example}" if listed else ""
