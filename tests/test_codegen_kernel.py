import functools
import re
from dataclasses import replace

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import HOST, MOST_THREADS, Machine
from numpy.typing import NDArray
from operator_samples import extremes, movement_texts, operator_texts, random_inputs
from search_samples import TARGET

from codegen.check import Reference, check_output
from codegen.guards import Guards
from codegen.kernel import Array, Code, Kernel, aligned_copy, aligned_empty, build, find_sketch
from codegen.lower import lower
from ir.errors import IllegalCandidate, UserError
from ir.interpreter import interpret
from ir.nest import nest_text
from ir.operators import OPERATORS
from ir.program import ELEMENT_BYTES, Program
from ir.rounding import tolerance
from ir.task import Task, task
from schedule.algorithms import algorithm_of, rounded_program
from schedule.rules import sketches
from schedule.sketch import Sketch


def run_guarded(machine: Machine, problem: Task, sketch: Sketch, row: NDArray[np.int64], inputs: dict[str, Array]) -> Array:
    """The output of a candidate all whose buffers held NaN before, and had nothing around them written to."""
    code = build(problem, sketch, row, machine.target, machine.triple)
    assert Code.from_header(code.header(), code.object_code) == code
    process = machine.start()
    guards = Guards(process.empty)
    given = {name: aligned_copy(array, guards.empty) for name, array in inputs.items()}
    out = guards.empty(problem.program.output.shape, problem.program.output.dtype)
    Kernel(code, guards.empty, process.load)(*given.values(), out=out)
    guards.check()
    return out.copy()


def expected(program: Program, sketch: Sketch, inputs: dict[str, Array]) -> Reference:
    """What the direct program gives, as far off as the sketch's own algorithm may be."""
    bound = tolerance(rounded_program(program, algorithm_of(sketch.name)), inputs)
    return Reference(interpret(program, inputs), bound.reshape(program.output.shape))


def check_random_candidate(text: str, machine: Machine, seed: int) -> None:
    """A random row of a random sketch, against the interpreter."""
    rng, target = np.random.default_rng(seed), machine.target
    problem = task(text)
    found = sketches(problem.program, target)
    sketch = found[rng.integers(len(found))]
    row = rng.choice(sketch.space.sample(1, rng))
    inputs = random_inputs(problem.program, seed)
    try:
        check_output(run_guarded(machine, problem, sketch, row, inputs), expected(problem.program, sketch, inputs))
    except ValueError as error:
        raise AssertionError(f"{problem.key}, sketch {sketch.name}, row {row.tolist()}, {target.lanes} lanes, {target.threads} threads: {error}") from None


@settings(max_examples=25, deadline=None)
@given(text=operator_texts(), threads=st.integers(1, MOST_THREADS), seed=st.integers(0, 1 << 30))
def test_random_candidates(machine: Machine, text: str, threads: int, seed: int) -> None:
    check_random_candidate(text, machine.with_threads(threads), seed)


@pytest.mark.parametrize("source", ELEMENT_BYTES)
def test_casts_of_extremes(machine: Machine, source: str) -> None:
    """Two whole vectors and a part of one, to each type."""
    for dtype in ELEMENT_BYTES:
        given_ = np.resize(extremes(source), 37)
        problem = task(f"elementwise:shapes=37,types={source},value=cast_{dtype}(a)")
        sketch = sketches(problem.program, machine.target)[0]
        out = run_guarded(machine, problem, sketch, sketch.default_row(), {"a": given_})
        assert out.dtype == dtype
        check_output(out, expected(problem.program, sketch, {"a": given_}))


@settings(max_examples=15, deadline=None)
@given(text=movement_texts(), seed=st.integers(0, 1 << 30))
def test_data_are_moved_to_the_bit(machine: Machine, text: str, seed: int) -> None:
    """Whatever the bits are: zeros with a sign, infinities, and NaN with the numbers that they carry."""
    rng, problem = np.random.default_rng(seed), task(text)
    bits = {
        tensor.name: rng.choice(np.array([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC12345, 1, 0x3F800000], np.uint32), tensor.shape)
        for tensor in problem.program.inputs
    }
    inputs = {each: array.view(np.float32) for each, array in bits.items()}
    sketch = rng.choice(np.array(sketches(problem.program, machine.target), dtype=object))
    found = run_guarded(machine, problem, sketch, rng.choice(sketch.space.sample(1, rng)), inputs).view(np.uint32)
    with np.errstate(invalid="ignore"):
        expected = interpret(problem.program, inputs).astype(np.float32).view(np.uint32)
    assert np.array_equal(found, expected)


