"""The machine's own limits, measured: how fast it multiplies and adds in registers, works out powers of two, and reads and copies memory.

A kernel treats `parts`, which are split over a team of threads; a part is `elements` fp32, beginning at `source + part * stride`, treated `repeats`
times. With a stride of zero every thread reads the same bytes, which stay in its caches; with a stride of `elements` each reads its own.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TypeAlias

import numpy as np
import psutil
from llvmlite import ir
from numpy.typing import NDArray

from codegen.build import LoadedCode, compile_object, load_object
from codegen.control import counted_loop, declare
from codegen.functions import exp2
from codegen.machine import Machine, check_cpu, detect_machine
from codegen.openmp import register_openmp
from codegen.timing import Run, Timing, time_in_turns
from codegen.vectors import splat
from ir.program import FLOAT_BYTES
from schedule.target import Target

F32, I32, I64, POINTER, VOID = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.PointerType(), ir.VoidType()
KERNELS = ("fma", "exp2", "read", "copy", "fill")
ARGUMENTS = {"source": POINTER, "destination": POINTER, "parts": I64, "elements": I64, "stride": I64, "repeats": I64}  # eight bytes each, in an array

ALIGNMENT = 4096
FMA_TURNS = 1 << 17  # of the loop in a call: half a millisecond of a fast core, beside which a region's start and end are nothing
POWERS = 1 << 22  # that each thread works out in a call, for as long
CACHE_CALL_BYTES = 1 << 27  # read by each thread in a call: for a quarter of a millisecond or more
MAX_ROUNDS = 1000
PASSES = 3  # over the levels of memory, for a disturbance may last as long as one of them takes
ARITHMETIC_SHARE = 0.5  # of the measuring time; the rest is shared by the levels of memory
PACKAGES = ("tilewright", "numpy", "llvmlite", "xgboost", "scikit-learn", "pandas", "pyarrow", "matplotlib", "onnx", "torch", "onnxruntime")

Buffer: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Rate:
    """The best and the median of several measurements."""

    best: float
    median: float


@dataclass(frozen=True)
class Bandwidth:
    """`operation` in buffers of `buffer_bytes`, in 10⁹ bytes per second; a copy counts the bytes read and the bytes written."""

    level: str  # "L1", "L2", "L3" or "DRAM": where the buffers lie
    operation: str  # "read" or "copy"
    threads: int
    buffer_bytes: int
    gb_per_second: Rate


@dataclass(frozen=True)
class Noise:
    """An A/A test: one kernel in two interleaved series, seconds of the second over seconds of the first. 1 is no noise."""

    minima_ratio: float
    medians_ratio: float


@dataclass(frozen=True)
class Limits:
    """fp32, a multiply-add counted as two. `threads`: those of "all", the target's, or one where there is no OpenMP."""

    threads: int
    fma_gflops_one: Rate
    fma_gflops_all: Rate
    powers_all: Rate  # powers of two, as `codegen.functions` works them out, from and to the L1 caches, in 10⁹ a second
    bandwidths: tuple[Bandwidth, ...]
    noise: Noise
    seconds: float  # that measuring took, compiling and buffers included

    @property
    def fma_scaling(self) -> float:
        """How many times one thread all threads are worth. Clearly below `threads`: other work, or a host that puts two of our CPUs on one core."""
        return self.fma_gflops_all.best / self.fma_gflops_one.best

    @property
    def peak_gflops(self) -> float:
        """Of all threads; where these were so disturbed that one alone was faster, of that one."""
        return max(self.fma_gflops_all.best, self.fma_gflops_one.best)

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"bandwidths": [asdict(bandwidth) for bandwidth in self.bandwidths], "fma_scaling": self.fma_scaling}


def doctor(threads: int | None = None) -> dict[str, object]:
    """What is known of this machine and installation, as plain JSON values. Takes about two seconds."""
    machine = detect_machine(threads)
    openmp = register_openmp()
    return {
        "machine": machine.to_json(),
        "limits": measure_limits(machine.target).to_json(),
        "openmp": None if openmp is None else openmp.path,
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
    }


