"""A measurement campaign: so many candidates of each of many tasks, half drawn uniformly, half found by a learned search; some of them measured twice.

Tasks take turns, in an order drawn by the seed, the one with the fewest trials first: a campaign that is stopped early has some of each, or, where a turn is
all that a task gets, whole tasks and none of the others. A turn needs nothing but the records of its task: it draws, measures, learns from what this task has
so far, searches, and forgets. So a campaign goes on wherever it was stopped, and as many tasks as one likes take the memory of one.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from costmodel.task_features import TaskFeatures
from data.meaning import with_meaning
from data.record import FIRST_KINDS, Record, machine_id
from data.store import Store
from ir.errors import NoReference
from ir.task import Task
from schedule.measurement import Candidate, Measurement
from schedule.rules import sketches as sketches_of
from schedule.sketch import Sketch
from schedule.target import Target
from search.evolution import EvolutionarySearch
from search.learner import Learner, throughput
from search.strategy import Seen
from search.tuner import Runner

TURN = 96  # trials: sketches and reference of a task are made anew in each, which takes as long as some ten trials
TURN_SHARE = 0.5  # or so many of those that the task has, if these are more: its records are read anew, too
BATCH = 24  # trials of a search after which its model learns
BATCH_SHARE = 0.1  # or so many of what it knows, if these are more: a fit takes the longer the more it knows
SAMPLE_CHUNK = 64  # candidates drawn at once; part of what a seed means
REPEAT_SHARE = 0.02  # of all trials are measured twice
REPEAT_GROUP = 4  # of one task: only candidates of one task are compared, so a single one says little
REPEAT_SECONDS = 0.05  # of the time is kept for that


@dataclass(frozen=True)
class CampaignOptions:
    """`max_trials` of each task, those already recorded included. `max_seconds` None: no limit."""

    max_trials: int
    max_seconds: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class CampaignProgress:
    """A snapshot for whoever watches; trials already recorded before are counted too."""

    task: Task
    n_trials: int
    n_failed: int
    n_wanted: int
    n_repeats: int
    elapsed_seconds: float


class Campaign:
    """`machine` and `versions` go into the records as they are."""

    def __init__(
        self,
        tasks: Sequence[Task],
        target: Target,
        runner: Runner,
        store: Store,
        options: CampaignOptions,
        *,
        machine: dict[str, str | int],
        versions: dict[str, str],
        watch: Callable[[CampaignProgress], None] = lambda progress: None,
    ) -> None:
        self._target, self._runner, self._store, self._options = target, runner, store, options
        self._machine, self._versions, self._watch = machine, versions, watch
        self._start = time.monotonic()
        order = np.random.default_rng(options.seed).permutation(len(tasks))
        self._tasks = [tasks[i] for i in order]
        self._open = dict.fromkeys((of.key for of in tasks), True)
        self._n_trials, self._n_failed, self._n_repeats = Counter[str](), 0, Counter[str]()
        self.given_up: dict[str, str] = {}  # by task, why

    def run(self) -> bool:
        """Measure until every task has its trials, or the time is over, then measure some again; True if Ctrl-C ended it."""
        try:
            for of in self._tasks:
                if not self._late(1.0):
                    self._count(of)
            while (next_task := self._next()) is not None:
                self._turn(next_task)
            self._repeat()
        except KeyboardInterrupt:
            return True
        return False

    # -- turns

    def _next(self) -> Task | None:
        """The task with the fewest trials that may have more; None when all are done or the time is over."""
        if self._late(1 - REPEAT_SECONDS):
            return None
        opened = [of for of in self._tasks if self._open[of.key] and self._n_trials[of.key] < self._options.max_trials]
        return min(opened, key=lambda of: self._n_trials[of.key], default=None)

    def _turn(self, of: Task) -> None:
        """Samples until half of the trials are such, then what the search asks for.

        The search leaves alone what is still to be drawn: otherwise the good ones among the samples would be its own, and the others no fair sample.
        """
        turn = self._begin(of)
        n_before = turn.n_trials
        n_after = min(n_before + max(TURN, int(TURN_SHARE * n_before)), self._options.max_trials)
        planned = draw(turn.sketches, _half(self._options.max_trials), self._options.seed, of.key)
        fresh = [candidate for candidate in planned if candidate not in turn.measured]
        self._measure(turn, fresh[: max(min(_half(n_after) - turn.n_samples, n_after - n_before), 0)], "sample")
        while found := self._search(turn, planned, min(n_after - turn.n_trials, max(BATCH, int(BATCH_SHARE * turn.n_trials)))):
            self._measure(turn, found, "trial")
        if turn.n_trials == n_before:  # the space is used up, or the time
            self._open[of.key] = False

    def _search(self, turn: _Turn, planned: Sequence[Candidate], n: int) -> list[Candidate]:
        """n candidates that a search with a model of this task alone would measure next, none of them `planned`."""
        if n <= 0 or turn.of.key in self.given_up or self._late(1 - REPEAT_SECONDS):
            return []
        learner = Learner.from_scratch(self._target, self._options.seed, make_describe=lambda *_: turn.features)
        rng = np.random.default_rng([self._options.seed, turn.n_trials, *_digits(turn.of.key)])
        search = EvolutionarySearch(turn.sketches, learner.scorer(turn.of), rng, asked=planned)
        candidates, throughputs = list(turn.measured), [throughput(turn.of, seconds) for seconds in turn.measured.values()]
        search.tell(candidates, throughputs)
        learner.observe(turn.of, turn.sketches, candidates, throughputs)
        learner.fit(turn.of)
        return search.ask(n)

    def _measure(self, turn: _Turn, candidates: Sequence[Candidate], kind: str, share: float = 1 - REPEAT_SECONDS) -> None:
        """Measure, and write each down at once. A task whose right result cannot be computed is given up for this run."""

        def keep(index: int, measurement: Measurement) -> None:
            self._store.append([self._record(turn, candidates[index], measurement, kind)])
            if kind in FIRST_KINDS:
                turn.measured[candidates[index]] = measurement.best_seconds
                turn.n_samples += kind == "sample"
                self._n_trials[turn.of.key] += 1
                self._n_failed += not measurement.ok
            else:
                turn.repeated.add(candidates[index])
                self._n_repeats[turn.of.key] += 1
            self._watch(self._progress(turn.of))

        if not candidates or turn.of.key in self.given_up:
            return
        try:
            self._runner(turn.of, candidates, deadline=self._deadline(share), on_result=keep)
        except NoReference as error:
            self.given_up[turn.of.key] = str(error)

    # -- repeats

    def _repeat(self) -> None:
        """Some candidates of some tasks again, until there are enough: in groups, the task with the fewest first."""
        left = {of.key: of for of in self._tasks}
        while left and self._n_repeats.total() < REPEAT_SHARE * self._n_trials.total() and not self._late(1.0):
            of = min(left.values(), key=lambda of: self._n_repeats[of.key] // REPEAT_GROUP)
            n_before = self._n_repeats[of.key]
            if self._n_trials[of.key] > n_before:
                self._repeat_some(of, (n_before // REPEAT_GROUP + 1) * REPEAT_GROUP)
            if self._n_repeats[of.key] == n_before:  # it has no more to repeat
                del left[of.key]

    def _repeat_some(self, of: Task, size: int) -> None:
        """Until `size` of the task's candidates have been measured twice."""
        turn = self._begin(of)
        valid = [candidate for candidate, seconds in turn.measured.items() if math.isfinite(seconds) and candidate not in turn.repeated]
        n = min(size - len(turn.repeated), len(valid))
        if n > 0 and n + len(turn.repeated) > 1:
            rng = np.random.default_rng([self._options.seed, len(turn.repeated), *_digits(of.key)])
            self._measure(turn, [valid[i] for i in rng.choice(len(valid), n, replace=False)], "repeat", share=1.0)

    # -- records

    def _begin(self, of: Task) -> _Turn:
        """A turn that knows the task's sketches, and those of its records on this machine whose rows still mean something."""
        return self._turn_of(of, self._recorded(of))

    def _turn_of(self, of: Task, found: Sequence[Record]) -> _Turn:
        known = sketches_of(of.program, self._target)
        return _Turn(of, known, with_meaning(found, known), self._target)

    def _recorded(self, of: Task) -> list[Record]:
        return self._store.records(of.key, machine_id(self._machine), self._target.threads)

    def _count(self, of: Task) -> None:
        found = self._recorded(of)
        if not found:
            return  # as at the start of a campaign of many tasks, whose sketches take seconds
        turn = self._turn_of(of, found)
        self._n_trials[of.key] = turn.n_trials
        self._n_failed += sum(not math.isfinite(seconds) for seconds in turn.measured.values())
        self._n_repeats[of.key] = len(turn.repeated)

    def _record(self, turn: _Turn, candidate: Candidate, measurement: Measurement, kind: str) -> Record:
        sketch = next(sketch for sketch in turn.sketches if sketch.name == candidate.sketch)
        return Record(
            task=turn.of.key, sketch=candidate.sketch, columns=sketch.space.names, row=candidate.row,
            seconds=measurement.seconds, failure=measurement.failure, message=measurement.message, machine=self._machine,
            threads=self._target.threads, seed=self._options.seed, versions=self._versions, round=turn.number,
            trial=turn.n_trials + 1,  # number 0 is the default schedule of a tuning
            elapsed_seconds=turn.elapsed_seconds, kind=kind,
        )  # fmt: skip

    def _progress(self, of: Task) -> CampaignProgress:
        n_wanted = self._options.max_trials * len(self._tasks)
        return CampaignProgress(of, self._n_trials.total(), self._n_failed, n_wanted, self._n_repeats.total(), time.monotonic() - self._start)

    def _late(self, share: float) -> bool:
        deadline = self._deadline(share)
        return deadline is not None and time.monotonic() >= deadline

    def _deadline(self, share: float) -> float | None:
        """When so much of the time is over."""
        return None if self._options.max_seconds is None else self._start + share * self._options.max_seconds


