"""Several workers that do a batch of jobs in parallel."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from codegen.process import WorkerOptions, WorkerProcess
from codegen.protocol import Answer, Job


class Pool:
    """A thread a worker, which only waits for it.

    The threads live as long as the pool: the system ends a worker when the thread that started it ends (see `codegen.worker`).
    """

    def __init__(self, n_workers: int, options: WorkerOptions) -> None:
        self.workers = [WorkerProcess(options) for _ in range(n_workers)]
        self._idle: queue.LifoQueue[WorkerProcess] = queue.LifoQueue()  # no more are ever started than work at a time
        for worker in self.workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(n_workers, thread_name_prefix="worker")

    def run(self, jobs: Sequence[Job], timeout_seconds: float, deadline: float | None = None) -> list[Answer]:
        """The answers in the order of the jobs; after `deadline` (of `time.monotonic`) none is begun, and those are missing at the end."""
        futures: list[Future[Answer | None]] = []
        try:
            for job in jobs:
                futures.append(self._threads.submit(self._ask, job, timeout_seconds, deadline))
            answers = [future.result() for future in futures]
        except BaseException:  # such as an interrupt
            for future in futures:
                future.cancel()
            for worker in self.workers:
                worker.stop()
            raise
        begun: list[Answer] = []
        for answer in answers:
            if answer is None:  # and none after it counts, though the thread of one may have looked at the clock before this one's
                break
            begun.append(answer)
        return begun

    def _ask(self, job: Job, timeout_seconds: float, deadline: float | None) -> Answer | None:
        if deadline is not None and time.monotonic() >= deadline:
            return None
        worker = self._idle.get()
        try:
            return worker.ask(job, timeout_seconds)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self._threads.shutdown(cancel_futures=True)
        for worker in self.workers:
            worker.kill()
