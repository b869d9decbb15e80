"""How long threads take to hand work to each other, and waiting until they are as near to each other as they can be.

Where CPUs are virtual the host moves them: now they are cores that share a cache, now they are not, and then an empty parallel region takes two to three times
as long, and so does whatever hands data from thread to thread (packing, concatenation, short kernels). Which of the two a candidate meets is no quality of
the candidate. The time of an empty region tells them apart within a millisecond, and to wait for the better one costs less than to measure again.
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable

from llvmlite import ir

from codegen.build import compile_object, load_object
from codegen.control import counted_loop, declare
from codegen.openmp import register_openmp
from schedule.target import Target

REGIONS = 100  # in a sample: some 0.1 ms
SAMPLES = 5  # the fastest of so many counts; the first wakes the helper threads
NEAR = 1.3  # times the shortest region that was seen
PAUSE_SECONDS = 5e-3
LONGEST_WAIT_SECONDS = 3.0  # well within the time that a candidate's measurement may take

I32, I64, POINTER, VOID = ir.IntType(32), ir.IntType(64), ir.PointerType(), ir.VoidType()


class Patience:
    """Waits for near threads, for no longer than a share of the time that passes between the waits.

    `region_seconds` measures an empty parallel region.
    """

    def __init__(self, region_seconds: Callable[[], float]) -> None:
        self._region_seconds = region_seconds
        self._fastest = float("inf")
        self._saved = 0.0  # seconds that may be waited
        self._waited_at = time.perf_counter()

    def wait(self, share: float) -> float:
        """Until a region takes no longer than `NEAR` times the shortest ever seen, or what `share` of the time has saved is used up; the seconds it took."""
        start = time.perf_counter()
        self._saved = min(self._saved + share * (start - self._waited_at), LONGEST_WAIT_SECONDS)
        while not self._near() and time.perf_counter() - start < self._saved:
            time.sleep(PAUSE_SECONDS)
        self._waited_at = time.perf_counter()
        self._saved = max(self._saved - (self._waited_at - start), 0.0)
        return self._waited_at - start

    def _near(self) -> bool:
        seconds = self._region_seconds()
        self._fastest = min(self._fastest, seconds)
        return seconds <= NEAR * self._fastest


@functools.cache
def patience(target: Target) -> Patience:
    """The one of this process, which remembers the shortest region it has seen. One thread hands over to nobody: then there is nothing to wait for."""
    return Patience(region_timer(target) if target.threads > 1 else lambda: 0.0)


def region_timer(target: Target) -> Callable[[], float]:
    """A function that tells the seconds of an empty parallel region of all the target's threads, now."""
    register_openmp()
    code = load_object(compile_object(emit_regions(target.threads), target), target)
    regions = code.function("regions", ctypes.c_int64)

    def sample(_code: object = code) -> float:  # held, for the function lives in it
        start = time.perf_counter()
        regions(REGIONS)
        return (time.perf_counter() - start) / REGIONS

    return lambda: min(sample() for _ in range(SAMPLES))


def emit_regions(threads: int) -> str:
    """LLVM IR of `regions(n)`: n empty parallel regions one after another."""
    module = ir.Module("handover")
    nothing = ir.Function(module, ir.FunctionType(VOID, [POINTER]), "nothing")
    ir.IRBuilder(nothing.append_basic_block()).ret_void()
    parallel = declare(module, "GOMP_parallel", VOID, [POINTER, POINTER, I32, I32])
    regions = ir.Function(module, ir.FunctionType(VOID, [I64]), "regions")
    builder = ir.IRBuilder(regions.append_basic_block())

    def region(_index: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        builder.call(parallel, [nothing, POINTER(None), I32(threads), I32(0)])
        return carried

    counted_loop(builder, I64(0), regions.args[0], I64(1), [], region)
    builder.ret_void()
    return str(module)
