"""Waiting until the machine is as quiet as it can be: threads near each other, and nobody else at work on their cores.

Where CPUs are virtual the host moves them: now they are cores that share a cache, now they are not, and then an empty parallel region takes two to three times
as long, and so does whatever hands data from thread to thread (packing, concatenation, short kernels). And now a core is theirs alone, now another guest
computes on its other half, and then multiply-adds take up to twice as long. Which of these a candidate meets is no quality of the candidate, and it stays so
for seconds, longer than a candidate is measured. The time of an empty region and that of some multiply-adds in registers tell within a millisecond, and to
wait costs less than to measure again. Both are held against the shortest ever seen by the process: a CPU that lowers its frequency for good looks disturbed
from then on, which costs the share of the time that may be waited.
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from codegen.build import compile_object, load_object
from codegen.control import counted_loop, declare
from codegen.limits import Walk, aligned, build_probes
from codegen.openmp import register_openmp
from codegen.timing import Run, time_stretch
from schedule.target import Target

REGIONS = 100  # in a sample: some 0.1 ms
SAMPLES = 5  # the fastest of so many counts; the first wakes the helper threads
NEAR = 1.3  # times the shortest region that was seen
MULTIPLY_ADDS = 1 << 15  # steps of a thread in a sample: some 0.1 ms
ALONE = 1.06  # times the shortest that these took: undisturbed they differ by one or two hundredths, beside another guest by a tenth at least
PAUSE_SECONDS = 5e-3
LONGEST_WAIT_SECONDS = 3.0  # well within the time that a candidate's measurement may take
LONGEST_AGAIN_SECONDS = 1.0  # that a measurement has taken which is taken again: twice a longer one, and the waits, might not fit into that time

I32, I64, POINTER, VOID = ir.IntType(32), ir.IntType(64), ir.PointerType(), ir.VoidType()


@dataclass(frozen=True)
class Probe:
    """What takes longer on a machine that is not quiet: `seconds` measures it, `tolerance` says how many times the shortest ever seen is still quiet."""

    seconds: Callable[[], float]
    tolerance: float


class Patience:
    """Waits until all probes find the machine quiet, for no longer than a share of the time that passes between the waits."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self._probes = probes
        self._shortest = [float("inf")] * len(probes)
        self._saved = 0.0  # seconds that may be waited
        self._waited_at = time.perf_counter()
        self.waited_seconds = 0.0
        self.n_disturbed = 0  # measurements that were never quiet from beginning to end

    def measure(self, run: Callable[[], tuple[float, ...]], share: float) -> tuple[float, ...]:
        """The seconds that `run` finds on a quiet machine. Where it was not quiet before and after, it runs again, and both are united, if it is short and
        quiet comes back before what `share` of the time has saved is used up; what was never quiet from beginning to end is one of `n_disturbed`."""
        was_quiet = self.wait(share)
        started = time.perf_counter()
        found = run()
        is_short = time.perf_counter() - started <= LONGEST_AGAIN_SECONDS
        if self._quiet() and was_quiet:
            return found
        if is_short and self.wait(share):
            found += run()
            if self._quiet():
                return found
        self.n_disturbed += 1
        return found

    def wait(self, share: float) -> bool:
        """Until the machine is quiet, or what `share` of the time has saved is used up; whether it is quiet. Adds to `waited_seconds`."""
        start = time.perf_counter()
        self._saved = min(self._saved + share * (start - self._waited_at), LONGEST_WAIT_SECONDS)
        while not (quiet := self._quiet()) and time.perf_counter() - start < self._saved:
            time.sleep(PAUSE_SECONDS)
        self._waited_at = time.perf_counter()
        waited = self._waited_at - start
        self._saved = max(self._saved - waited, 0.0)
        self.waited_seconds += waited
        return quiet

    def _quiet(self) -> bool:
        """Every probe is asked each time: a shortest time that was never seen cannot be the measure."""
        seconds = [probe.seconds() for probe in self._probes]
        self._shortest = [min(*pair) for pair in zip(self._shortest, seconds, strict=True)]
        return all(now <= probe.tolerance * least for now, probe, least in zip(seconds, self._probes, self._shortest, strict=True))


@functools.cache
def patience(target: Target) -> Patience:
    """The one of this process, which remembers the shortest times it has seen. One thread hands over to nobody."""
    alone = Probe(multiply_add_timer(target), ALONE)
    return Patience([alone, Probe(region_timer(target), NEAR)] if target.threads > 1 else [alone])


def multiply_add_timer(target: Target) -> Callable[[], float]:
    """A function that tells the seconds of `MULTIPLY_ADDS` steps of multiply-adds on all the target's threads at once, now."""
    register_openmp()
    probes = build_probes(target, target.threads)
    unused = aligned(probes.step * probes.threads)
    run = probes.run("fma", probes.threads, unused, unused, Walk(probes.threads, MULTIPLY_ADDS * probes.step))
    return lambda: _fastest(run, 1)


def region_timer(target: Target) -> Callable[[], float]:
    """A function that tells the seconds of an empty parallel region of all the target's threads, now."""
    register_openmp()
    code = load_object(compile_object(emit_regions(target.threads), target), target)
    regions = code.function("regions", ctypes.c_int64)

    def run(n: int, _code: object = code) -> None:  # held, for the function lives in it
        regions(n)

    return lambda: _fastest(run, REGIONS)


def _fastest(run: Run, calls: int) -> float:
    """The seconds per call of the fastest of `SAMPLES`."""
    return min(time_stretch(run, calls) for _ in range(SAMPLES))


def emit_regions(threads: int) -> str:
    """LLVM IR of `regions(n)`: n empty parallel regions one after another."""
    module = ir.Module("quiet")
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