NARROW = [
    "pad:shape=1x40x40x3,before=0x3x3x0,after=0x3x3x0,mode=reflect",
    "pad:shape=64x3,before=2x0,after=2x0,mode=edge",
    "elementwise:shapes=64x3.3,types=int32,value=add(a;b)",
    "elementwise:shapes=64x64,types=int32,value=sub(a;a)",
    "pack:shape=2x48x16x16,from=nchw32c,to=nhwc",
    "concat:shapes=32x64.48x64,axis=0",
    "conv_transpose2d:c=16,h=7,w=7,k=16,r=3,s=3,stride=2,epilogue=bias",
    "conv_transpose2d:c=16,h=3,w=1,k=20,r=1,s=3,stride=2,pad=1x0x0x0",  # a transform whose input does not move along all of its axes
    "einsum:equation=bihd.bjhd.bhij,sizes=b2.d37.h3.i20.j50",
    "einsum:equation=ik.jk.ij,sizes=i21.j35.k70,epilogue=bias",
    "einsum:equation=ki.kj.ij,sizes=i21.j35.k70,prologue=scale+bias+gelu",
    "einsum:equation=ji.ki.kj,sizes=i21.j35.k30,prologue=scale+bias+relu",
    "conv2d:c=20,h=9,w=7,k=20,r=3,s=3,pad=1,layout=nchw,prologue=scale+bias+sigmoid",
    "conv2d:n=2,c=2,h=1,w=1,k=1,r=1,s=1,stride=5,pad=1,prologue=relu",
]


@pytest.mark.parametrize("text", NARROW)
def test_every_sketch_of_what_random_shapes_seldom_reach(machine: Machine, text: str) -> None:
    """The default schedule and some others: tiles and packed operands turned over of few columns, of integers, with folded indices; zeros
    alone; results past the caches."""
    problem = task(text)
    inputs = random_inputs(problem.program)
    for sketch in sketches(problem.program, machine.target):
        for row in (sketch.default_row(), *sketch.space.sample(3, np.random.default_rng(0))):
            check_output(run_guarded(machine, problem, sketch, row, inputs), expected(problem.program, sketch, inputs))


# Shapes that the random ones seldom have: larger than a block, and every kind of program with its default schedule.
PROGRAMS = [
    "matmul:m=70,n=130,k=300,epilogue=bias+relu",
    "matmul:m=1,n=512,k=512,epilogue=sigmoid",
    "matmul:m=65,n=1,k=200,b=variable",
    "batch_matmul:batch=5,m=33,n=47,k=64,epilogue=add+clip-1:1",
    "conv2d:c=24,h=30,w=31,k=40,r=3,s=3,pad=1,epilogue=bias+relu",
    "conv2d:c=24,h=30,w=31,k=40,r=3,s=3,pad=1,layout=nchw,epilogue=bias+add+relu",
    "conv_transpose2d:c=24,h=9,w=15,k=40,r=3,s=3,pad=0x1x2x1,layout=nchw,epilogue=bias+add+relu",
    "conv2d:c=32,h=30,w=31,k=48,r=3,s=3,pad=1,layout=nchwc,epilogue=bias+sigmoid",
    "conv2d:c=40,h=14,w=14,k=56,r=1,s=1",
    "conv2d:c=48,h=28,w=28,k=48,r=3,s=3,pad=1,groups=48,epilogue=bias+clip0:6",
    "conv2d:c=3,h=64,w=64,k=16,r=7,s=7,stride=2,pad=3x2x3x2,epilogue=relu",
    "conv2d:c=16,h=20,w=20,k=32,r=3,s=3,groups=4,dilation=2,pad=0x1x2x3",
    "transpose:shape=30x70x50,axes=2x0x1",
    "pad:shape=3x50x50,before=0x3x5,after=0x7x9,mode=reflect",
    "pack:shape=1x30x31x50,from=nhwc,to=nchw16c",
    "slice:shape=30x70,starts=29x3,stops=0x70,steps=-2x1",
    "concat:shapes=30x70.30x19,axis=1",
    "einsum:equation=abc.cd.dab,sizes=a5.b7.c33.d40",
    "conv1d:c=20,w=70,k=33,s=5,pad=2,epilogue=bias+relu",
    "conv3d:c=3,d=6,h=9,w=17,k=20,t=3,r=3,s=3,pad=1",
    "capsule_conv2d:c=3,h=9,w=9,k=5,r=3,s=3,pad=1",
    "reduce:function=l2,shape=30x300,axes=1",
    "softmax:shape=30x300,axis=1",
    "log_softmax:shape=30x33,axis=0",
    "layer_norm:shape=30x300,axes=1",
    "rms_norm:shape=30x300,axes=1",
    "batch_norm:c=20,h=9,w=17",
    "instance_norm:c=20,h=9,w=17,layout=nchw",
    "attention:batch=2,heads=3,queries=17,keys=40,dim=20",
    "max_pool2d:c=20,h=9,w=17,r=3,s=3,stride=2,pad=1",
    "average_pool2d:c=20,h=9,w=17,r=3,s=3,stride=2,pad=1",
    "global_average_pool:c=20,h=9,w=17,layout=nchw",
    "global_max_pool:c=20,h=9,w=17",
    "elementwise:shapes=30x70.70,types=float32.int32,value=cast_int8(add(erf(a);pow(sigmoid(a);cast_float32(b))))",
]


