"""Every way in which a candidate or a worker can go wrong, acted out."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import codegen_actors
import codegen_bad_kernels
import psutil
import pytest
from codegen_actors import Act
from codegen_bad_kernels import KERNELS, SMALLEST

from codegen import process
from codegen.machine import allowed_cpus, detect_machine
from codegen.pool import Pool
from codegen.process import TAIL_BYTES, Child, Tail, WorkerOptions, WorkerProcess
from codegen.protocol import Answer, Message
from codegen.runner import LiveRunner
from ir.errors import UserError
from ir.task import task
from schedule.measurement import Candidate, Measurement
from schedule.rules import sketches

TARGET = detect_machine(1).target
OPTIONS = WorkerOptions(memory_bytes=1 << 30, cpus=tuple(allowed_cpus()), jobs=codegen_actors.__name__)
PATIENCE = 30.0  # seconds; only a test that fails waits so long


@pytest.fixture(scope="module")
def shared() -> Iterator[WorkerProcess]:
    """One worker that all acts go through, one after the other: whatever one does, the next must find it working."""
    worker = WorkerProcess(OPTIONS)
    yield worker
    worker.close()
    worker.kill()


@pytest.fixture
def worker(shared: WorkerProcess) -> Iterator[WorkerProcess]:
    yield shared
    assert shared.ask(Act("echo", "still here"), PATIENCE).result == {"said": "still here"}


def gone(pid: int) -> bool:
    """Whether the process ends, within some patience."""
    for _ in range(int(PATIENCE / 0.02)):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def soon(action: object) -> None:
    """Do it a moment later, while this thread waits for an answer."""
    threading.Timer(0.2, action).start()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts its background jobs with SIGINT ignored, and so may it be for these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_answers(worker: WorkerProcess) -> None:
    text = "×" * 100_000
    assert worker.ask(Act("echo", text), PATIENCE).result == {"said": text}


@pytest.mark.parametrize(
    ("part", "argument", "failure", "words"),
    [
        ("segfault", "", "crash", "the worker was killed by SIGSEGV"),
        ("abort_for_memory", "", "memory", "the worker was killed by SIGABRT: terminate called after throwing an instance of 'std::bad_alloc'"),
        ("allocate", "", "memory", "MemoryError"),
        ("map_memory", "", "memory", "the worker ended by itself with status 1: OSError: [Errno 12] Cannot allocate memory"),
        ("leave", "3", "exit", "the worker ended by itself with status 3"),
        ("leave", "0", "exit", "the worker ended by itself with status 0"),
        ("raise_key_error", "lanes", "exit", "the worker ended by itself with status 1: KeyError: 'lanes'"),
        ("raise_illegal", "row 3 is bad", "illegal", "row 3 is bad"),
        ("raise_internal", "LLVM refuses it", "build", "LLVM refuses it"),
        ("flood_and_leave", "8", "exit", "the worker ended by itself with status 5: last words"),
    ],
)
def test_failures(worker: WorkerProcess, part: str, argument: str, failure: str, words: str) -> None:
    answer = worker.ask(Act(part, argument), PATIENCE)
    assert (answer.failure, answer.message) == (failure, words)


@pytest.mark.parametrize("part", ["loop", "sleep"])
def test_timeout(worker: WorkerProcess, part: str) -> None:
    answer = worker.ask(Act(part, "600"), 0.3)
    assert (answer.failure, answer.message) == ("timeout", "no answer within 0.3 s")


def test_timeout_ends_what_the_worker_started(worker: WorkerProcess) -> None:
    pid = int(worker.ask(Act("start_child"), PATIENCE).result["said"])
    assert psutil.pid_exists(pid)
    assert worker.ask(Act("loop"), 0.3).failure == "timeout"
    assert gone(pid)


def test_a_worker_that_is_stopped_is_a_timeout(worker: WorkerProcess) -> None:
    pid = int(worker.ask(Act("process_id"), PATIENCE).result["said"])
    os.kill(pid, signal.SIGSTOP)
    assert worker.ask(Act("echo", "x" * 10_000_000), 0.3).failure == "timeout"  # more than the channel takes
    assert gone(pid)


def test_a_process_that_closes_its_channel_but_goes_on_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codegen.process.END_SECONDS", 0.2)
    process = subprocess.Popen(["sleep", "600"], stderr=subprocess.PIPE, start_new_session=True)
    assert process.stderr is not None
    ours, theirs = socket.socketpair()
    theirs.close()
    assert Child(process, ours, Tail(process.stderr)).bury() == ""
    assert process.returncode == -signal.SIGKILL


def test_flood_is_read_and_not_kept(worker: WorkerProcess) -> None:
    assert worker.ask(Act("flood", "64"), PATIENCE).result == {"said": "64"}
    assert worker._child is not None
    assert len(worker._child.tail._kept) <= TAIL_BYTES


def test_killed_from_outside_during_a_job(worker: WorkerProcess) -> None:
    pid = int(worker.ask(Act("process_id"), PATIENCE).result["said"])
    soon(lambda: os.kill(pid, signal.SIGKILL))
    answer = worker.ask(Act("sleep", "600"), PATIENCE)
    assert (answer.failure, answer.message) == ("crash", "the worker was killed by SIGKILL")


def test_killed_from_outside_between_jobs_is_no_failure(worker: WorkerProcess) -> None:
    pid = int(worker.ask(Act("process_id"), PATIENCE).result["said"])
    os.kill(pid, signal.SIGKILL)
    assert worker.ask(Act("echo", "again"), PATIENCE).result == {"said": "again"}


def test_ctrl_c_is_not_for_workers(worker: WorkerProcess) -> None:
    pid = int(worker.ask(Act("process_id"), PATIENCE).result["said"])
    soon(lambda: os.kill(pid, signal.SIGINT))
    assert worker.ask(Act("sleep", "0.5"), PATIENCE).result == {"said": "0.5"}
    assert os.getsid(pid) == pid != os.getsid(0)


@pytest.mark.usefixtures("interruptible")
def test_after_an_interrupt_the_next_job_gets_its_own_answer(worker: WorkerProcess) -> None:
    soon(lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        worker.ask(Act("sleep", "600"), PATIENCE)
    assert worker.ask(Act("echo", "next"), PATIENCE).result == {"said": "next"}


def test_a_closed_channel_ends_a_busy_worker(worker: WorkerProcess) -> None:
    pid = int(worker.ask(Act("process_id"), PATIENCE).result["said"])
    assert worker._child is not None
    soon(lambda: worker._child.channel.shutdown(2))
    worker.ask(Act("loop"), PATIENCE)
    assert gone(pid)


@pytest.mark.parametrize("damaged", [Message({"answer": 1}), Message({"result": {}, "failure": "", "message": ""}, ())])
def test_an_answer_that_makes_no_sense_is_a_crash(worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch, damaged: Message) -> None:
    """A candidate that wrote anywhere may have damaged what its worker sends."""
    with monkeypatch.context() as patched:
        patched.setattr(process, "receive", lambda channel, deadline: damaged)
        answer = worker.ask(Act("echo", "lost"), PATIENCE)
    assert answer.failure == "crash"
    assert "makes no sense" in answer.message


def test_workers_import_nothing_from_where_the_user_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python runs interactively, the first entry of its path is empty, which means that folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert str(tmp_path) not in process.environment({})["PYTHONPATH"].split(os.pathsep)


def test_workers_import_from_where_the_tuner_does(worker: WorkerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not from the folder in which the user is."""
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    worker.kill()
    said = worker.ask(Act("imported", "codegen.protocol"), PATIENCE).result["said"]
    assert said == sys.modules["codegen.protocol"].__file__


