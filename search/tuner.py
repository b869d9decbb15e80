"""The tuning loop: choose a task, ask its search for a batch, measure it, record it, learn from it, until the budget is used up.

Everything is passed in: a baseline is another model or another search.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

import numpy as np

from data.meaning import with_meaning
from data.record import UNCHECKED, Record, Round, best_of, has_others, machine_id, timeout_of
from data.store import Store
from ir.errors import InternalError, NoReference, Unsupported
from ir.task import Task
from schedule.algorithms import ALGORITHMS, algorithm_of
from schedule.measurement import Candidate, Measurement
from schedule.rules import sketches as sketches_of
from schedule.sketch import Sketch
from schedule.target import Target
from search.allocation import TaskProgress, choose_task
from search.learner import RECALL_K, Learner, throughput
from search.strategy import Scorer, Search

FINALISTS = 3  # candidates that are measured again at the end beside the default schedule
FINAL_ROUNDS = 16  # half of them to choose by
DISTURBED = 1.15  # times slower than in the trials: more than the luck of a trial explains
FINAL_SECONDS, FINAL_SHARE = 1.0, 0.3  # of a task, and of all the time at most, are kept for that
LEAST_SECONDS = 1.0  # for tuning, however long it took to begin
DECISIVE_VERSIONS = ("tilewright", "llvmlite", "timing")  # of what makes a schedule's code, and its seconds


class Runner(Protocol):
    """Measures candidates. `on_result` is called with each index and measurement as it comes; candidates not measured before the
    deadline (of `time.monotonic`) are missing at the end of the list."""

    build_seconds: float
    measure_seconds: float

    def __call__(
        self,
        task: Task,
        candidates: Sequence[Candidate],
        *,
        deadline: float | None = None,
        on_result: Callable[[int, Measurement], None] | None = None,
    ) -> list[Measurement]: ...

    def remeasure(
        self, task: Task, candidates: Sequence[Candidate], rounds: int, *, good_seconds: float = math.inf, deadline: float | None = None
    ) -> list[Measurement]:  # fmt: skip
        """Measure in turns, so that drift of the machine hits all alike; if the fastest takes longer than `good_seconds`, a few times, until the deadline."""
        ...


SearchFactory: TypeAlias = Callable[[Sequence[Sketch], Scorer, np.random.Generator], Search]


@dataclass(frozen=True)
class TuneOptions:
    """The budget, the seed, and what may be tried. Trials of earlier runs in the same records count, but for those by other algorithms."""

    max_trials: int | None = None  # over all tasks
    max_trials_per_task: int | None = None
    max_seconds: float | None = None
    batch: int = 16
    seed: int = 0
    algorithms: tuple[str, ...] = ALGORITHMS  # those of the sketches that are tried


@dataclass
class TaskState:
    """All that is known of one task while it is tuned."""

    task: Task
    sketches: tuple[Sketch, ...]
    search: Search
    default: Candidate
    measured: dict[Candidate, float] = field(default_factory=dict)  # best seconds; infinite where it failed
    failures: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)  # one example a class of failure
    stopped: frozenset[Candidate] = frozenset()  # what earlier runs gave less time than this one does, so that it may be tried again
    n_resumed: int = 0
    has_others: bool = False  # whether the records hold right schedules by algorithms that are not tried
    round: int = 0
    tuning_seconds: float = 0.0  # of all rounds that are done
    round_started: float | None = None  # by `time.monotonic`, while one is under way
    best: Candidate | None = None  # what to use, as `best_of` has it: what was kept at the end, or a faster trial since; None where no trial was valid
    kept: tuple[Candidate, ...] = ()  # what final measurements of the records kept
    final: dict[Candidate, Measurement] = field(default_factory=dict)
    final_failures: Counter[str] = field(default_factory=Counter)
    is_judged: bool = False  # whether a final measurement, by today's versions, came after all trials
    given_up: str = ""  # why no more is tried, where something stands in the way

    @property
    def n_trials(self) -> int:
        return len(self.measured)

    @property
    def next_number(self) -> int:
        """Of a trial: how many candidates have been tried until then."""
        return len(self.measured.keys() | self.stopped)

    def note_failure(self, counts: Counter[str], failure: str, message: str) -> None:
        """`counts`: `failures` or `final_failures`."""
        counts[failure] += 1
        self.messages.setdefault(failure, message)

    def seconds(self, candidate: Candidate | None) -> float | None:
        """Best seconds of a candidate, from the final measurement if it took part; None where there are none."""
        if candidate is None:
            return None
        best = self.final[candidate].best_seconds if candidate in self.final and self.final[candidate].ok else self.measured.get(candidate, math.inf)
        return best if math.isfinite(best) else None

    @property
    def best_seconds(self) -> float | None:
        return self.seconds(self.best)

    @property
    def default_seconds(self) -> float | None:
        return self.seconds(self.default)


@dataclass(frozen=True)
class Progress:
    """A snapshot for whoever watches, after a trial, or before the best of a task are measured again at the end."""

    state: TaskState
    trial: tuple[Candidate, Measurement] | None  # the one that was made, if one was
    task_number: int
    n_tasks: int
    n_trials: int
    n_resumed: int  # of these, from the records
    n_failed: int
    elapsed_seconds: float
    tuning_seconds: float  # of these, since the tuner was made
    options: TuneOptions


@dataclass(frozen=True)
class TuneResult:
    tasks: tuple[TaskState, ...]
    elapsed_seconds: float
    interrupted: bool


class Tuner:
    """One tuning run. `machine` and `versions` go into the records as they are; with `UNCHECKED` among the versions, the runner checks no results.
    `started`, by `time.monotonic`, is when the time that it may take began; now, if None."""

    def __init__(
        self,
        tasks: Sequence[Task],
        target: Target,
        runner: Runner,
        learner: Learner,
        make_search: SearchFactory,
        store: Store | None,
        options: TuneOptions,
        *,
        machine: dict[str, str | int],
        versions: dict[str, str],
        watch: Callable[[Progress], None] = lambda progress: None,
        started: float | None = None,
    ) -> None:
        self._target, self._runner, self._learner, self._store, self._options = target, runner, learner, store, options
        self._machine, self._versions, self._watch = machine, versions, watch
        self._began = time.monotonic()
        self._start = self._began if started is None else started
        self._rng = np.random.default_rng(options.seed)
        self.states = [self._state(number, task, make_search) for number, task in enumerate(tasks)]
        self._progress = [TaskProgress(task.count, task.work) for task in tasks]

    # -- the loop

    def run(self) -> TuneResult:
        """Tune until the budget is used up or Ctrl-C; what was found until then is in the result either way. What there is no time left to judge at the end,
        the next run judges."""
        interrupted = False
        try:
            self._resume()
            while (number := self._next()) is not None:
                self._round(number)
            for number in range(len(self.states)):
                if self._end is None or time.monotonic() < self._end:
                    self._finish(number)
        except KeyboardInterrupt:
            interrupted = True
        return TuneResult(tuple(self.states), time.monotonic() - self._start, interrupted)

    def _next(self) -> int | None:
        """The task to work on, None when the budget is used up."""
        for state, progress in zip(self.states, self._progress, strict=True):
            progress.open = progress.open and self._room(state) > 0
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return None
        return choose_task(self._progress, self._rng)

    def _room(self, state: TaskState) -> int:
        """How many trials the task may still be given: no more than its share, until each task has some."""
        room = self._options.batch
        n_waiting = max(sum(not s.n_trials and p.open for s, p in zip(self.states, self._progress, strict=True)), 1)
        if self._options.max_trials is not None:
            left = self._options.max_trials - sum(s.n_trials for s in self.states)
            room = min(room, left if state.n_trials else -(-left // n_waiting))
        n_made, now = sum(s.n_trials - s.n_resumed for s in self.states), time.monotonic()
        if self._deadline is not None and not state.n_trials and n_made and now > self._began:
            room = min(room, max(int((self._deadline - now) / n_waiting * n_made / (now - self._began)), 1))  # as fast as it went until now
        if self._options.max_trials_per_task is not None:
            room = min(room, self._options.max_trials_per_task - state.n_trials)
        return room

    @property
    def _end(self) -> float | None:
        """When the time is over, if ever."""
        return None if self._options.max_seconds is None else max(self._start + self._options.max_seconds, self._began + LEAST_SECONDS)

    @property
    def _deadline(self) -> float | None:
        """When to stop trying: a little before the end, so that the final measurements fit in."""
        if self._end is None:
            return None
        return self._end - min(FINAL_SECONDS * len(self.states), FINAL_SHARE * (self._end - self._began))

    def _round(self, number: int) -> None:
        state, progress = self.states[number], self._progress[number]
        started = state.round_started = time.monotonic()
        before = (self._runner.build_seconds, self._runner.measure_seconds, self._learner.seconds)
        candidates = self._ask(state, self._room(state))
        if not candidates:
            progress.open, state.round_started = False, None
            return
        search_seconds = time.monotonic() - started - (self._learner.seconds - before[2])

        def keep(index: int, measurement: Measurement) -> None:
            self._keep(state, candidates[index], measurement)
            self._watch(self._snapshot(number, (candidates[index], measurement)))

        try:
            measurements = self._runner(state.task, candidates, deadline=self._deadline, on_result=keep)
        except NoReference as error:
            state.given_up, progress.open, state.round_started = str(error), False, None
            return
        done = candidates[: len(measurements)]
        throughputs = [throughput(state.task, m.best_seconds) for m in measurements]
        quality = self._learner.quality(state.task, state.sketches, done, throughputs)
        state.search.tell(done, throughputs)
        self._learner.observe(state.task, state.sketches, done, throughputs)
        now = time.monotonic()
        state.tuning_seconds += now - started
        state.round_started = None
        progress.best_seconds.append(min(state.measured.values(), default=math.inf))
        progress.n_trials.append(state.n_trials)
        if not measurements:
            progress.open = False
        if self._store is not None and measurements:
            model_seconds = self._learner.seconds - before[2]
            round_ = Round(
                task=state.task.key, machine=self._machine, threads=self._target.threads, seed=self._options.seed, round=state.round,
                model=self._learner.name, n_measured=len(measurements), n_failed=sum(not m.ok for m in measurements),
                pairwise_accuracy=quality.pairwise_accuracy if quality else None, recall_at_k=quality.recall_at_k if quality else None, k=RECALL_K,
                top_1=quality.top_1 if quality else None, top_5=quality.top_5 if quality else None,
                search_seconds=max(search_seconds, 0.0), build_seconds=self._runner.build_seconds - before[0],
                measure_seconds=self._runner.measure_seconds - before[1], model_seconds=model_seconds, elapsed_seconds=state.tuning_seconds,
            )  # fmt: skip
            self._store.append(rounds=[round_])
        state.round += 1

    def _ask(self, state: TaskState, n: int) -> list[Candidate]:
        """The search's next batch; the default schedule is the very first trial."""
        self._learner.fit(state.task)
        first = [] if state.default in state.measured else [state.default]
        asked = state.search.ask(n - len(first), explore=self._learner.is_lost)
        return [candidate for candidate in dict.fromkeys([*first, *asked]) if candidate not in state.measured]

    def _keep(self, state: TaskState, candidate: Candidate, measurement: Measurement) -> None:
        """Take note of one trial, and write it down at once."""
        trial, fastest = 0 if candidate == state.default else max(state.next_number, 1), state.best_seconds or math.inf
        state.measured[candidate], state.is_judged = measurement.best_seconds, False
        if measurement.best_seconds < fastest:
            state.best = candidate
        if not measurement.ok:
            state.note_failure(state.failures, measurement.failure, measurement.message)
        if self._store is not None:
            self._store.append([self._record(state, candidate, measurement, trial)])

    def _finish(self, number: int) -> None:
        """Measure the fastest few again, in turns with the default schedule and what earlier runs kept. Half of the rounds say which is fastest; whether that
        one is faster than these, and how fast all are, the rest says: of the rounds that chose it, its luck would count as speed."""
        state = self.states[number]
        if state.best is None or state.is_judged or state.given_up:
            return
        self._watch(self._snapshot(number, None))
        started = time.monotonic()
        try:
            found = self._final(state)
        except NoReference as error:
            state.given_up = str(error)
            return
        for measurement in found.values():
            if not measurement.ok:
                state.note_failure(state.final_failures, measurement.failure, measurement.message)
        good = {candidate: measurement.seconds for candidate, measurement in found.items() if measurement.ok}
        final = {candidate: replace(measurement, seconds=_telling(measurement.seconds)) for candidate, measurement in found.items()}
        if good:
            state.final = final
            chosen = min(good, key=lambda candidate: min(_choosing(good[candidate])))
            known = [candidate for candidate in (state.default, *state.kept) if candidate in good]
            state.best = min((*known, chosen), key=lambda candidate: state.final[candidate].best_seconds)
        elif found and all(measurement.failure == "wrong" for measurement in found.values()):
            state.best = None
        state.is_judged = bool(good) or state.best is None
        state.tuning_seconds += time.monotonic() - started
        if self._store is not None:
            # The winner first, which tells it where none is marked: the fastest of these need not be the one to use for whoever leaves out no algorithm.
            told = sorted(final.items(), key=lambda item: item[0] != state.best)
            records = [self._record(state, c, m, state.next_number + i, kind="final") for i, (c, m) in enumerate(told)]
            self._store.append([replace(r, kept=r.ok and not state.has_others and Candidate(r.sketch, r.row) == state.best) for r in records])

    def _final(self, state: TaskState) -> dict[Candidate, Measurement]:
        """Of the finalists. One that is wrong, as what was not checked before may be, makes way for the next fastest."""
        right, found = dict(state.measured), dict[Candidate, Measurement]()
        for kept in state.kept:
            if kept in state.final:  # it may have come without its trial
                right.setdefault(kept, state.final[kept].best_seconds)
        while again := finalists(right, (*state.kept, state.default)):
            found |= self._compare(state, again, DISTURBED * min(right[candidate] for candidate in again))
            wrong = [candidate for candidate in again if found[candidate].failure == "wrong"]
            if not wrong:
                break
            right |= dict.fromkeys(wrong, math.inf)
        return found

    def _compare(self, state: TaskState, candidates: Sequence[Candidate], wanted: float) -> dict[Candidate, Measurement]:
        """The candidates measured in turns; again, while there is time, where none is as fast as is wanted: the machine was busy with something else."""
        return dict(zip(candidates, self._runner.remeasure(state.task, candidates, FINAL_ROUNDS, good_seconds=wanted, deadline=self._end), strict=True))

    # -- records

    def _record(self, state: TaskState, candidate: Candidate, measurement: Measurement, trial: int, kind: str = "trial") -> Record:
        sketch = next(sketch for sketch in state.sketches if sketch.name == candidate.sketch)
        elapsed = state.tuning_seconds + (time.monotonic() - state.round_started if state.round_started is not None else 0.0)
        return Record(
            task=state.task.key, sketch=candidate.sketch, columns=sketch.space.names, row=candidate.row,
            seconds=measurement.seconds, failure=measurement.failure, message=measurement.message, machine=self._machine,
            threads=self._target.threads, seed=self._options.seed, versions=self._versions, round=state.round, trial=trial,
            elapsed_seconds=elapsed, kind=kind,
        )  # fmt: skip

    def _resume(self) -> None:
        """Continue from the records: their trials count, and are not measured again, but for those that would have needed more time than they had."""
        if self._store is None:
            return
        for state in self.states:
            records = self._store.records(state.task.key, machine_id(self._machine), self._target.threads)
            state.has_others = has_others(records, self._options.algorithms)
            known = with_meaning(records, state.sketches)
            state.stopped = frozenset(Candidate(record.sketch, record.row) for record in known if self._had_less_time(record))
            trials = [record for record in known if record.is_trial and not self._had_less_time(record)]
            for record in trials:
                candidate = Candidate(record.sketch, record.row)
                state.measured[candidate] = min(record.best_seconds, state.measured.get(candidate, math.inf))
            failed = {Candidate(record.sketch, record.row): record for record in trials if not record.ok}
            failed = {candidate: record for candidate, record in failed.items() if math.isinf(state.measured[candidate])}  # it may have succeeded another time
            verdicts = {Candidate(record.sketch, record.row): record for record in known if record.is_verdict}  # the last of each
            failed |= {candidate: record for candidate, record in verdicts.items() if not record.ok and candidate in state.measured}
            state.measured |= dict.fromkeys(failed, math.inf)
            for record in failed.values():
                state.note_failure(state.failures, record.failure, record.message)
            state.n_resumed = state.n_trials
            state.round = max((record.round + 1 for record in records if record.is_trial), default=0)
            state.tuning_seconds = max((record.elapsed_seconds for record in known), default=0.0)
            best = best_of(known, left_out=state.has_others)
            state.is_judged = best is not None and best.kind == "final" and self._is_of_today(best)
            kept = [record for record in known if record.kept or (record is best and record.kind == "final")]
            state.kept = tuple(dict.fromkeys(Candidate(record.sketch, record.row) for record in kept))
            state.best = None if best is None else Candidate(best.sketch, best.row)
            for record in known:
                if record.kind == "final" and record.ok:
                    state.final[Candidate(record.sketch, record.row)] = Measurement(record.seconds)
            if state.measured:
                throughputs = [throughput(state.task, seconds) for seconds in state.measured.values()]
                state.search.tell(list(state.measured), throughputs)
                self._learner.observe(state.task, state.sketches, list(state.measured), throughputs)
        for state, progress in zip(self.states, self._progress, strict=True):
            if state.measured:
                progress.best_seconds.append(min(state.measured.values()))
                progress.n_trials.append(state.n_trials)

    def _had_less_time(self, record: Record) -> bool:
        """Whether it is a trial that was stopped, and would be given more time now."""
        return record.is_trial and record.failure == "timeout" and timeout_of(record.versions) < timeout_of(self._versions)

    def _is_of_today(self, best: Record) -> bool:
        """Whether its seconds are of code made, timed and, where that is asked for, checked as now."""
        is_checked = UNCHECKED not in best.versions or UNCHECKED in self._versions
        return is_checked and all(best.versions.get(name) == self._versions.get(name) for name in DECISIVE_VERSIONS)

    def _state(self, number: int, task: Task, make_search: SearchFactory) -> TaskState:
        known = tuple(sketch for sketch in sketches_of(task.program, self._target) if algorithm_of(sketch.name) in self._options.algorithms)
        if not known:
            raise InternalError(f"no sketch for {task.key}")
        rng = np.random.default_rng([self._options.seed, number])
        try:
            default = Candidate.default(known[0])
        except Unsupported as error:
            raise Unsupported(f"{task.key}: {error}") from None
        return TaskState(task, known, make_search(known, self._learner.scorer(task), rng), default)

    def _snapshot(self, number: int, trial: tuple[Candidate, Measurement] | None) -> Progress:
        n_trials = sum(state.n_trials for state in self.states)
        n_resumed = sum(state.n_resumed for state in self.states)
        n_failed = sum(sum(state.failures.values()) for state in self.states)
        now = time.monotonic()
        elapsed, tuning = now - self._start, now - self._began
        return Progress(self.states[number], trial, number, len(self.states), n_trials, n_resumed, n_failed, elapsed, tuning, self._options)


def _choosing(seconds: Sequence[float]) -> tuple[float, ...]:
    """Of the rounds of a final measurement two, and then not the next two: every other round goes in the opposite order (`codegen.timing`), so that both
    halves have both."""
    return tuple(each for number, each in enumerate(seconds) if number % 4 < 2)


def _telling(seconds: Sequence[float]) -> tuple[float, ...]:
    """The other half; all, where there is none."""
    return tuple(each for number, each in enumerate(seconds) if number % 4 >= 2) or tuple(seconds)


def finalists(measured: Mapping[Candidate, float], others: Iterable[Candidate]) -> list[Candidate]:
    """The fastest few of what was measured (seconds, infinite where it failed), and of the others those that were right: the fastest single trial may have been
    luck, so these are measured again before one is kept."""
    ranked = sorted((candidate for candidate, seconds in measured.items() if math.isfinite(seconds)), key=measured.__getitem__)
    return list(dict.fromkeys([*ranked[:FINALISTS], *(each for each in others if each in ranked)]))