def test_there_is_a_program_of_every_operator() -> None:
    assert {text.partition(":")[0] for text in PROGRAMS} == set(OPERATORS)


@pytest.mark.parametrize("text", PROGRAMS)
def test_default_schedules(machine: Machine, text: str) -> None:
    problem = task(text)
    inputs = random_inputs(problem.program)
    for sketch in sketches(problem.program, machine.target):
        check_output(run_guarded(machine, problem, sketch, sketch.default_row(), inputs), expected(problem.program, sketch, inputs))


@functools.cache
def kernel_of(text: str) -> Kernel:
    problem = task(text)
    sketch = sketches(problem.program, HOST)[0]
    return Kernel(build(problem, sketch, sketch.default_row(), HOST))


def kernel() -> Kernel:
    return kernel_of("matmul:m=6,n=20,k=9,epilogue=bias+add")


def arrays(seed: int = 0) -> list[Array]:
    """a, b, bias, residual."""
    return list(random_inputs(kernel().task.program, seed).values())


def expect(result: Array, given: list[Array]) -> None:
    a, b, bias, residual = (array.astype(np.float64) for array in given)
    np.testing.assert_allclose(result, a @ b + bias + residual, rtol=1e-4, atol=1e-5)


def test_a_kernel_is_a_function_of_arrays() -> None:
    for seed in range(3):
        given = arrays(seed)
        before = [array.copy() for array in given]
        expect(kernel()(*given), given)
        assert all(np.array_equal(array, old) for array, old in zip(given, before, strict=True))


@pytest.mark.parametrize(("value", "function"), [("max(a;b)", np.maximum), ("min(a;b)", np.minimum), ("max(0.5;a)", np.fmax), ("min(a;0.5)", np.fmin)])
def test_extremes_are_no_number_where_an_input_is_none(value: str, function: np.ufunc) -> None:
    given = np.array([np.nan, 1, np.nan, -1, 0, np.inf, -np.inf], np.float32), np.array([1, np.nan, np.nan, 0, 2, np.nan, 3], np.float32)
    if "b" not in value:
        given = given[:1]
        expected = np.where(np.isnan(given[0]), np.nan, function(given[0], 0.5))
    else:
        expected = function(*given)
    shapes = ".".join(["7"] * len(given))
    np.testing.assert_array_equal(kernel_of(f"elementwise:shapes={shapes},value={value}")(*given), expected)


def test_a_result_past_the_caches_may_go_anywhere() -> None:
    problem = task("elementwise:shapes=8x64,value=mul(a;2)")
    sketch = sketches(problem.program, HOST)[0]
    row = sketch.space.row({**sketch.default, "stream": 1}, np.random.default_rng(0))[0]
    code = build(problem, sketch, row, HOST)
    assert code.streams
    (a,) = random_inputs(problem.program, 0).values()
    room = aligned_empty((8 * 64 + 1,))
    for start in (0, 1):
        out = room[start : start + 8 * 64].reshape(8, 64)
        assert Kernel(code)(a, out=out) is out
        np.testing.assert_array_equal(out, 2 * a)


