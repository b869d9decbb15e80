import itertools
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from codegen.jobs import Compare, Measure, Refer
from codegen.kernel import Code, build, find_sketch
from codegen.machine import detect_machine
from codegen.openmp import register_openmp
from codegen.process import environment
from codegen.protocol import Answer, Job
from codegen.quiet import Patience, Probe
from codegen.runner import BUILDS_AHEAD, LiveRunner, default_memory_bytes
from codegen.timing import Timing
from ir.errors import NoReference, UserError
from ir.task import Task, task
from schedule.algorithms import algorithm_of
from schedule.measurement import Candidate, Measurement
from schedule.rules import sketches
from schedule.target import Target
from search.tuner import Runner

TARGET = detect_machine(None if register_openmp() else 1).target
QUICK = Timing(repeat_seconds=1e-5, min_repeats=2, max_repeats=4, total_seconds=1e-4)
PROBLEM = task("matmul:m=3,n=20,k=9,epilogue=bias+relu")
OTHER = task("conv2d:c=2,h=3,w=4,k=4,r=2,s=2,pad=1")


@pytest.fixture(scope="module")
def runner() -> Iterator[LiveRunner]:
    with LiveRunner(TARGET, n_builders=2, timing=QUICK) as runner:
        yield runner


def candidates(problem: Task, n: int, seed: int = 0) -> list[Candidate]:
    sketch = sketches(problem.program, TARGET)[0]
    return [Candidate(sketch.name, tuple(map(int, row))) for row in sketch.space.sample(n, np.random.default_rng(seed))]


def test_is_a_runner(runner: LiveRunner) -> None:
    live: Runner = runner
    assert live(PROBLEM, []) == []


@pytest.mark.parametrize("problem", [PROBLEM, OTHER], ids=["matmul", "conv2d"])
def test_every_candidate_gets_its_measurement(runner: LiveRunner, problem: Task) -> None:
    """More candidates than are built ahead, some of them bad; the default limits of time and memory disturb none of the good ones."""
    batch = candidates(problem, 2 * BUILDS_AHEAD + 3)
    batch[4] = Candidate(batch[4].sketch, batch[4].row[:-1])
    batch[9] = Candidate("no_such_sketch", batch[9].row)
    before = runner.build_seconds, runner.measure_seconds
    told: list[tuple[int, Measurement]] = []
    results = runner(problem, batch, on_result=lambda index, measurement: told.append((index, measurement)))
    assert told == list(enumerate(results))
    assert [result.failure for result in results] == ["illegal" if i in (4, 9) else "" for i in range(len(batch))]
    for result in results:
        assert all(0 < seconds < math.inf for seconds in result.seconds)
        assert len(result.seconds) <= QUICK.max_repeats
        assert bool(result.seconds) == result.ok
    assert runner.build_seconds > before[0]
    assert runner.measure_seconds > before[1]


