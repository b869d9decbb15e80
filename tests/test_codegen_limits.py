import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen import limits
from codegen.build import assembly, compile_object, load_object
from codegen.limits import Probes, Walk, aligned, doctor, dram_bytes, emit_kernels, measure_limits, rate, whole_steps
from codegen.machine import detect_machine
from codegen.openmp import register_openmp
from ir.errors import UserError

TARGET = detect_machine(1).target
TEAMS = (1, 2, 3) if register_openmp() else (1,)


def probes(lanes: int, chains: int, threads: int) -> Probes:
    return Probes(load_object(compile_object(emit_kernels(lanes, chains, threads), TARGET), TARGET), lanes, chains, threads)


SHAPES = ((4, 3, TEAMS[-1]), (8, 12, TEAMS[-1]), (16, 24, min(2, TEAMS[-1])))  # lanes, chains, threads
COMPILED = [probes(*shape) for shape in SHAPES if shape[0] <= TARGET.lanes]


@st.composite
def walks(draw: st.DrawFn) -> tuple[Probes, int, Walk]:
    """Compiled kernels, a team, and a walk of parts that follow each other."""
    compiled = draw(st.sampled_from(COMPILED))
    team = draw(st.sampled_from(sorted({1, compiled.threads})))
    elements = compiled.step * draw(st.integers(1, 5))
    return compiled, team, Walk(draw(st.integers(team, 7)), elements, elements, draw(st.integers(1, 3)))


def random_buffer(elements: int, seed: int) -> np.ndarray:
    buffer = aligned(elements)
    buffer[:] = np.random.default_rng(seed).standard_normal(elements)
    return buffer


@settings(max_examples=40, deadline=None)
@given(walks(), st.integers(0, 2**32))
def test_copy_copies_every_part_and_nothing_else(case: tuple[Probes, int, Walk], seed: int) -> None:
    compiled, team, walk = case
    total = walk.parts * walk.elements
    source, destination = random_buffer(total, seed), aligned(total + 64)
    destination.fill(7.0)
    compiled.run("copy", team, source, destination, walk)(1)
    np.testing.assert_array_equal(destination[:total], source)
    np.testing.assert_array_equal(destination[total:], 7.0)
    compiled.run("fill", team, destination, destination, walk)(1)
    np.testing.assert_array_equal(destination[:total], 1.0)
    np.testing.assert_array_equal(destination[total:], 7.0)


@settings(max_examples=40, deadline=None)
@given(walks(), st.integers(0, 2**32))
def test_read_reads_everything(case: tuple[Probes, int, Walk], seed: int) -> None:
    compiled, team, walk = case
    source, sink = random_buffer(walk.parts * walk.elements, seed), aligned(compiled.step * compiled.threads)
    sink.view(np.int32).fill(0)
    compiled.run("read", team, source, sink, walk)(1)
    # Whatever the split, the threads' chains together have seen each vector; chain k began as the number k.
    seen = np.bitwise_or.reduce(sink.view(np.int32).reshape(-1, compiled.chains, compiled.lanes)[:team])
    began = np.arange(compiled.chains, dtype=np.int32)[:, None]
    np.testing.assert_array_equal(seen, np.bitwise_or.reduce(source.view(np.int32).reshape(-1, compiled.chains, compiled.lanes)) | began)


@settings(max_examples=40, deadline=None)
@given(walks(), st.integers(0, 2**32))
def test_powers_are_of_every_element(case: tuple[Probes, int, Walk], seed: int) -> None:
    compiled, team, walk = case
    exponents = random_buffer(walk.parts * walk.elements, seed)
    results = aligned(walk.parts * walk.elements + 64)
    results.fill(7.0)
    compiled.run("exp2", team, exponents, results, walk)(1)
    np.testing.assert_allclose(results[:-64], np.exp2(exponents.astype(np.float64)), rtol=3e-7)
    np.testing.assert_array_equal(results[-64:], 7.0)


