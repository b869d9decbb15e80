"""The live runner: candidates are built in parallel and measured alone, all in other processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from types import TracebackType
from typing import Self

from codegen.jobs import Build, Compare, Measure, Refer, code_of
from codegen.machine import allowed_cpus, check_cpu, cpu_quota, detect_machine, memory_bytes, memory_limit_bytes, usable_threads
from codegen.openmp import register_openmp
from codegen.pool import Pool
from codegen.process import WorkerOptions, WorkerProcess
from codegen.protocol import Answer
from codegen.quiet import LONGEST_WAIT_SECONDS
from codegen.timing import Timing
from ir.errors import NoReference, UserError
from ir.task import Task
from schedule.algorithms import WINOGRAD
from schedule.measurement import Candidate, Measurement
from schedule.target import Target

OnResult = Callable[[int, Measurement], None]

GIVE_UP = 4.0  # a candidate so many times slower than the best so far is timed once
BUILDS_AHEAD = 8  # candidates a builder that are built before they are measured: so many are lost at worst
BUILDS_A_PROCESS = 300  # llvmlite 0.50 leaks some 0.15 MB in each run of LLVM's passes (its ModulePassManager is never disposed of)
BUILD_BYTES = 1 << 30  # to build a candidate takes a tenth of that; all builders together get as much as the one that measures, where that is more
REFERENCE_SECONDS = 600.0
COMPARED_RUNS = 9  # of each candidate at least, before and in three rounds, where a single one takes all the time that there is
ATTEMPTS = 3  # to compare candidates while the machine is not busy with something else
COMPARE_SECONDS = 2.0  # for taking turns, all candidates together, where nothing else is said


class _Late(Exception):
    """The deadline came while the reference was computed, which a candidate waits for: it counts as not begun."""


class LiveRunner:
    """Measures candidates on this machine; use it in a `with` statement, which leaves no process behind.

    Building and measuring never overlap: on a machine of few cores one would disturb the other. A candidate that fails, in whatever way, is a
    measurement with a failure: "illegal" (its row breaks a limit), "build" (LLVM refuses it), "crash", "exit", "timeout", "memory" (its worker ended
    so, or its limit was met), "wrong" (its result was not right, or it wrote outside of its buffers).

    With several passes, each candidate of a group is measured once before any is measured again, some seconds later: what slows the machine for a while, or
    puts its threads far from each other, then has to come back to slow the same candidate twice.

    After an interrupt the runner can be used again. `build_seconds` and `measure_seconds` count the time spent so far, the latter with `waited_seconds`, those
    for a quiet machine (`codegen.quiet`); `n_measured` counts what was right, each pass of a candidate once, and `n_disturbed` that of it which no such wait
    could help.
    """

    def __init__(
        self,
        target: Target,
        *,
        timeout_seconds: float = 10.0,
        check: bool = True,
        n_builders: int | None = None,
        memory_bytes: int | None = None,
        seed: int = 0,
        timing: Timing | None = None,
        passes: int = 1,
        jobs: str = "codegen.jobs",
    ) -> None:
        """`timeout_seconds` bounds the build and the measurement of a candidate, each. `check`: whether each result is compared with the reference.
        `n_builders`: by default as many as can run at once. `memory_bytes`: what the worker that measures may use, and all that build together, but for
        `BUILD_BYTES` that each of these may; by default half of the memory. `seed`: of the inputs. `passes`: how often each candidate is measured.
        `jobs`: the module that holds the table of jobs.

        `UserError` if code for `target` cannot run here.
        """
        cpus = tuple(sorted(allowed_cpus()))  # before OpenMP's library is loaded, which may pin this thread
        check_cpu(target, detect_machine(target.threads).target)
        if target.threads > 1 and register_openmp() is None:
            raise UserError(f"{target.threads} threads asked for, but no libgomp is found to run them; one thread can be used")
        options = WorkerOptions(memory_bytes or default_memory_bytes(), cpus, jobs)
        self._target, self._timeout, self._check, self._seed, self._timing = target, timeout_seconds, check, seed, timing or Timing()
        self._passes = passes
        n_builders = n_builders or usable_threads(len(cpus), cpu_quota())
        shared = replace(options, max_jobs=BUILDS_A_PROCESS, memory_bytes=max(options.memory_bytes // n_builders, BUILD_BYTES))
        self._builders = Pool(n_builders, shared)
        self._measurer = WorkerProcess(options)
        self._best: dict[str, float] = {}
        self._unbounded: dict[tuple[str, str], Answer] = {}  # by task and algorithm: found out once, for that may take all of `REFERENCE_SECONDS`
        self._roomy = ""  # the task that last got a worker of its own for want of memory
        self.build_seconds = 0.0
        self.measure_seconds = 0.0
        self.waited_seconds = 0.0
        self.n_measured = self.n_disturbed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def forget(self) -> None:
        """What was measured so far no longer decides which candidates are given up: for another run on the same tasks."""
        self._best.clear()

    def close(self) -> None:
        """End all workers."""
        self._builders.close()
        self._measurer.close()
        self._measurer.kill()

    def __call__(self, task: Task, candidates: Sequence[Candidate], *, deadline: float | None = None, on_result: OnResult | None = None) -> list[Measurement]:
        """A measurement a candidate, in the same order; those not begun at `deadline` (of `time.monotonic`) are missing at the end.

        `on_result` is called with each index and measurement as it comes: what it was called with is not lost if this call is interrupted.
        """
        results: list[Measurement] = []
        ahead = BUILDS_AHEAD * len(self._builders.workers)
        for start in range(0, len(candidates), ahead):
            for measurement in self._measure_group(task, self._build(task, candidates[start : start + ahead], deadline), deadline):
                results.append(measurement)
                if on_result is not None:
                    on_result(len(results) - 1, measurement)
        return results

    def remeasure(
        self, task: Task, candidates: Sequence[Candidate], rounds: int, max_seconds: float = COMPARE_SECONDS, *,
        good_seconds: float = math.inf, deadline: float | None = None,
    ) -> list[Measurement]:  # fmt: skip
        """Measure candidates in turns, a repeat of each in every round, so that what disturbs the machine for a while disturbs all of them. Of the rounds there
        are as many as fit into `max_seconds`, but three at least. While the fastest takes longer than `good_seconds` all rounds are made anew, `ATTEMPTS` times
        at most, not after the deadline (of `time.monotonic`); those with the fastest count.

        The same candidate twice is an A/A test. Each is first measured alone, and takes no part if that fails. Where they cannot be measured together, as where
        memory holds each but not all, what was measured alone stands.
        """
        builds = self._build(task, candidates, None)
        results = [self._measure(task, built, None, self._check) for built in builds]
        good = [i for i, result in enumerate(results) if result.ok]
        if good:
            job = Compare(tuple(code_of(builds[i]) for i in good), self._timing, rounds, max_seconds, self._seed)
            answer = self._compare(task, job, good_seconds, deadline)
            for turn, i in enumerate([] if answer.failure else good):
                results[i] = Measurement(tuple(answer.result["seconds"][turn]))
        return results

    def _compare(self, task: Task, job: Compare, good_seconds: float, deadline: float | None) -> Answer:
        """The answer of the attempt with the fastest repeat; a failure where none had any."""
        self._leave_room(task)
        best, fastest = Answer({}), math.inf
        for attempt in range(ATTEMPTS):
            if attempt and deadline is not None and time.monotonic() >= deadline:
                break
            with self._measuring():
                answer = self._measurer.ask(job, COMPARED_RUNS * self._timeout * len(job.codes) + job.max_seconds)
            if answer.failure == "memory" and self._made_room(task):
                continue
            if answer.failure:
                return best if best.result else answer
            now = min(min(seconds) for seconds in answer.result["seconds"])
            if now < fastest:
                best, fastest = answer, now
            if fastest <= good_seconds:
                break
        return best if best.result else answer

    def _build(self, task: Task, candidates: Sequence[Candidate], deadline: float | None) -> list[Answer]:
        started = time.perf_counter()
        try:
            return self._builders.run([Build(task.key, c.sketch, c.row, self._target) for c in candidates], self._timeout, deadline)
        finally:
            self.build_seconds += time.perf_counter() - started

    def _measure_group(self, task: Task, builds: Sequence[Answer], deadline: float | None) -> Iterator[Measurement]:
        """Of each candidate in order, once its last pass is over, or as it stands at the deadline, or where the reference is lost; those not begun then are
        missing at the end."""
        found: list[Measurement] = []
        for number, i in product(range(self._passes), range(len(builds))):
            is_last = number == self._passes - 1
            if deadline is not None and time.monotonic() >= deadline:
                yield from found[i if is_last else 0 :]
                return
            try:
                found[i : i + 1] = [self._measure_again(task, builds[i], found[i] if number else None, deadline)]
            except (NoReference, _Late) as error:
                yield from found[i if is_last else 0 :]
                if isinstance(error, _Late):
                    return
                raise
            if is_last:
                yield found[i]

    def _measure_again(self, task: Task, built: Answer, before: Measurement | None, deadline: float | None) -> Measurement:
        """United with what was measured before; a candidate that has failed is left alone, one that was right is not checked again."""
        if before is not None and not before.ok:
            return before
        now = self._measure(task, built, self._give_up(task), self._check and before is None, deadline)
        self._best[task.key] = min(self._best.get(task.key, math.inf), now.best_seconds)
        return now if before is None else before.united(now)

    def _measure(self, task: Task, built: Answer, give_up_seconds: float | None, check: bool, deadline: float | None = None) -> Measurement:
        if built.failure:
            return Measurement((), built.failure, built.message)
        self._leave_room(task)
        job = Measure(code_of(built), replace(self._timing, give_up_seconds=give_up_seconds), check, self._seed)
        with self._measuring():
            answer = self._checked_and_timed(task, job, deadline)
            if answer.failure == "memory" and (task.key, job.code.algorithm) not in self._unbounded and self._made_room(task):
                answer = self._checked_and_timed(task, job, deadline)
            if answer.failure == "wrong":
                self._measurer.kill()  # it may have written anywhere: the next candidate is not to suffer for that
        if answer.failure:
            return Measurement((), answer.failure, answer.message)
        self.waited_seconds += answer.result["waited"]
        self.n_disturbed += answer.result["disturbed"]
        self.n_measured += 1
        return Measurement(tuple(answer.result["seconds"]))

    def _checked_and_timed(self, task: Task, job: Measure, deadline: float | None) -> Answer:
        if job.check and (failed := self._refer(task, job.code.algorithm, deadline)) is not None:
            return failed
        return self._measurer.ask(job, self._timeout + (LONGEST_WAIT_SECONDS if job.timing.patience else 0.0))

    def _refer(self, task: Task, algorithm: str, deadline: float | None) -> Answer | None:
        """Have the reference computed, which takes no time if it has been; None where that went well. What Winograd's algorithms may be off by is another
        matter: where that cannot be computed, their candidates fail. `_Late` where it is not done at the deadline."""
        if (task.key, algorithm) in self._unbounded:
            return self._unbounded[task.key, algorithm]
        answer = self._ask_reference(task, algorithm, deadline)
        if answer.failure == "memory" and self._made_room(task):
            answer = self._ask_reference(task, algorithm, deadline)
        if not answer.failure:
            return None
        if answer.failure == "timeout" and deadline is not None and time.monotonic() >= deadline:
            raise _Late
        if algorithm in WINOGRAD:
            self._unbounded[task.key, algorithm] = replace(answer, message=f"how far its result may be off: {answer.message}")
            return self._unbounded[task.key, algorithm]
        raise NoReference(f"the right result of {task.key} cannot be computed ({answer.failure}: {answer.message}); it can be measured unchecked")

    def _ask_reference(self, task: Task, algorithm: str, deadline: float | None) -> Answer:
        left = math.inf if deadline is None else max(deadline - time.monotonic(), 0.0)
        return self._measurer.ask(Refer(task.key, self._seed, algorithm), min(REFERENCE_SECONDS, left))

    def _leave_room(self, task: Task) -> None:
        """Another task than the one that has a worker of its own uses it now, and leaves something in it."""
        if self._roomy != task.key:
            self._roomy = ""

    def _made_room(self, task: Task) -> bool:
        """Whether the task, for want of memory, gets a worker that keeps nothing of other tasks: once, for what it needs itself stays the same."""
        if self._roomy == task.key:
            return False
        self._measurer.kill()
        self._roomy = task.key
        return True

    def _give_up(self, task: Task) -> float | None:
        best = self._best.get(task.key, math.inf)
        return GIVE_UP * best if math.isfinite(best) else None

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """Counts the time."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.measure_seconds += time.perf_counter() - started


def default_memory_bytes() -> int:
    """Half of what there is, so that the machine does not begin to swap, or to end processes, before a worker meets its limit."""
    limit = memory_limit_bytes()
    return (memory_bytes() if limit is None else min(limit, memory_bytes())) // 2