class _Turn:
    """What is known of a task while it has its turn: best seconds of what was measured (infinite where it failed), and what was measured twice."""

    def __init__(self, of: Task, sketches: Sequence[Sketch], records: Sequence[Record], target: Target) -> None:
        self.of, self.sketches, self._target, self._started = of, sketches, target, time.monotonic()
        self._elapsed_before = max((record.elapsed_seconds for record in records), default=0.0)
        self.number = max((record.round + 1 for record in records), default=0)
        self.measured = {Candidate(r.sketch, r.row): r.best_seconds for r in records if r.is_trial}
        self.n_samples = len({Candidate(r.sketch, r.row) for r in records if r.kind == "sample"})
        self.repeated = {Candidate(r.sketch, r.row) for r in records if r.kind == "repeat"}

    @cached_property
    def features(self) -> TaskFeatures:
        """Made once a turn: that takes as long as some trials, and each batch learns anew."""
        return TaskFeatures(self.sketches, self._target)

    @property
    def n_trials(self) -> int:
        return len(self.measured)

    @property
    def elapsed_seconds(self) -> float:
        """Over all turns of the task."""
        return self._elapsed_before + time.monotonic() - self._started


def draw(sketches: Sequence[Sketch], n: int, seed: int, key: str) -> list[Candidate]:
    """The first n different candidates that `seed` draws uniformly for this task, whatever has been measured; fewer where the spaces have no more."""
    seen, rng, drawn = Seen(sketches), np.random.default_rng([seed, *_digits(key)]), list[Candidate]()
    while len(drawn) < n and (chunk := seen.take_random(SAMPLE_CHUNK, rng)):
        drawn += chunk
    return drawn[:n]


def _half(n: int) -> int:
    """Rounded up."""
    return -(-n // 2)


def _digits(text: str) -> list[int]:
    """For seeding, the same in every process."""
    return list(hashlib.sha256(text.encode()).digest()[:8])