def test_a_worker_is_replaced_after_so_many_jobs() -> None:
    worker = WorkerProcess(replace(OPTIONS, max_jobs=3))
    try:
        pids = [worker.ask(Act("process_id"), PATIENCE).result["said"] for _ in range(7)]
    finally:
        worker.kill()
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]


def test_a_worker_that_cannot_start() -> None:
    with pytest.raises(UserError, match=r"no worker process can be started by .*: .*ModuleNotFoundError: No module named 'no_such_jobs'"):
        WorkerProcess(WorkerOptions(1 << 30, OPTIONS.cpus, "no_such_jobs")).ask(Act("echo"), PATIENCE)


def test_a_worker_that_does_not_get_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed, and the next try is as bad."""
    monkeypatch.setattr("codegen.process.START_SECONDS", 1e-3)
    with pytest.raises(UserError, match=r"no worker process can be started by .*: the worker was killed by SIGKILL"):
        WorkerProcess(OPTIONS).ask(Act("echo"), PATIENCE)


def test_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(UserError, match=r"no worker process can be started: .*No such file or directory: '/no/such/python'"):
        WorkerProcess(OPTIONS).ask(Act("echo"), PATIENCE)


def test_a_closed_worker_takes_no_job() -> None:
    worker = WorkerProcess(OPTIONS)
    worker.close()
    with pytest.raises(UserError, match="the workers are closed"):
        worker.ask(Act("echo"), PATIENCE)
    assert worker.pid is None


def test_a_batch_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [("echo", "0"), ("segfault", ""), ("echo", "2"), ("leave", "7"), ("sleep", "600"), ("echo", "5"), ("raise_illegal", "x"), ("echo", "7")]
    pool = Pool(2, OPTIONS)
    ask = pool._ask
    try:
        monkeypatch.setattr(pool, "_ask", lambda job, timeout_seconds, deadline: ask(job, 0.3 if job.part == "sleep" else timeout_seconds, deadline))
        answers = pool.run([Act(*part) for part in parts], PATIENCE)
        assert [answer.failure or answer.result["said"] for answer in answers] == ["0", "crash", "2", "exit", "timeout", "5", "illegal", "7"]
        pids = [worker.pid for worker in pool.workers]
    finally:
        pool.close()
    assert all(gone(pid) for pid in pids if pid is not None)


def test_answers_after_one_that_is_missing_are_no_one_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thread came too late to begin, the second just in time."""
    pool = Pool(1, OPTIONS)
    try:
        monkeypatch.setattr(pool, "_ask", lambda job, timeout_seconds, deadline: None if job.argument == "1" else Answer({"said": job.argument}))
        answers = pool.run([Act("echo", argument) for argument in "012"], PATIENCE, time.monotonic() + PATIENCE)
    finally:
        pool.close()
    assert [answer.result["said"] for answer in answers] == ["0"]


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_batch_can_be_followed_by_another() -> None:
    pool = Pool(2, OPTIONS)
    try:
        pool.run([Act("echo"), Act("echo")], PATIENCE)
        soon(lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            pool.run([Act("sleep", "600") for _ in range(5)], PATIENCE)
        assert [answer.result["said"] for answer in pool.run([Act("echo", str(i)) for i in range(5)], PATIENCE)] == list("01234")
    finally:
        pool.close()


OWNER = """
import sys
from codegen_actors import Act
from codegen.pool import Pool
from codegen.process import WorkerOptions
pool = Pool(2, WorkerOptions(1 << 30, (0,), "codegen_actors"))
print(*[answer.result["said"] for answer in pool.run([Act("process_id"), Act("process_id"), Act("sleep", "0.2"), Act("process_id")], 30)], flush=True)
if sys.argv[1] == "busy":
    pool.run([Act("loop")] * 2, 600)
elif sys.argv[1] == "idle":
    sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["busy", "idle", "leaving"])
def test_workers_end_with_the_tuner(state: str) -> None:
    """Killed while its workers are at work or idle, or leaving without having closed them."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", OWNER, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as owner:
        pids = {int(word) for word in owner.stdout.readline().split() if word != "0.2"}
        assert pids
        if state != "leaving":
            owner.kill()
    assert all(gone(pid) for pid in pids)


# --- kernels --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runner() -> Iterator[LiveRunner]:
    with LiveRunner(TARGET, timeout_seconds=PATIENCE, n_builders=2, memory_bytes=1 << 30, jobs=codegen_bad_kernels.__name__) as runner:
        yield runner


PROBLEM = task("matmul:m=4,n=5,k=6")


def measured(runner: LiveRunner, name: str) -> Measurement:
    return runner(task(SMALLEST), [Candidate(name, ())])[0]


def test_the_kernels_act_as_they_should(runner: LiveRunner) -> None:
    assert measured(runner, "act_right").ok


@pytest.mark.parametrize(
    ("name", "failure", "words"),
    [
        ("act_nothing", "wrong", "1 of 1 elements are wrong, the worst at [0, 0]: nan instead of"),
        ("act_wrong", "wrong", "1 of 1 elements are wrong"),
        ("act_once", "wrong", "1 of 1 elements are wrong, the worst at [0, 0]: 0 instead of"),
        ("act_after", "wrong", "wrote outside: 4 bytes after a buffer of shape [1, 1]"),
        ("act_before", "wrong", "wrote outside: 4 bytes before a buffer of shape [1, 1]"),
        ("act_workspace", "wrong", "wrote outside: 4 bytes after a buffer of shape [16]"),
        ("act_segfault", "crash", "the worker was killed by SIGSEGV"),
        ("act_trap", "crash", "the worker was killed by SIG"),
        ("no_such", "illegal", "no sketch 'no_such' for matmul:m=1,n=1,k=1"),
    ],
)
def test_bad_kernels(runner: LiveRunner, name: str, failure: str, words: str) -> None:
    measurement = measured(runner, name)
    assert (measurement.seconds, measurement.failure) == ((), failure)
    assert measurement.message.startswith(words)
    assert "\n" not in measurement.message


def test_a_bad_kernel_does_not_harm_its_neighbours(runner: LiveRunner) -> None:
    names = ["act_right", "act_segfault", "act_right", "act_wrong", "act_right", "no_such"]
    measurements = runner(task(SMALLEST), [Candidate(name, ()) for name in names])
    assert [measurement.failure for measurement in measurements] == ["", "crash", "", "wrong", "", "illegal"]
    again = runner.remeasure(task(SMALLEST), [Candidate(name, ()) for name in ("act_once", "act_right", "act_segfault", "act_right")], 3)
    assert [measurement.failure for measurement in again] == ["wrong", "", "crash", ""]


def test_a_kernel_that_loops_does_not_harm_the_next(runner: LiveRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as hasty:
        hasty.setattr(runner, "_timeout", 0.3)
        measurement = measured(runner, "act_loop")
    assert (measurement.seconds, measurement.failure, measurement.message) == ((), "timeout", "no answer within 0.3 s")
    assert measured(runner, "act_right").ok


def test_a_wrong_result_is_not_noticed_unchecked() -> None:
    with LiveRunner(TARGET, check=False, n_builders=1, jobs=codegen_bad_kernels.__name__) as runner:
        assert measured(runner, "act_wrong").ok


def test_what_was_measured_before_an_interrupt_is_not_lost(runner: LiveRunner) -> None:
    sketch = sketches(PROBLEM.program, TARGET)[0]
    good = Candidate(sketch.name, tuple(int(number) for number in sketch.default_row()))
    kept: list[int] = []

    def interrupt(index: int, measurement: Measurement) -> None:
        kept.append(index)
        if index == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner(PROBLEM, [good] * 6, on_result=interrupt)
    assert kept == [0, 1, 2]
    assert all(measurement.ok for measurement in runner(PROBLEM, [good] * 2))


def test_memory_for_the_reference_is_a_clear_error() -> None:
    problem = task("matmul:m=4096,n=4096,k=16")
    sketch = sketches(problem.program, TARGET)[0]
    default = Candidate(sketch.name, tuple(int(number) for number in sketch.default_row()))
    words = r"the right result of matmul:m=4096.* cannot be computed \(memory: "
    with LiveRunner(TARGET, n_builders=1, memory_bytes=64 << 20) as runner, pytest.raises(UserError, match=words):
        runner(problem, [default])


def test_nothing_is_left_running() -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with LiveRunner(TARGET, n_builders=2, jobs=codegen_bad_kernels.__name__) as runner:
        assert measured(runner, "act_right").ok
        assert len({process.pid for process in psutil.Process().children(recursive=True)} - before) == 2  # one builder, as there is one candidate
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before


def test_every_kernel_is_played() -> None:
    text = Path(__file__).read_text()
    assert all(f'"{name}"' in text for name in KERNELS)