@settings(max_examples=40, deadline=None)
@given(walks(), st.integers(1, 3))
def test_multiply_adds_are_as_many_as_are_counted(case: tuple[Probes, int, Walk], calls: int) -> None:
    """Each multiply-add halves the distance to 1, so the distance tells their number."""
    compiled, team, walk = case
    walk = Walk(team, compiled.step * (walk.elements // compiled.step % 3 + 1), 0, walk.repeats)
    results = aligned(compiled.step * compiled.threads)
    compiled.run("fma", team, results, results, walk)(calls)
    turns = calls * walk.repeats * walk.elements // compiled.step
    start = np.arange(compiled.chains, dtype=np.float64)[:, None] / compiled.chains
    expected = np.broadcast_to(1 - (1 - start) * 0.5**turns, (team, compiled.chains, compiled.lanes))
    np.testing.assert_allclose(results.reshape(-1, compiled.chains, compiled.lanes)[:team], expected, atol=1e-6)
    assert (1 - expected).max() > 1e-9


def test_the_peak_is_measured_with_the_widest_fused_vectors() -> None:
    if "+fma" not in TARGET.features.split(","):
        pytest.skip("no x86 CPU with fused multiply-add")
    code = assembly(emit_kernels(TARGET.lanes, 3 * TARGET.vector_registers // 4, 1), TARGET).partition("\nfma:")[2].partition("retq")[0]
    register = {16: "%zmm", 8: "%ymm"}[TARGET.lanes]
    fused = [line for line in code.splitlines() if "vfmadd" in line]
    assert len(fused) == 3 * TARGET.vector_registers // 4
    assert all(line.count(register) == 3 for line in fused), "an operand is in memory, or vectors are split"


@given(st.floats(1e3, 1e12), st.lists(st.floats(1e-6, 1), min_size=1))
def test_rates(amount: float, seconds: list[float]) -> None:
    found = rate(amount, seconds)
    assert found.best == pytest.approx(amount / min(seconds) / 1e9)
    assert found.median == pytest.approx(amount / np.median(seconds) / 1e9)


@given(st.integers(0, 1 << 24))
def test_buffers_are_whole_steps(n_bytes: int) -> None:
    elements = whole_steps(COMPILED[-1], n_bytes)
    assert elements % COMPILED[-1].step == 0
    assert elements == COMPILED[-1].step or 0 <= n_bytes - 4 * elements < 4 * COMPILED[-1].step


def test_buffers_for_memory_exceed_the_caches_but_not_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 50))
    found = detect_machine()
    last = found.last_level_bytes
    assert dram_bytes(replace(found, memory_limit_bytes=8 * last)) == 2 * last
    assert dram_bytes(replace(found, memory_limit_bytes=8 * last - 1)) == 0
    assert 2 * last <= dram_bytes(replace(found, memory_bytes=1 << 60, memory_limit_bytes=None)) <= 4 * last


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "dram_bytes", lambda machine: 1 << 22)
    monkeypatch.setattr(limits, "FMA_TURNS", 1 << 12)
    monkeypatch.setattr(limits, "POWERS", 1 << 12)
    monkeypatch.setattr(limits, "CACHE_CALL_BYTES", 1 << 20)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("threads", range(1, min(3, detect_machine().target.threads) + 1))
def test_limits_are_complete_and_consistent(threads: int) -> None:
    found = measure_limits(detect_machine(threads).target, seconds=0.05)
    machine = detect_machine()
    teams = sorted({1, found.threads})
    levels = [f"L{cache.level}" for cache in machine.caches]
    assert [(b.level, b.operation, b.threads) for b in found.bandwidths] == [
        *((level, "read", team) for level in levels for team in teams),
        *(("DRAM", operation, team) for operation in ("read", "copy") for team in teams),
    ]
    rates = [found.fma_gflops_one, found.fma_gflops_all, found.powers_all, *(b.gb_per_second for b in found.bandwidths)]
    assert all(0 < r.median <= r.best < math.inf for r in rates)
    assert all(0 < ratio < math.inf for ratio in (found.noise.minima_ratio, found.noise.medians_ratio))
    for bandwidth, cache in zip(found.bandwidths[:: len(teams)], machine.caches, strict=False):
        assert cache.size_bytes / 4 < bandwidth.buffer_bytes <= cache.size_bytes / 2
    assert found.threads == (threads if register_openmp() else 1)
    data = found.to_json()
    assert json.loads(json.dumps(data)) == data
    assert data["fma_scaling"] == found.fma_gflops_all.best / found.fma_gflops_one.best
    slow, fast = (replace(found.fma_gflops_one, best=gflops) for gflops in (5.0, 100.0))
    assert replace(found, fma_gflops_all=slow, fma_gflops_one=fast).peak_gflops == replace(found, fma_gflops_all=fast, fma_gflops_one=slow).peak_gflops == 100


@pytest.mark.usefixtures("quick")
def test_without_openmp_one_thread_is_measured_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "register_openmp", lambda: None)
    found = measure_limits(detect_machine().target, seconds=0.01)
    assert found.threads == 1
    assert {bandwidth.threads for bandwidth in found.bandwidths} == {1}


def test_limits_of_another_machine_are_refused() -> None:
    with pytest.raises(UserError, match="lacks the CPU features quantum"):
        measure_limits(replace(TARGET, features=TARGET.features + ",+quantum"))
    with pytest.raises(UserError, match="threads asked for"):
        measure_limits(replace(TARGET, threads=100_000))


@pytest.mark.usefixtures("quick")
def test_doctor_tells_everything_in_plain_json() -> None:
    found = doctor()
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"machine", "limits", "openmp", "python", "packages"}
    packages = found["packages"]
    assert isinstance(packages, dict)
    assert packages["numpy"] == np.__version__
    assert limits.package_version("no-such-package-as-this") is None
