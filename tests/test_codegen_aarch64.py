"""Code for AArch64, compiled on any host; running it needs such a machine, or an emulator and a linker, which these tests do not ask for."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llvmlite import binding as llvm
from operator_samples import operator_texts, target

from codegen.kernel import llvm_text
from codegen.lower import lower
from ir.operators import parse_operator
from schedule.rules import sketches

TRIPLE = "aarch64-unknown-linux-gnu"
PROVIDED = {"GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads", "memcpy", "memset"}


@pytest.fixture(scope="module")
def machine() -> llvm.TargetMachine:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        aarch64 = llvm.Target.from_triple(TRIPLE)
    except RuntimeError as error:
        pytest.skip(f"this LLVM cannot compile for AArch64: {error}")
    return aarch64.create_target_machine(cpu="cortex-a72", opt=3, reloc="pic", codemodel="small")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(text=operator_texts(24), seed=st.integers(0, 1 << 30))
def test_candidates_compile_and_call_nothing_but_threads(machine: llvm.TargetMachine, text: str, seed: int) -> None:
    """No instruction set is assumed anywhere in the emitted code, and no function of a C library is called."""
    rng = np.random.default_rng(seed)
    neon = target(lanes=4, vector_registers=32, threads=2)
    found = sketches(parse_operator(text)[1], neon)
    sketch = found[rng.integers(len(found))]
    (row,) = sketch.space.sample(1, rng)
    module = llvm.parse_assembly(llvm_text(lower(sketch, row, neon), neon))
    module.triple = TRIPLE
    module.verify()
    assembly = machine.emit_assembly(module)
    calls = {line.split()[1] for line in assembly.splitlines() if line.split()[:1] in (["bl"], ["b"]) and not line.split()[1].startswith(".")}
    assert {name for name in calls if not name.startswith(("kernel", "prepare_"))} <= PROVIDED
    assert machine.emit_object(module)[18] == 183  # EM_AARCH64 in the ELF header
