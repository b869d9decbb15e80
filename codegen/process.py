"""The tuner's side of a worker: starts it, asks it one job at a time, and makes every way in which it can go down the answer to its job."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from codegen.openmp import PINNING
from codegen.protocol import JOB_MARK, Answer, Job, receive, send
from ir.errors import UserError

START_SECONDS = 60.0  # a loaded machine may take long to import numpy; this only bounds what would hang for ever
END_SECONDS = 5.0
N_STARTS = 3
TAIL_BYTES = 4096  # of what a worker writes to its standard error

# What dying programs say for lack of memory: LLVM, C++, libgomp, Python.
OUT_OF_MEMORY = ("out of memory", "bad_alloc", "cannot allocate", "unable to allocate", "memoryerror", "thread creation failed")

# libgomp and OpenBLAS read these once, as they are loaded. Settings of the user's shell would change how threads wait, or cut their number; how
# they are bound to CPUs is left to the user. numpy only computes references: its threads would be in the way of what comes after.
# Helper threads spin from one parallel region to the next, but for some 0.3 ms instead of libgomp's 10 ms: as fast on a quiet machine (matmul 512³
# 466 against 462 GFLOP/s), while beside one busy process it is 160 to 210, always, where with libgomp's default it is anything between 30 and 450.
DROPPED = ("OMP_", "GOMP_", "KMP_")
SPIN = {"GOMP_SPINCOUNT": "10000"}
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS")


@dataclass(frozen=True)
class WorkerOptions:
    """`memory_bytes`: how much address space jobs may use, beyond what the worker itself needs. `jobs`: the module whose tables JOBS
    and FAILURES say what it can do. `cpus`: where to run. `max_jobs`: after so many it is replaced by a new process; None is never."""

    memory_bytes: int
    cpus: tuple[int, ...]
    jobs: str = "codegen.jobs"
    max_jobs: int | None = None


class Tail(threading.Thread):
    """Reads a stream to its end, all the time, so that who writes to it never waits; keeps only the end of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self._kept = b""
        self.start()

    def run(self) -> None:
        with self._stream:
            while part := os.read(self._stream.fileno(), 1 << 16):
                self._kept = (self._kept + part)[-TAIL_BYTES:]

    def text(self) -> str:
        """What the stream ended with, once everybody has closed it."""
        self.join(END_SECONDS)
        return self._kept.decode(errors="replace")


@dataclass(frozen=True)
class Child:
    """A started worker: its process, in a session of its own, the channel to it, and its standard error."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    tail: Tail

    def kill(self) -> None:
        """Without waiting; any thread may call this."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended meanwhile; macOS then says the latter
                os.killpg(self.process.pid, signal.SIGKILL)

    def bury(self) -> str:
        """Wait for the end of a process that is ending; what it left on its standard error."""
        self.channel.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its side of the channel, but goes on
            self.kill()
            self.process.wait()
        return self.tail.text()


