"""Threads without a runtime of our own: generated code calls `GOMP_parallel` in an OpenMP library that is already there.

The xgboost and scikit-learn wheels bundle one (libgomp on Linux, libomp on macOS, which offers the same entry point); otherwise the system's
is taken. How many threads a region gets is an argument of `GOMP_parallel`, so no setting of the process is changed. The region may get
fewer (`OMP_THREAD_LIMIT`, `OMP_DYNAMIC`, a nested region): generated code divides its work by `omp_get_num_threads()`, never by what it asked for.

Waiting. At the end of a region and until the next, libgomp's threads first spin, then sleep. By default they spin 300,000 times, 8 to 10 ms of a core
where it was measured. A region that starts meanwhile costs about 1 µs, one that has to wake the helpers 50 to 100 µs. The price is paid when
other work takes a CPU: the team's threads then share one, and spin while the thread they wait for does not get to run. A region, however
short, was then seen to cost 4 to 12 ms. `GOMP_SPINCOUNT=10000` (0.3 ms of spinning) bounds that at 0.6 ms, 1000 at 0.08 ms; `OMP_WAIT_POLICY=passive`
does not spin (5 to 60 µs a region, always), `active` spins for minutes. Hence a timing of a threaded kernel starts with a call that wakes the
helpers, never rests on one sample, and wants the machine for itself; a one-thread timing right after a threaded one has spinning helpers beside it.

Binding. By default the operating system may move the threads. `OMP_PROC_BIND=true`, `OMP_PLACES` or `GOMP_CPU_AFFINITY` pin them, which
steadies timings on machines with several cache or memory domains. But libgomp then pins the thread that loads it to one CPU at once, and a child process
inherits that: the CPUs allowed must be read before, and child processes given them back.

All these variables are read once, when the library is loaded: they have to be in the environment of the process from its start.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llvmlite import binding as llvm

SYMBOLS = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
BUNDLING = ("xgboost", "scikit-learn")  # xgboost first: the cost model loads that very file, and one process needs only one team of threads
LIBRARIES = ("gomp", "omp")
LOADED = "libgomp.so.1"  # the name by which programs of Linux ask for it
PINNING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")  # variables by which the library pins threads


@dataclass(frozen=True)
class OpenMP:
    """A loaded OpenMP library: its file (or the system's name for it), and where `SYMBOLS` are in this process."""

    path: str
    addresses: Mapping[str, int]


@functools.cache
def register_openmp() -> OpenMP | None:
    """Make `SYMBOLS` known to code built by LLVM in this process. None where there is no such library: one thread only."""
    openmp = next((found for path in candidates() if (found := load(path)) is not None), None)
    if openmp is not None:
        for name, address in openmp.addresses.items():
            llvm.add_symbol(name, address)
    return openmp


def candidates() -> Iterator[str]:
    """Files and names under which an OpenMP library may be found, best first."""
    for distribution in BUNDLING:
        try:
            files = importlib.metadata.files(distribution) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        yield from (str(file.locate()) for file in files if file.name.startswith(tuple(f"lib{name}" for name in LIBRARIES)))
    yield from (found for name in LIBRARIES if (found := ctypes.util.find_library(name)) is not None)
    yield LOADED  # `find_library` sees neither what an environment of its own brings nor, without a compiler, much else; the loader does


def load(path: str) -> OpenMP | None:
    """The library at `path`; None if it does not load or lacks a symbol."""
    try:
        library = ctypes.CDLL(path)
        addresses = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in SYMBOLS}
    except (OSError, AttributeError):  # not a library for this system; not an OpenMP library with GNU's entry points
        return None
    return OpenMP(path, addresses)