@pytest.mark.parametrize("full", ["Refer", "Measure", "Compare"])
def test_what_other_tasks_left_takes_no_memory_from_a_task(runner: LiveRunner, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    """A worker that has no room left is replaced once a task, and its successor is asked."""
    monkeypatch.setattr(runner, "_roomy", "")
    measurer, events = runner._measurer, list[str]()
    ask, kill = measurer.ask, measurer.kill

    def full_at_first(job: Job, timeout_seconds: float) -> Answer:
        events.append(type(job).__name__)
        return Answer.failed("memory", "full") if events.count(full) == 1 and events[-1] == full else ask(job, timeout_seconds)

    def noted_kill() -> None:
        events.append("kill")
        kill()

    monkeypatch.setattr(measurer, "ask", full_at_first)
    monkeypatch.setattr(measurer, "kill", noted_kill)
    assert all(found.ok for found in runner.remeasure(PROBLEM, candidates(PROBLEM, 2), 3))
    before = {"Refer": [], "Measure": ["Refer"], "Compare": ["Refer", "Measure", "Refer", "Measure"]}[full]
    again = ["Refer"] if full == "Measure" else []
    assert [event for event in events if event != "kill"][: len(before) + 2 + len(again)] == [*before, full, *again, full]
    assert events[len(before) + 1] == "kill"


def test_those_that_cannot_be_measured_together_stand_as_measured_alone(runner: LiveRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    measurer = runner._measurer
    ask = measurer.ask
    monkeypatch.setattr(measurer, "ask", lambda job, seconds: Answer.failed("crash", "acted out") if isinstance(job, Compare) else ask(job, seconds))
    assert all(found.ok for found in runner.remeasure(PROBLEM, candidates(PROBLEM, 2), 3))


def test_a_reference_that_cannot_be_computed_is_an_error_of_its_own(runner: LiveRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fatal for its task alone: the next one is measured."""
    slow = task("matmul:m=256,n=256,k=4096")
    with monkeypatch.context() as patched:
        patched.setattr("codegen.runner.REFERENCE_SECONDS", 1e-3)
        with pytest.raises(NoReference, match=r"the right result of matmul:m=256.* cannot be computed \(timeout"):
            runner(slow, candidates(slow, 1))
    assert runner(OTHER, candidates(OTHER, 1))[0].ok


def test_what_an_algorithm_may_be_off_by_that_cannot_be_computed_is_a_failure_of_its_own(runner: LiveRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of the task are measured."""
    of = task("conv2d:c=16,h=9,w=9,k=16,r=3,s=3,pad=1")
    default = {algorithm_of(sketch.name): Candidate.default(sketch) for sketch in sketches(of.program, TARGET)}
    measurer = runner._measurer
    ask = measurer.ask

    asked = list[str]()

    def without_bound(job: Job, seconds: float) -> Answer:
        if not isinstance(job, Refer) or job.algorithm != "winograd2":
            return ask(job, seconds)
        asked.append(job.algorithm)
        return Answer.failed("timeout", "acted out")

    monkeypatch.setattr(measurer, "ask", without_bound)
    winograd, direct, again = runner(of, [default["winograd2"], default["direct"], default["winograd2"]])
    assert direct.ok
    assert winograd == again == Measurement((), "timeout", "how far its result may be off: acted out")
    assert asked == ["winograd2"]  # once, for each may take minutes


def test_a_reference_that_is_not_there_at_the_deadline_costs_no_more_time(runner: LiveRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its candidates count as not begun, and the task is not given up."""
    ask, seconds_asked = runner._measurer.ask, list[float]()

    def slow(job: Job, seconds: float) -> Answer:
        if not isinstance(job, Refer):
            return ask(job, seconds)
        seconds_asked.append(seconds)
        time.sleep(seconds)
        return Answer.failed("timeout", "acted out")

    monkeypatch.setattr(runner._measurer, "ask", slow)
    assert runner(PROBLEM, candidates(PROBLEM, 2), deadline=time.monotonic() + 0.5) == []
    assert len(seconds_asked) <= 1
    assert all(0 <= seconds <= 0.5 for seconds in seconds_asked)


def test_what_was_measured_before_the_reference_is_lost_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With several passes too, of which the first one hands on nothing until then."""
    with LiveRunner(TARGET, n_builders=1, passes=2) as runner:
        ask, found, n_asked = runner._measurer.ask, list[bool](), itertools.count()

        def lost(job: Job, seconds: float) -> Answer:
            return Answer.failed("timeout", "acted out") if isinstance(job, Refer) and next(n_asked) == 2 else ask(job, seconds)

        monkeypatch.setattr(runner._measurer, "ask", lost)
        with pytest.raises(NoReference):
            runner(PROBLEM, candidates(PROBLEM, 4), on_result=lambda index, measurement: found.append(measurement.ok))
    assert found == [True, True]


def test_seconds_are_of_one_call(runner: LiveRunner) -> None:
    """Between what no machine can reach (10^14 operations a second) and a second."""
    problem = task("matmul:m=64,n=64,k=512")
    assert problem.flops / 1e14 < runner(problem, candidates(problem, 1))[0].best_seconds < 1


def test_nothing_is_measured_after_the_deadline(runner: LiveRunner) -> None:
    batch = candidates(PROBLEM, 5)
    assert runner(PROBLEM, batch, deadline=time.monotonic() - 1) == []
    deadline = time.monotonic() + 2

    def wait(index: int, measurement: Measurement) -> None:
        if index == 1:
            time.sleep(max(0.0, deadline - time.monotonic()))

    results = runner(PROBLEM, batch, deadline=deadline, on_result=wait)
    assert len(results) <= 2
    assert len(runner(PROBLEM, batch, deadline=time.monotonic() + 600)) == 5


def test_what_was_measured_in_passes_before_the_deadline_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes in the second pass, after the first candidate; then in the first pass, after the second."""
    batch = candidates(PROBLEM, 3)
    for n_looks, passes_of_each in ((7, [2, 1, 1]), (4, [1, 1])):  # a reference looks at the clock, too
        looks = iter([0.0] * n_looks)
        clock = SimpleNamespace(monotonic=lambda looks=looks: time.monotonic() + next(looks, 1000.0), perf_counter=time.perf_counter)
        told: list[int] = []
        with LiveRunner(TARGET, n_builders=1, timing=Timing(max_repeats=1), passes=2) as runner, monkeypatch.context() as patched:
            patched.setattr("codegen.runner.time", clock)
            results = runner(PROBLEM, batch, deadline=time.monotonic() + 500, on_result=lambda index, measurement, told=told: told.append(index))
        assert [len(result.seconds) for result in results] == passes_of_each
        assert told == list(range(len(passes_of_each)))


def test_turns(runner: LiveRunner) -> None:
    good, other = candidates(PROBLEM, 2, seed=3)
    results = runner.remeasure(PROBLEM, [good, Candidate("no_such", ()), other, good], 5)
    assert [result.failure for result in results] == ["", "illegal", "", ""]
    assert [len(result.seconds) for result in results] == [5, 0, 5, 5]
    assert runner.remeasure(PROBLEM, [], 5) == []
    assert runner.remeasure(PROBLEM, [Candidate("no_such", ())], 5)[0].failure == "illegal"


@pytest.mark.parametrize(
    ("fastest", "good", "late", "n_asked", "expected"),
    [((9.0, 5.0, 2.0), 1.0, False, 3, 2.0), ((9.0, 5.0, 7.0), 1.0, False, 3, 5.0), ((9.0, 5.0, 2.0), 6.0, False, 2, 5.0), ((9.0, 5.0), 1.0, True, 1, 9.0)],
)
def test_turns_are_taken_again_on_a_busy_machine(
    runner: LiveRunner, monkeypatch: pytest.MonkeyPatch, fastest: tuple[float, ...], good: float, late: bool, n_asked: int, expected: float
) -> None:
    """Until the fastest is as fast as it should be, the time is over, or there have been enough attempts."""
    asked: list[object] = []

    def ask(job: object, seconds: float) -> Answer:
        asked.append(job)
        return Answer({"seconds": [[fastest[len(asked) - 1]], [10.0]]})

    job = Compare((), QUICK, 3, 1.0, 0)
    monkeypatch.setattr(runner._measurer, "ask", ask)
    answer = runner._compare(PROBLEM, job, good, 0.0 if late else None)
    assert len(asked) == n_asked
    assert answer.result["seconds"][0] == [expected]


def test_a_slow_candidate_is_timed_once_and_is_no_failure(runner: LiveRunner) -> None:
    problem = task("matmul:m=40,n=48,k=64")
    runner._best[problem.key] = 1e-12
    (result,) = runner(problem, candidates(problem, 1))
    assert result.ok
    assert len(result.seconds) == 1


def test_a_candidate_is_checked_in_its_first_pass_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[bool] = []

    def measure(code: Code, timing: Timing, check: bool, seed: int) -> Measure:
        checks.append(check)
        return Measure(code, timing, check, seed)

    monkeypatch.setattr("codegen.runner.Measure", measure)
    with LiveRunner(TARGET, n_builders=1, timing=QUICK, passes=2) as runner:
        assert all(result.ok for result in runner(PROBLEM, candidates(PROBLEM, 2)))
    assert checks == [True, True, False, False]


def test_passes_measure_all_of_a_group_before_any_again() -> None:
    """The builders' group; what fails in the first pass is left alone, and a candidate that failed is told once."""
    batch = candidates(PROBLEM, 5)
    batch[2] = Candidate("no_such_sketch", batch[2].row)
    told: list[int] = []
    with LiveRunner(TARGET, n_builders=1, timing=replace(QUICK, patience=0.5), passes=3) as runner:
        results = runner(PROBLEM, batch, on_result=lambda index, measurement, told=told: told.append(index))
        assert runner(PROBLEM, batch, deadline=time.monotonic() - 1) == []
    assert told == [0, 1, 2, 3, 4]
    assert [result.failure for result in results] == ["", "", "illegal", "", ""]
    assert all(3 <= len(result.seconds) <= 3 * 2 * QUICK.max_repeats for result in results if result.ok)  # twice in a pass where quiet was over
    assert 0 <= runner.waited_seconds <= runner.measure_seconds
    assert runner.n_measured == 4 * 3
    assert 0 <= runner.n_disturbed <= runner.n_measured


@pytest.mark.parametrize(("seconds", "disturbed"), [([1.0], 0), ([1.0, 9.0], 1)])
def test_a_measurement_tells_whether_it_was_disturbed(monkeypatch: pytest.MonkeyPatch, seconds: list[float], disturbed: int) -> None:
    """Where the machine is quiet at first, and never again."""
    found = itertools.chain(seconds[:-1], itertools.repeat(seconds[-1]))
    patience = Patience([Probe(lambda: next(found), 1.3)])
    monkeypatch.setattr("codegen.jobs.patience", lambda target: patience)
    (candidate,) = candidates(PROBLEM, 1)
    code = build(PROBLEM, find_sketch(PROBLEM, candidate.sketch, TARGET), np.array(candidate.row), TARGET)
    result = Measure(code, replace(QUICK, patience=0.5), check=True, seed=0).run().result
    assert result["disturbed"] == disturbed
    assert 0 <= result["waited"] == patience.waited_seconds
    assert result["seconds"]


def test_unchecked() -> None:
    with LiveRunner(TARGET, n_builders=1, timing=QUICK, check=False) as runner:
        assert all(result.ok for result in runner(PROBLEM, candidates(PROBLEM, 2)))


def test_workers_wait_alone_while_one_measures(runner: LiveRunner) -> None:
    """Builders and the measurer are processes of sessions of their own, and stay for the next batch."""
    runner(PROBLEM, candidates(PROBLEM, 4))
    workers = [worker.pid for worker in (*runner._builders.workers, runner._measurer)]
    assert all(pid is not None and os.getsid(pid) == pid for pid in workers)
    runner(PROBLEM, candidates(PROBLEM, 4, seed=1))
    assert [worker.pid for worker in (*runner._builders.workers, runner._measurer)] == workers


def test_a_closed_runner_says_so() -> None:
    with LiveRunner(TARGET, n_builders=1) as runner:
        pass
    with pytest.raises(RuntimeError):
        runner(PROBLEM, candidates(PROBLEM, 1))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (replace(TARGET, threads=10_000), "10000 threads asked for, but 1 to"),
        (replace(TARGET, features="+sse2,+no-such-feature"), "no-such-feature"),
    ],
)
def test_code_that_cannot_run_here(target: Target, words: str) -> None:
    with pytest.raises(UserError, match=words):
        LiveRunner(target)


def test_threads_without_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codegen.runner.register_openmp", lambda: None)
    LiveRunner(replace(TARGET, threads=1)).close()
    if TARGET.threads > 1:
        with pytest.raises(UserError, match=r"^\d+ threads asked for, but no libgomp is found to run them; one thread can be used$"):
            LiveRunner(TARGET)


def test_memory_by_default() -> None:
    assert 0 < default_memory_bytes() < psutil.virtual_memory().total


def test_environment_of_workers() -> None:
    own = {"HOME": "/home/a", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "OMP_PROC_BIND": "true", "KMP_BLOCKTIME": "0"}
    made = environment(own | {"OPENBLAS_NUM_THREADS": "64", "PYTHONPATH": "relative"})
    assert {name: made[name] for name in ("HOME", "OMP_PROC_BIND", "OPENBLAS_NUM_THREADS")} == {
        "HOME": "/home/a",
        "OMP_PROC_BIND": "true",
        "OPENBLAS_NUM_THREADS": "1",
    }
    assert not made.keys() & {"OMP_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"}
    assert made["GOMP_SPINCOUNT"] == "10000"
    assert all(os.path.isabs(folder) for folder in made["PYTHONPATH"].split(os.pathsep))