class WorkerProcess:
    """A worker that is started when it is first needed, and again when it is needed after it died. One thread at a time may `ask`."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._child: Child | None = None
        self._n_jobs = 0  # that the process was given
        self._closed = False

    @property
    def pid(self) -> int | None:
        """None while there is no process."""
        return None if self._child is None else self._child.process.pid

    def ask(self, job: Job, timeout_seconds: float) -> Answer:
        """The answer to the job. If the worker dies, or does not answer in time and is killed, that is a failure of the job.

        `UserError` if no worker can be started.
        """
        message = job.to_message()
        try:
            for _ in range(N_STARTS):
                child = self._ready()
                self._n_jobs += 1
                deadline = time.monotonic() + timeout_seconds
                try:
                    send(child.channel, message, deadline)
                    received = receive(child.channel, deadline)
                    answer = None if received is None else Answer.from_message(received)
                except ConnectionError:  # it died before it had taken the job, so the job is not to blame
                    self.kill()
                    continue
                except (ValueError, KeyError, TypeError, IndexError) as error:  # a candidate that wrote anywhere may have damaged what its worker sends
                    self.kill()
                    return Answer.failed("crash", f"the worker's answer makes no sense ({type(error).__name__}: {error})")
                return self._end() if answer is None else answer
        except TimeoutError:
            self.kill()
            return Answer.failed("timeout", f"no answer within {timeout_seconds:g} s")
        except BaseException:  # such as an interrupt; this answer must not be taken for the next job's
            self.kill()
            raise
        raise UserError("worker processes die as soon as they are started; is something on this machine killing them?")

    def kill(self) -> None:
        """End the process; the next job starts another. Not while another thread asks."""
        if self._child is not None:
            self._child.kill()
            self._end()

    def stop(self) -> None:
        """Let whoever asks get a failure soon. Any thread may call this."""
        child = self._child
        if child is not None:
            child.kill()

    def close(self) -> None:
        """`stop`, and refuse further jobs. `kill` then leaves nothing of the process."""
        self._closed = True
        self.stop()

    def _ready(self) -> Child:
        """The process for the next job."""
        worn_out = self._options.max_jobs is not None and self._n_jobs >= self._options.max_jobs
        if self._child is None or worn_out or self._child.process.poll() is not None:
            return self._start()
        return self._child

    def _start(self) -> Child:
        self.kill()
        self._n_jobs = 0
        for _ in range(N_STARTS):
            self._child = child = launch(self._options)
            if self._closed:
                self.kill()
                raise UserError("the workers are closed")
            try:
                if receive(child.channel, time.monotonic() + START_SECONDS) is not None:
                    return child
            except TimeoutError:
                child.kill()
            answer = self._end()
        raise UserError(f"no worker process can be started by {sys.executable}: {answer.message}")

    def _end(self) -> Answer:
        """Wait for the process, which is dead or dying, and leave nothing of it. How it ended, as the answer to its job."""
        assert self._child is not None
        child, self._child = self._child, None
        words = child.bury()
        return death(child.process.returncode, words)


def launch(options: WorkerOptions) -> Child:
    """A worker that is starting; its first message says that it is ready."""
    ours, theirs = socket.socketpair()
    values = {
        "channel": theirs.fileno(),
        "parent": os.getpid(),
        "jobs": options.jobs,
        "memory-bytes": options.memory_bytes,
        "cpus": ",".join(map(str, options.cpus)),
    }
    # -P: nothing is imported from the folder that the user happens to be in.
    command = [sys.executable, "-P", "-m", "codegen.worker", *(f"--{name}={value}" for name, value in values.items())]
    null = subprocess.DEVNULL
    with theirs:
        try:
            process = subprocess.Popen(
                command, env=environment(os.environ), pass_fds=[theirs.fileno()], start_new_session=True, stdin=null, stdout=null, stderr=subprocess.PIPE
            )
        except OSError as error:
            ours.close()
            raise UserError(f"no worker process can be started: {error}") from None
    assert process.stderr is not None
    return Child(process, ours, Tail(process.stderr))


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker, given the tuner's: it imports from where the tuner does, and its threads behave as timing wants them."""
    kept = {name: value for name, value in own.items() if name in PINNING or not name.startswith(DROPPED)}
    folders = [*(os.path.abspath(folder) for folder in sys.path if folder), str(Path(__file__).parents[1])]  # "" is where the user happens to be
    return kept | SPIN | dict.fromkeys(ONE_THREAD, "1") | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(folders))}


def death(return_code: int, words: str) -> Answer:
    """What became of a job whose worker ended so. `words`: the end of what it wrote to its standard error."""
    words = words.rpartition(JOB_MARK.decode())[2]
    lines = words.strip().splitlines()
    how = f"was killed by {signal_name(-return_code)}" if return_code < 0 else f"ended by itself with status {return_code}"
    message = ": ".join([f"the worker {how}", *lines[-1:]])
    if any(hint in words.lower() for hint in OUT_OF_MEMORY):
        return Answer.failed("memory", message)
    return Answer.failed("crash" if return_code < 0 else "exit", message)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