def package_version(name: str) -> str | None:
    """None if the package is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def measure_limits(target: Target, seconds: float = 1.0) -> Limits:
    """Measure for about `seconds`, and as long as compiling, filling buffers and the first rounds take.

    `UserError` if the target is of another CPU, or has more threads than are usable here.
    """
    start = time.perf_counter()
    machine = detect_machine(target.threads)
    check_cpu(target, machine.target)
    probes = build_probes(target, target.threads if register_openmp() else 1)
    powers = walk_of_powers(probes, target.l1_bytes)
    before = time_arithmetic(probes, powers, ARITHMETIC_SHARE / 2 * seconds)
    bandwidths = measure_bandwidths(probes, machine, (1 - ARITHMETIC_SHARE) * seconds)
    after = time_arithmetic(probes, powers, ARITHMETIC_SHARE / 2 * seconds)  # a second later: a disturbance may have passed
    one, first, second, of_powers = (early + late for early, late in zip(before, after, strict=True))
    flops = 2 * FMA_TURNS * probes.step
    return Limits(
        threads=probes.threads,
        fma_gflops_one=rate(flops, one),
        fma_gflops_all=rate(probes.threads * flops, first + second),
        powers_all=rate(powers.parts * powers.elements * powers.repeats, of_powers),
        bandwidths=bandwidths,
        noise=Noise(min(second) / min(first), median(second) / median(first)),
        seconds=time.perf_counter() - start,
    )


@dataclass(frozen=True)
class Walk:
    """What a kernel treats (see the module). `elements` and `stride` are multiples of the step; there are at least as many parts as threads."""

    parts: int
    elements: int
    stride: int = 0
    repeats: int = 1


@dataclass(frozen=True)
class Probes:
    """The compiled kernels. A step is the fp32 that a kernel treats in one turn of its loop: `chains` independent vectors of `lanes`."""

    code: LoadedCode
    lanes: int
    chains: int
    threads: int

    @property
    def step(self) -> int:
        return self.lanes * self.chains

    def run(self, kernel: str, team: int, source: Buffer, destination: Buffer, walk: Walk) -> Run:
        """A kernel, ready to be timed, by a team of one or of all threads."""
        function = self.code.function(kernel if team == 1 else f"{kernel}_all", ctypes.c_void_p)

        def run(calls: int, _code: LoadedCode = self.code) -> None:  # held, for the function lives in it
            numbers = [source.ctypes.data, destination.ctypes.data, walk.parts, walk.elements, walk.stride, calls * walk.repeats]
            arguments = np.array(numbers, dtype=np.int64)
            function(arguments.ctypes.data)

        return run


def build_probes(target: Target, threads: int) -> Probes:
    # Enough chains to hide a multiply-add's latency on any CPU (4 cycles × 4 units), leaving registers for the other operands.
    chains = 3 * target.vector_registers // 4
    text = emit_kernels(target.lanes, chains, threads)
    return Probes(load_object(compile_object(text, target), target), target.lanes, chains, threads)


def measure(runs: Sequence[Run], seconds: float, least: int = 3) -> list[tuple[float, ...]]:
    """For each run the seconds of a call, many times, in turns. Calls are long as they are: no need to calibrate, which a disturbance would mislead."""
    return time_in_turns(runs, Timing(repeat_seconds=0), MAX_ROUNDS, seconds, least)


def rate(amount: float, seconds: Sequence[float]) -> Rate:
    """In 10⁹ a second."""
    return Rate(1e-9 * amount / min(seconds), 1e-9 * amount / median(seconds))


def walk_of_powers(probes: Probes, l1_bytes: int) -> Walk:
    """About `POWERS` for each thread, which reads a quarter of its L1 cache and writes another one."""
    elements = whole_steps(probes, l1_bytes // 4)
    return Walk(probes.threads, elements, elements, POWERS // elements + 1)


def time_arithmetic(probes: Probes, powers: Walk, seconds: float) -> list[tuple[float, ...]]:
    """The seconds of `FMA_TURNS` a thread: of one thread, of all threads, and of all threads again; and of these powers, of all."""
    unused = aligned(probes.step * probes.threads)
    teams = (1, probes.threads, probes.threads)
    fma = [probes.run("fma", team, unused, unused, Walk(team, FMA_TURNS * probes.step)) for team in teams]
    exponents, results = aligned(powers.parts * powers.elements), aligned(powers.parts * powers.elements)
    exponents.fill(-1.5)
    return measure([*fma, probes.run("exp2", probes.threads, exponents, results, powers)], seconds)


def measure_bandwidths(probes: Probes, machine: Machine, seconds: float) -> tuple[Bandwidth, ...]:
    """Reads from half of each cache; reads and copies of DRAM, where there is room for so much more than the caches hold. By one thread and by all."""
    n_bytes = dram_bytes(machine)
    levels = [*_caches(probes, machine), *([_dram(probes, n_bytes)] if n_bytes else [])]
    series: list[dict[tuple[str, int], tuple[float, ...]]] = [dict.fromkeys(level.runs, ()) for level in levels]
    for _ in range(PASSES):
        for level, found in zip(levels, series, strict=True):
            times = measure(list(level.runs.values()), seconds / (PASSES * len(levels)), least=1)
            for kind, more in zip(level.runs, times, strict=True):
                found[kind] += more
    return tuple(
        Bandwidth(level.name, operation, team, level.buffer_bytes, rate(level.moved[operation, team], times))
        for level, found in zip(levels, series, strict=True)
        for (operation, team), times in found.items()
    )


@dataclass(frozen=True)
class Level:
    """A level of memory, and by operation and threads what is timed there, and the bytes that a call of it moves."""

    name: str
    buffer_bytes: int
    runs: Mapping[tuple[str, int], Run]
    moved: Mapping[tuple[str, int], int]


def _caches(probes: Probes, machine: Machine) -> Iterator[Level]:
    sink = aligned(probes.step * probes.threads)
    for cache in machine.caches:
        elements = whole_steps(probes, cache.size_bytes // 2)
        buffer = aligned(elements)
        buffer.fill(1.0)
        repeats = CACHE_CALL_BYTES // buffer.nbytes + 1
        kinds = [("read", team) for team in _teams(probes)]
        runs = {kind: probes.run(*kind, buffer, sink, Walk(kind[1], elements, 0, repeats)) for kind in kinds}
        yield Level(f"L{cache.level}", buffer.nbytes, runs, {kind: kind[1] * repeats * buffer.nbytes for kind in kinds})


def _dram(probes: Probes, n_bytes: int) -> Level:
    elements = whole_steps(probes, n_bytes // probes.threads)
    walk = Walk(probes.threads, elements, stride=elements)
    source, destination = aligned(elements * probes.threads), aligned(elements * probes.threads)
    for each in (source, destination):  # each thread first touches what it will read or write, which places it in that thread's memory
        probes.run("fill", probes.threads, each, each, walk)(1)
    kinds = [(operation, team) for operation in ("read", "copy") for team in _teams(probes)]
    runs = {kind: probes.run(*kind, source, destination, walk) for kind in kinds}
    return Level("DRAM", source.nbytes, runs, {kind: source.nbytes * (2 if kind[0] == "copy" else 1) for kind in kinds})


def _teams(probes: Probes) -> list[int]:
    return sorted({1, probes.threads})


def dram_bytes(machine: Machine) -> int:
    """Of each of two buffers: up to four times what the last cache holds, a sixteenth of the memory that is free for us, but at least twice what that cache
    holds. 0 where two of these are more than half of that memory: with less a cache would be measured."""
    free = min(psutil.virtual_memory().available, machine.memory_limit_bytes or machine.memory_bytes)
    many, few = 4 * machine.last_level_bytes, 2 * machine.last_level_bytes
    return int(max(min(many, free // 16), few)) if few <= free // 4 else 0


def whole_steps(probes: Probes, n_bytes: int) -> int:
    """Elements, a multiple of the step and at least one."""
    return max(1, n_bytes // (FLOAT_BYTES * probes.step)) * probes.step


def aligned(elements: int) -> Buffer:
    """Not yet touched memory for that many fp32, at the start of a page."""
    raw = np.empty(FLOAT_BYTES * elements + ALIGNMENT, dtype=np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    return raw[offset : offset + FLOAT_BYTES * elements].view(np.float32)


def emit_kernels(lanes: int, chains: int, threads: int) -> str:
    """LLVM IR with, for each of `KERNELS`, a function of that name for one thread and `<name>_all` for a team of `threads`."""
    module = ir.Module("limits")
    share_type = ir.FunctionType(VOID, [POINTER, I64, I64])
    for name in KERNELS:
        share = ir.Function(module, share_type, f"{name}_share")
        share.linkage = "internal"
        _emit_share(share, name, lanes, chains)
        one = ir.Function(module, ir.FunctionType(VOID, [POINTER]), name)
        builder = ir.IRBuilder(one.append_basic_block())
        builder.call(share, [one.args[0], I64(0), I64(1)])
        builder.ret_void()
        if threads > 1:
            _emit_team(module, share, name, threads)
    return str(module)


def _emit_team(module: ir.Module, share: ir.Function, name: str, threads: int) -> None:
    """`<name>_all`: its share in every thread of a team."""
    thread_num, num_threads = (declare(module, each, I32, []) for each in ("omp_get_thread_num", "omp_get_num_threads"))
    parallel = declare(module, "GOMP_parallel", VOID, [POINTER, POINTER, I32, I32])
    task = ir.Function(module, ir.FunctionType(VOID, [POINTER]), f"{name}_task")
    task.linkage = "internal"
    builder = ir.IRBuilder(task.append_basic_block())
    builder.call(share, [task.args[0], builder.zext(builder.call(thread_num, []), I64), builder.zext(builder.call(num_threads, []), I64)])
    builder.ret_void()
    every = ir.Function(module, ir.FunctionType(VOID, [POINTER]), f"{name}_all")
    builder = ir.IRBuilder(every.append_basic_block())
    builder.call(parallel, [task, every.args[0], I32(threads), I32(0)])
    builder.ret_void()


def _emit_share(share: ir.Function, name: str, lanes: int, chains: int) -> None:
    """One thread's share of the parts: `share(arguments, thread, team)`."""
    arguments, thread, team = share.args
    builder = ir.IRBuilder(share.append_basic_block())
    values = {argument: builder.load(builder.gep(arguments, [I64(i)], source_etype=I64), typ=kind) for i, (argument, kind) in enumerate(ARGUMENTS.items())}
    vector = ir.VectorType(I32 if name == "read" else F32, lanes)
    # Chains start from different numbers, lest LLVM find them equal and keep one; the others have none.
    numbers = [k / chains if name == "fma" else k for k in range(chains)] if name in ("fma", "read") else []
    low, high = (builder.udiv(builder.mul(end, values["parts"]), team) for end in (thread, builder.add(thread, I64(1))))

    def repeat(_: ir.Value, accumulators: list[ir.Value]) -> list[ir.Value]:
        return counted_loop(builder, low, high, I64(1), accumulators, treat)

    def treat(index: ir.Value, accumulators: list[ir.Value]) -> list[ir.Value]:
        start = builder.mul(index, values["stride"])

        def turn(offset: ir.Value, accumulators: list[ir.Value]) -> list[ir.Value]:
            at = [builder.gep(values[side], [builder.add(start, offset)], source_etype=F32) for side in ("source", "destination")]
            sources, destinations = ([builder.gep(base, [I64(k)], source_etype=vector) for k in range(chains)] for base in at)
            return _emit_turn(builder, name, vector, sources, destinations, accumulators)

        return counted_loop(builder, I64(0), values["elements"], I64(lanes * chains), accumulators, turn)

    accumulators = counted_loop(builder, I64(0), values["repeats"], I64(1), [splat(vector, number) for number in numbers], repeat)
    for k, accumulator in enumerate(accumulators):  # stored, or LLVM would leave the work out
        place = builder.add(builder.mul(thread, I64(chains)), I64(k))
        builder.store(accumulator, builder.gep(values["destination"], [place], source_etype=vector))
    builder.ret_void()


