"""What runs code in tests: this process, for all targets that its CPU can be, and an emulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import operator_samples
from emulator import TRIPLE, Emulator, missing
from llvmlite import binding as llvm

from codegen.build import HOST_TRIPLE, load_object
from codegen.kernel import aligned_empty
from codegen.machine import detect_machine, enabled_features
from codegen.openmp import register_openmp
from schedule.target import Target

# Bytes of the first two and of the last one, so that rows are worth a prefetch, and most results are worth storing past them.
SMALL = {"l1_bytes": 1 << 11, "l2_bytes": 1 << 11, "l3_bytes": 1 << 10}
HOST = replace(detect_machine().target, **SMALL)
MOST_THREADS = 3


class Process:
    """This process, where code is run as a user does."""

    empty = staticmethod(aligned_empty)
    load = staticmethod(load_object)


@dataclass(frozen=True)
class Machine:
    """A target, and what runs its code: a process begins with `start`. `missing`: why nothing can be run."""

    target: Target
    triple: str = HOST_TRIPLE
    start: Callable[[], Process | Emulator] = Process
    most_threads: int = MOST_THREADS if register_openmp() else 1
    missing: str | None = None

    def with_threads(self, threads: int) -> Machine:
        """The same machine with so many threads, or as many as it can have."""
        return replace(self, target=replace(self.target, threads=min(threads, self.most_threads)))


def host_as(cpu: str, lanes: int, vector_registers: int, feature: str) -> Machine:
    """This machine with the vectors of another CPU."""
    able = llvm.get_process_triple().startswith("x86_64") and feature in enabled_features(HOST)
    target = replace(HOST, cpu=cpu, features="", lanes=lanes, vector_registers=vector_registers)
    return Machine(target, missing=None if able else f"this machine cannot run code for {cpu}")


NEON = replace(operator_samples.target(lanes=4, vector_registers=32, threads=1), **SMALL)
MACHINES = {
    "host": Machine(HOST),
    "avx512": host_as("x86-64-v4", 16, 32, "avx512vl"),
    "avx2": host_as("x86-64-v3", 8, 16, "avx2"),
    "sse2": host_as("x86-64", 4, 16, "sse2"),
    "neon": Machine(NEON, TRIPLE, Emulator, most_threads=1, missing=missing()),
}