def test_bound_constants() -> None:
    a, b, bias, residual = arrays()
    expected = kernel()(a, b, bias, residual)
    bound = kernel().bind(b=b, bias=bias)
    other = kernel().bind(bias=np.zeros_like(bias), b=np.zeros_like(b))
    assert np.array_equal(bound(a, residual), expected)
    assert np.array_equal(other(a, residual), residual)
    b[...] = bias[...] = 7.0  # what is bound is bound
    assert np.array_equal(bound(a, residual), expected)


def test_out() -> None:
    a, b, bias, residual = arrays()
    out = np.full((6, 20), np.nan, np.float32)
    assert kernel()(a, b, bias, residual, out=out) is out
    expect(out, [a, b, bias, residual])
    out.fill(np.nan)
    assert kernel().bind(b=b, bias=bias)(a, residual, out=out) is out
    expect(out, [a, b, bias, residual])


def test_arrays_that_are_not_contiguous_or_aligned() -> None:
    given = arrays()
    transposed = [np.asfortranarray(array) for array in given]
    strided = [np.repeat(array, 2, axis=-1)[..., ::2] for array in given]
    raw = [np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(np.float32).reshape(array.shape) for array in given]
    assert not any(array.flags.aligned for array in raw)
    for variant in (transposed, strided, raw):
        expect(kernel()(*variant), given)


def test_results_are_not_shared() -> None:
    given = arrays()
    first = kernel()(*given)
    kept = first.copy()
    kernel()(*arrays(1))
    assert np.array_equal(first, kept)


KEY = "matmul:m=6,n=20,k=9,b=constant,epilogue=bias+add"


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda g: [*g[:3]], TypeError, f"{KEY} takes 4 arrays (a, b, bias, residual), got 3"),
        (lambda g: [*g, g[0]], TypeError, f"{KEY} takes 4 arrays (a, b, bias, residual), got 5"),
        (lambda g: [g[0].tolist(), *g[1:]], TypeError, f"{KEY}: a must be a numpy array, got list"),
        (lambda g: [np.ma.masked_less(g[0], 0), *g[1:]], TypeError, f"{KEY}: a must be a numpy array, got MaskedArray"),
        (lambda g: [g[0].astype(np.float64), *g[1:]], TypeError, f"{KEY}: a must be float32, got float64"),
        (lambda g: [g[0].astype(">f4"), *g[1:]], TypeError, f"{KEY}: a must be float32, got >f4"),
        (lambda g: [g[0].T, *g[1:]], ValueError, f"{KEY}: a must have shape (6, 9), got (9, 6)"),
        (lambda g: [*g[:2], g[2][None], g[3]], ValueError, f"{KEY}: bias must have shape (20,), got (1, 20)"),
    ],
)
def test_wrong_arrays(change: object, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(words)}$"):
        kernel()(*change(arrays()))


def test_wrong_bindings() -> None:
    a, b, bias, _ = arrays()
    with pytest.raises(TypeError, match=re.escape(f"{KEY} has the constant operands ['b', 'bias'], got ['b']")):
        kernel().bind(b=b)
    with pytest.raises(TypeError, match=re.escape(f"{KEY} has the constant operands ['b', 'bias'], got ['a', 'b', 'bias']")):
        kernel().bind(a=a, b=b, bias=bias)
    with pytest.raises(ValueError, match=re.escape(f"{KEY}: b must have shape (9, 20), got (20, 9)")):
        kernel().bind(b=b.T, bias=bias)
    with pytest.raises(TypeError, match=re.escape(f"{KEY} with its constants bound takes 2 arrays (a, residual), got 1")):
        kernel().bind(b=b, bias=bias)(a)


@pytest.mark.parametrize(
    ("out", "kind", "words"),
    [
        ([0.0], TypeError, "out must be a numpy array, got list"),
        (np.zeros((6, 20)), TypeError, "out must be float32, got float64"),
        (np.zeros((20, 6), np.float32), ValueError, "out must have shape (6, 20), got (20, 6)"),
        (np.zeros((20, 6), np.float32).T, ValueError, "out must be contiguous, aligned and writeable"),
        (np.broadcast_to(np.float32(0), (6, 20)), ValueError, "out must be contiguous, aligned and writeable"),
    ],
)
def test_wrong_out(out: object, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(f'{KEY}: {words}')}$"):
        kernel()(*arrays(), out=out)


