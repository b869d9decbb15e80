"""The process that runs jobs: `python -m codegen.worker`, started by `codegen.process` and of no use to anyone else.

It takes one job after another from its channel and answers each. A job that fails in an expected way is an answer; one that takes the process
down with it is the other side's to notice. It never outlives the tuner: the system ends it when the thread that started it ends (Linux), and a
thread of its own ends it when the channel closes, whatever the job is doing meanwhile.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from codegen.protocol import JOB_MARK, Answer, Job, Message, receive, send

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel", type=int, required=True, help="file descriptor of the socket to the tuner")
    parser.add_argument("--parent", type=int, required=True, help="process id of the tuner")
    parser.add_argument("--jobs", required=True, help="module of the tables JOBS and FAILURES")
    parser.add_argument("--memory-bytes", type=int, required=True, help="address space that jobs may use")
    parser.add_argument("--cpus", required=True, help="CPUs to run on, as 0,1,2")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whether to stop is the tuner's decision
    die_with(options.parent)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(cpu) for cpu in options.cpus.split(",")})  # the tuner itself may have been pinned (see codegen.openmp)
    channel = socket.socket(fileno=options.channel)
    threading.Thread(target=end_with, args=(channel,), daemon=True).start()
    tables = importlib.import_module(options.jobs)
    # What a job makes is mostly needed until its end: looking for garbage meanwhile takes a third of the time of emitting code.
    gc.freeze()
    gc.set_threshold(100_000)
    limit_memory(options.memory_bytes)
    send(channel, Message({"ready": True}))
    while (message := receive(channel)) is not None:
        os.write(2, JOB_MARK)
        send(channel, run(message, tables.JOBS, tables.FAILURES).to_message())


def run(message: Message, jobs: Mapping[str, type[Job]], failures: Mapping[type[Exception], str]) -> Answer:
    """The answer to one job."""
    try:
        return jobs[message.header["job"]].from_message(message).run()
    except tuple(failures) as error:
        failure = next(word for kind, word in failures.items() if isinstance(error, kind))
        return Answer.failed(failure, str(error) or type(error).__name__)


def die_with(parent: int) -> None:
    """Let the system kill this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(1)


def end_with(channel: socket.socket) -> None:
    """Wait until the other side of `channel` is closed, then end this process; jobs in native code do not notice by themselves."""
    poll = select.poll()
    poll.register(channel, 0)  # a closed connection is reported whether asked for or not
    poll.poll()
    os._exit(1)


def limit_memory(n_bytes: int) -> None:
    """Let the address space grow by so much from now on; and leave no core files. macOS does not enforce the former."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = Path("/proc/self/statm")
    if used.exists():
        limit = int(used.read_text().split()[0]) * resource.getpagesize() + n_bytes
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main()