def _emit_turn(
    builder: ir.IRBuilder, name: str, vector: ir.VectorType, sources: list[ir.Value], destinations: list[ir.Value], accumulators: list[ir.Value]
) -> list[ir.Value]:
    """One step of a kernel; the new accumulators."""
    match name:
        case "fma":
            # fmuladd is a multiply and an add on the few CPUs that cannot fuse them. x/2 + 1/2 tends to 1: neither infinite nor denormal.
            fma, half = declare(builder.module, f"llvm.fmuladd.v{vector.count}f32", vector, [vector] * 3), splat(vector, 0.5)
            return [builder.call(fma, [accumulator, half, half]) for accumulator in accumulators]
        case "read":
            # "or" is the cheapest instruction that uses what is loaded.
            return [builder.or_(accumulator, builder.load(source, typ=vector)) for accumulator, source in zip(accumulators, sources, strict=True)]
        case "exp2":
            for source, destination in zip(sources, destinations, strict=True):
                builder.store(exp2(builder, builder.load(source, typ=vector)), destination)
        case "copy":
            for source, destination in zip(sources, destinations, strict=True):
                builder.store(builder.load(source, typ=vector), destination)
        case "fill":
            for destination in destinations:
                builder.store(splat(vector, 1.0), destination)
    return accumulators