def test_arrays_of_other_types() -> None:
    text = "elementwise:shapes=3x4.4,types=int32.uint8,value=less(a;cast_int32(b))"
    kernel, a, b = kernel_of(text), np.arange(12, dtype=np.int32).reshape(3, 4), np.full(4, 5, np.uint8)
    result = kernel(a, b)
    assert result.dtype == np.int32
    assert np.array_equal(result, a < 5)
    for wrong, words in (((a, a[0]), "b must be uint8, got int32"), ((a.astype(np.float32), b), "a must be int32, got float32")):
        with pytest.raises(TypeError, match=f"^{re.escape(f'{text}: {words}')}$"):
            kernel(*wrong)
    with pytest.raises(TypeError, match=re.escape(f"{text}: out must be int32, got float32")):
        kernel(a, b, out=np.empty((3, 4), np.float32))


def test_out_must_not_be_an_input() -> None:
    given = arrays()
    with pytest.raises(ValueError, match=re.escape(f"{KEY}: out must not overlap an input")):
        kernel()(*given, out=given[3])


def test_a_sketch_is_found_by_its_name() -> None:
    problem = task("matmul:m=40,n=40,k=40")
    for sketch in sketches(problem.program, HOST):
        assert find_sketch(problem, sketch.name, HOST).space.symbols == sketch.space.symbols
    with pytest.raises(IllegalCandidate, match=r"^no sketch 'tile_q' for matmul:m=40,n=40,k=40,b=constant,epilogue=none \(known: tile_n"):
        find_sketch(problem, "tile_q", HOST)


def test_a_row_is_judged_by_what_it_stands_for() -> None:
    """A value above its column's maximum means the maximum: the limits are asked of that, as when candidates are drawn, not of the row as it is written."""
    target = replace(TARGET, lanes=16, vector_registers=32)
    space = (sketch := sketches(task("matmul:m=40,n=40,k=40").program, target)[0]).space
    rng = np.random.default_rng(0)
    rows = np.stack([rng.choice(column.choices, 4000) for column in space.columns], axis=1)
    written, meant = space.valid(rows), space.valid(space.canonical(rows))
    fine, broken = rows[meant & ~written][0], rows[written & ~meant][0]
    assert nest_text(lower(sketch, fine, target).kernel) == nest_text(lower(sketch, space.canonical(fine[None, :])[0], target).kernel)
    with pytest.raises(IllegalCandidate, match="breaks a limit"):
        lower(sketch, broken, target)


def test_threads_need_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codegen.kernel.register_openmp", lambda: None)
    code = replace(kernel().code, target=replace(HOST, threads=2))
    with pytest.raises(UserError, match="this kernel was built for 2 threads, and no libgomp is found to run them"):
        Kernel(code)


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def test_kernels_leave_nothing_behind() -> None:
    """Code, engine and buffers of a kernel go with it, weights of a megabyte that it has packed among them: a worker loads thousands."""
    problem = task("matmul:m=2,n=512,k=512")
    sketch = sketches(problem.program, HOST)[0]
    code, given = build(problem, sketch, sketch.default_row(), HOST), random_inputs(problem.program, 0).values()
    for _ in range(20):
        Kernel(code)(*given)
    before = resident_bytes()
    for _ in range(100):
        Kernel(code)(*given)
    assert resident_bytes() - before < 100 * (len(code.object_code) + 4000) < 10 << 20


def test_what_a_build_leaves_behind_is_bounded() -> None:
    """Not nothing: see `codegen.runner.BUILDS_A_PROCESS`, which bounds what becomes of it."""
    problem = task("matmul:m=2,n=16,k=8")
    sketch = sketches(problem.program, HOST)[0]
    for _ in range(10):
        build(problem, sketch, sketch.default_row(), HOST)
    before = resident_bytes()
    for _ in range(60):
        build(problem, sketch, sketch.default_row(), HOST)
    assert resident_bytes() - before < 60 * 500_000
