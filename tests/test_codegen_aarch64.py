"""Code for AArch64, compiled on any host. Where there is an emulator, the tests that compare with the interpreter run it too (`machines`)."""

import ctypes

import numpy as np
import pytest
from emulator import TRIPLE, compiles
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import MACHINES
from operator_samples import operator_texts, target

from codegen.build import compile_object, optimize, target_machine
from codegen.kernel import aligned_empty, llvm_text
from codegen.lower import lower
from ir.operators import parse_operator
from schedule.rules import sketches

PROVIDED = {"GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads", "memset"}


@pytest.mark.skipif(not compiles(), reason="this LLVM cannot compile for AArch64")
@settings(max_examples=25, deadline=None)
@given(text=operator_texts(24), seed=st.integers(0, 1 << 30))
def test_candidates_compile_and_call_nothing_but_threads(text: str, seed: int) -> None:
    """No instruction set is assumed anywhere in the emitted code, and no function of a C library is called but the one that `emulator` has."""
    rng = np.random.default_rng(seed)
    neon = target(lanes=4, vector_registers=32, threads=2)
    found = sketches(parse_operator(text)[1], neon)
    sketch = found[rng.integers(len(found))]
    (row,) = sketch.space.sample(1, rng)
    machine = target_machine(neon, TRIPLE)
    module = optimize(llvm_text(lower(sketch, row, neon), neon), machine)
    instructions = [line.split()[:2] for line in machine.emit_assembly(module).splitlines()]
    calls = {line[1] for line in instructions if line[:1] in (["bl"], ["b"]) and not line[1].startswith(".")}
    assert {name for name in calls if not name.startswith(("kernel", "prepare_"))} <= PROVIDED
    assert machine.emit_object(module)[18] == 183  # EM_AARCH64 in the ELF header


@pytest.mark.skipif(MACHINES["neon"].missing is not None, reason=str(MACHINES["neon"].missing))
def test_an_emulated_function_that_fails_is_seen() -> None:
    """Whether it ends by a signal, or is given what it does not share."""
    machine = MACHINES["neon"]
    process = machine.start()
    code = compile_object("define void @kernel(ptr %given) {\n store volatile i8 1, ptr null\n ret void\n}", machine.target, machine.triple)
    kernel = process.load(code, machine.target).function("kernel", ctypes.c_void_p)
    outside = "a buffer that the emulator does not share"
    for buffer, words in ((process.empty((1,)), "qemu-.* ended with status"), (aligned_empty((1,)), outside)):
        with pytest.raises(AssertionError, match=words):
            kernel((ctypes.c_void_p * 1)(buffer.ctypes.data))
