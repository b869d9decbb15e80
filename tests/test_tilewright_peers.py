"""Peers compute what the interpreter computes, in every setting, on the threads they are given."""

import importlib
import importlib.util
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_samples import movement_texts, operator_texts, pool_texts, row_texts

from codegen.check import reference
from codegen.inputs import random_inputs
from codegen.kernel import aligned_copy, as_aligned
from codegen.workspace import ALIGNMENT
from ir.convolution import RANKS
from ir.errors import Unsupported, UserError
from ir.program import CASTS, FUNCTIONS, Tensor
from ir.task import task
from tilewright import peers
from tilewright.peers import PEERS, choose_peers, fastest, right_contenders
from tilewright.problem import Problem, Way, channels_first, clip_limits, in_layout, leaky_slope
from tilewright.turns import Contender, Series, TurnOptions

INSTALLED = [pytest.param(peer, marks=pytest.mark.skipif(not peer.installed, reason=f"{peer.name} is not installed")) for peer in PEERS.values()]
PRODUCT = "matmul:m=13,n=40,k=24"
ATTENTION = "attention:batch=2,heads=3,queries=5,keys=7,dim=8,layout=bihd"
POOL = "max_pool2d:c=3,h=9,w=8,r=3,s=2,stride=2,pad=1"
PACKING = "pack:shape=1x3x4x20,from=nhwc,to=nchw16c"
HOW = [f"{how}, {arena}" for how in ("bound", "passed") for arena in ("arena", "no arena")]
CONVOLUTION = "conv2d:c=32,h=9,w=8,k=48,r=3,s=3,pad=1"


def problem(text, threads=2):
    of = task(text)
    return Problem(of, random_inputs(of.key, 0), threads)


def answers(peer, text):
    """The settings whose answer is right. Settings with a wrong one fail the test; None where the peer cannot compute the task."""
    given = problem(text)
    before = {name: array.copy() for name, array in given.arrays.items()}
    try:
        peer.ways(given)
    except Unsupported:
        return None
    contenders, notes = right_contenders(peer, given, reference(given.task.key, 0))
    assert notes == []
    for contender in contenders:
        with contender.turn():
            contender.run()
    for name, array in given.arrays.items():  # whoever is compared reads the same ones
        np.testing.assert_array_equal(array, before[name])
    return [contender.setting for contender in contenders]


def test_inputs_are_shared_where_peers_expect_them_as_they_are():
    of = task(CONVOLUTION + ",layout=nhwc")
    given = Problem(of, {name: as_aligned(array) for name, array in random_inputs(of.key, 0).items()}, 2)
    assert given.arrays["weights"] is given.inputs["weights"]
    assert not np.shares_memory(given.arrays["x"], given.inputs["x"])
    apart = aligned_copy(np.zeros(17, np.float32))[1:]
    assert not np.shares_memory(as_aligned(apart), apart)
    assert all(array.ctypes.data % ALIGNMENT == 0 and array.flags.c_contiguous for array in (*given.arrays.values(), as_aligned(apart)))


@pytest.mark.parametrize("peer", INSTALLED)
@given(text=st.one_of(operator_texts(), row_texts(), pool_texts(), movement_texts(20)).filter(lambda text: "cast_" not in text and "types=" not in text))
@settings(max_examples=30, deadline=None)
def test_every_setting_of_every_peer_is_right(peer, text):
    found = answers(peer, text)
    assert found is None or found
    assert found or (peer.name == "numpy" and (task(text).key.partition(":")[0] in RANKS or "erf" in text or "gelu" in text))


@pytest.mark.parametrize("peer", INSTALLED)
@pytest.mark.parametrize("layout", ["nhwc", "nchw", "nchwc"])
@pytest.mark.parametrize("epilogue", ["none", "bias+relu", "add+bias", "bias+add+sigmoid+clip0.25:6"])
def test_pointwise_convolutions_are_right_in_every_layout(peer, layout, epilogue):
    assert answers(peer, f"conv2d:n=2,c=32,h=5,w=4,k=48,r=1,s=1,layout={layout},epilogue={epilogue}")


@pytest.mark.parametrize("peer", INSTALLED)
@pytest.mark.parametrize(
    "text",
    [PRODUCT, "batch_matmul:batch=2,m=3,n=4,k=5", "einsum:equation=bihd.bjhd.bhij,sizes=b2.d8.h3.i4.j5", "conv2d:c=32,h=5,w=4,k=48,r=1,s=1,layout=nchwc"],
)
@pytest.mark.parametrize("prologue", ["scale+bias+relu", "hardswish", "bias+silu", "leaky0.1", "clip0.25:0.5+tanh"])
def test_prologues_are_right_and_leave_the_input_alone(peer, text, prologue):
    given = problem(f"{text},prologue={prologue}")
    before = {name: array.copy() for name, array in given.arrays.items()}
    for way in peer.ways(given):
        way.answer()
    assert all(np.array_equal(array, before[name]) for name, array in given.arrays.items())
    assert answers(peer, given.task.key)


@pytest.mark.parametrize(
    ("name", "text", "settings"),
    [
        ("numpy", PRODUCT, {"b by rows", "b by columns"}),
        ("numpy", PRODUCT + ",b=variable", {"b by rows"}),
        ("torch", PRODUCT, {"mm", "linear", "opaque"}),
        ("torch", PRODUCT + ",epilogue=bias+clip0:6", {"addmm", "linear"}),
        ("torch", PRODUCT + ",b=variable", {"mm"}),
        ("torch", "batch_matmul:batch=2,m=3,n=4,k=5", {"bmm"}),
        ("torch", "batch_matmul:batch=2,m=3,n=4,k=5,b=constant", {"bmm", "bmm by columns"}),
        ("numpy", "einsum:equation=bihd.bjhd.bhij,sizes=b2.d8.h3.i4.j5,b=variable", {"einsum", "matmul"}),
        ("numpy", "einsum:equation=bihd.bjhd.bhij,sizes=b2.d8.h3.i4.j5,b=constant", {"einsum", "matmul"}),
        ("torch", CONVOLUTION + ",epilogue=bias+add+relu", {"contiguous", "channels_last", "opaque"}),
        ("torch", "conv2d:c=3,h=9,w=8,k=8,r=3,s=3,pad=0x1x2x1", {"contiguous", "channels_last"}),
        ("numpy", "softmax:shape=5x7,axis=1", {"step by step"}),
        ("torch", "softmax:shape=5x7,axis=0", {"softmax", "out", "opaque"}),
        ("torch", "log_softmax:shape=5x7,axis=1", {"log_softmax", "out"}),
        ("torch", "layer_norm:shape=5x7x2,axes=1x2", {"layer_norm"}),
        ("torch", "rms_norm:shape=5x7x2,axes=1x2", {"rms_norm"}),
        ("torch", "batch_norm:c=3,h=4,w=5", {"contiguous", "channels_last"}),
        ("torch", "instance_norm:c=3,h=1,w=1", {"contiguous", "channels_last"}),
        ("torch", ATTENTION, {"scaled_dot_product_attention", "matmul, softmax, matmul"}),
        ("torch", POOL, {"contiguous", "channels_last", "opaque"}),
        ("torch", POOL + ",dilation=2", {"contiguous", "channels_last"}),
        ("torch", POOL.replace("pad=1", "pad=0x1x2x1"), {"contiguous", "channels_last"}),
        ("torch", POOL.replace("max", "average").replace("pad=1", "pad=0x1x2x1"), {"contiguous", "channels_last"}),
        ("torch", "global_average_pool:c=3,h=4,w=5", {"contiguous", "channels_last", "adaptive, contiguous", "adaptive, channels_last"}),
        ("onnxruntime", "rms_norm:shape=5x7,axes=1", {f"{node}, {how}" for node in ("RMSNormalization", "ReduceMean") for how in HOW}),
        ("onnxruntime", ATTENTION, {f"{node}, {how}" for node in ("Attention", "MatMul", "MultiHeadAttention") for how in HOW}),
        ("onnxruntime", POOL, {f"MaxPool, {how}" for how in HOW}),
        ("torch", "transpose:shape=5x7x2,axes=2x0x1", {"clone", "out"}),
        ("torch", "slice:shape=5x7,starts=0x-1,stops=5x0,steps=2x-2", {"flip"}),
        ("torch", "pad:shape=5x7,before=0x2,after=1x3,mode=reflect", {"pad", "index_select"}),
        ("torch", "pad:shape=5x7x2x2,before=1x0x0x0,after=0x0x0x0,mode=edge", {"index_select"}),
        ("torch", "concat:shapes=5x7.5x2,axis=1", {"cat", "out"}),
        ("torch", PACKING, {"permute"}),
        ("onnxruntime", "pad:shape=5x7,before=0x2,after=1x3,value=-inf", {f"Pad, {how}" for how in HOW}),
        ("onnxruntime", PACKING, {f"Transpose, {how}" for how in HOW}),
        ("onnxruntime", "batch_matmul:batch=2,m=3,n=4,k=5", {f"MatMul, {how}" for how in HOW}),
    ],
)
def test_settings(name, text, settings):
    pytest.importorskip(name)
    assert set(answers(PEERS[name], text)) == settings


@pytest.mark.parametrize("peer", INSTALLED)
@pytest.mark.parametrize(
    "text",
    [ATTENTION, ATTENTION.replace("bihd", "bhid"), POOL, POOL.replace("max", "average"), "global_max_pool:c=3,h=4,w=5", "log_softmax:shape=4,axis=0", PACKING],
)
def test_every_peer_knows_rows_and_pools(peer, text):
    assert answers(peer, text)


def test_a_runtime_that_is_older_gets_older_nodes(monkeypatch):
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(runtime, "__version__", "1.20.1")
    assert set(answers(PEERS["onnxruntime"], "rms_norm:shape=5x7,axes=1")) == {f"ReduceMean, {how}" for how in HOW}


@pytest.mark.parametrize("text", [CONVOLUTION, "conv2d:c=4,h=9,w=8,k=4,r=1,s=1,stride=2", "conv2d:c=4,h=9,w=8,k=4,r=1,s=1,groups=2"])
def test_numpy_says_what_it_cannot_do(text):
    contenders, notes = right_contenders(PEERS["numpy"], problem(text), reference(task(text).key, 0))
    assert contenders == []
    assert notes == ["numpy has no convolutions but those that are matrix products: 1x1, stride 1, no padding, no groups"]


def test_what_a_library_raises_is_a_note(monkeypatch):
    """Its other settings, and the other contenders, take part all the same."""

    def fails():
        raise MemoryError("no room\nfor that")

    right = importlib.import_module("tilewright.peer_numpy").numpy_ways(problem(PRODUCT))[0]
    monkeypatch.setattr("tilewright.peer_numpy.numpy_ways", lambda problem: [Way(Contender("numpy", "greedy", lambda: None), fails), right])
    expected = reference(task(PRODUCT).key, 0)
    assert right_contenders(PEERS["numpy"], problem(PRODUCT), expected) == ([right.contender], ["numpy (greedy) is left out: MemoryError: no room"])
    monkeypatch.setattr("tilewright.peer_numpy.numpy_ways", lambda problem: fails())
    assert right_contenders(PEERS["numpy"], problem(PRODUCT), expected) == ([], ["numpy failed: MemoryError: no room"])


def test_a_setting_with_a_wrong_answer_is_left_out_and_noted(monkeypatch):
    right = importlib.import_module("tilewright.peer_numpy").numpy_ways(problem(PRODUCT))[0]
    wrong = Way(Contender("numpy", "off by one", lambda: None), lambda: right.answer() + np.float32(1))
    monkeypatch.setattr("tilewright.peer_numpy.numpy_ways", lambda problem: [wrong, right])
    contenders, notes = right_contenders(PEERS["numpy"], problem(PRODUCT), reference(task(PRODUCT).key, 0))
    assert contenders == [right.contender]
    assert len(notes) == 1
    assert notes[0].startswith("numpy (off by one) is left out: 520 of 520 elements are wrong")


@pytest.mark.parametrize("threads", [1, 2])
def test_numpy_has_its_threads_during_a_turn_only(threads):
    from threadpoolctl import threadpool_info

    def blas_threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = blas_threads()
    contender = PEERS["numpy"].ways(problem(PRODUCT, threads))[0].contender
    with contender.turn():
        assert set(blas_threads()) == {threads}
    assert blas_threads() == before


@pytest.mark.parametrize("threads", [1, 2])
def test_torch_has_its_threads(threads):
    torch = pytest.importorskip("torch")
    PEERS["torch"].ways(problem(PRODUCT, threads))
    assert torch.get_num_threads() == threads


def test_onnx_models_take_variables_as_inputs_and_constants_as_initializers():
    import onnx

    pytest.importorskip("onnxruntime")
    from tilewright.peer_onnxruntime import make_model

    model = onnx.load_model_from_string(make_model(problem(CONVOLUTION + ",epilogue=bias+add+relu+clip0:6"), "Conv"))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Conv", "Add", "Relu", "Clip"]
    assert {value.name for value in model.graph.input} == {"x", "residual"}
    assert {value.name for value in model.graph.initializer} >= {"weights", "bias"}
    variable = onnx.load_model_from_string(make_model(problem(PRODUCT + ",b=variable"), "Gemm"))
    assert [value.name for value in variable.graph.input] == ["a", "b"]
    assert not variable.graph.initializer


@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_layouts_come_back(n, blocks, block, high, wide):
    for layout, shape in {"nhwc": (n, high, wide, block), "nchw": (n, block, high, wide), "nchwc": (n, blocks, high, wide, block)}.items():
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        there = channels_first(array, layout)
        assert there.shape == (n, blocks * block if layout == "nchwc" else block, high, wide)
        assert np.array_equal(in_layout(there, layout, Tensor("y", shape).shape), array)


def test_channels_of_a_blocked_layout_are_in_order():
    array = np.zeros((1, 2, 1, 1, 4), np.float32)
    array[0, 1, 0, 0, 2] = 1.0
    assert channels_first(array, "nchwc")[0, :, 0, 0].argmax() == 6


def test_numbers_of_steps():
    assert clip_limits("clip-0.5:6") == (-0.5, 6.0)
    assert leaky_slope("leaky-0.5") == -0.5
    assert leaky_slope("relu") is None


@pytest.mark.parametrize("peer", INSTALLED)
@pytest.mark.parametrize("epilogue", ["tanh", "silu", "hardswish", "leaky0.1", "gelu"])
def test_activations(peer, epilogue):
    assert answers(peer, f"{PRODUCT},epilogue=bias+{epilogue}") or (peer.name, epilogue) == ("numpy", "gelu")


# Within the range of what a float is cut to; beyond it libraries differ.
TYPED = [
    "elementwise:shapes=5x40.40,types=int32.float32,value=add(cast_float32(a);b)",
    "elementwise:shapes=5x40.5x1,types=uint8.float32,value=mul(sub(cast_float32(a);7);b)",
    "elementwise:shapes=5x40.40,types=float32,value=cast_int8(max(min(mul(a;b);127);-128))",
    "elementwise:shapes=5x40.40,types=int64,value=select(less(a;b);max(a;add(b;9007199254740993));abs(mul(a;b)))",
    "elementwise:shapes=5x40.40.1,types=bool.int64.int32,value=select(a;b;cast_int64(c))",
    "elementwise:shapes=5x40.40,types=int32,value=cast_bool(equal(sub(a;b);3))",
    "elementwise:shapes=5x40,types=int64,value=cast_uint8(mul(cast_int32(a);33))",
    "elementwise:shapes=5x40.40,types=bool.bool,value=max(a;equal(b;0))",
    "elementwise:shapes=5x40.40,types=int8,value=min(mul(a;b);abs(sub(a;100)))",
]


@pytest.mark.parametrize("peer", INSTALLED)
@pytest.mark.parametrize("text", TYPED)
def test_chains_of_other_types(peer, text):
    assert answers(peer, text)


@pytest.mark.skipif(not PEERS["onnxruntime"].installed, reason="onnxruntime is not installed")
def test_onnxruntime_says_which_function_it_lacks_for_a_type():
    text = "elementwise:shapes=9,types=bool,value=less(a;equal(a;0))"
    contenders, (note,) = right_contenders(PEERS["onnxruntime"], problem(text), reference(task(text).key, 0))
    assert contenders == []
    assert re.match(r"onnxruntime: .*'tensor\(bool\)' of input parameter \(a\) of operator \(Less\)", note)


@pytest.mark.parametrize("peer", INSTALLED)
@pytest.mark.parametrize("function", [function for function in FUNCTIONS if function not in CASTS])
def test_functions_of_a_chain(peer, function):
    args = ";".join(("add(abs(a);0.5)", "b", "sub(a;b)")[: FUNCTIONS[function]])
    text = f"elementwise:shapes=5x40.40,value=add({function}({args});b)"
    assert answers(peer, text) or (peer.name, function) == ("numpy", "erf")


def test_numpy_says_which_function_it_lacks():
    for text, words in (("elementwise:shapes=9,value=erf(a)", "numpy has no erf"), (PRODUCT + ",epilogue=gelu", "numpy has no erf, which gelu is made of")):
        assert right_contenders(PEERS["numpy"], problem(text), reference(task(text).key, 0)) == ([], [words])


def test_the_fastest_setting_is_the_one_with_the_fastest_call(monkeypatch):
    contenders = [Contender("numpy", setting, lambda: None) for setting in "abc"]
    times = {"a": (2.0, 2.0), "b": (9.0, 1.0), "c": (1.5, 1.5)}
    monkeypatch.setattr(peers, "take_turns", lambda given, options: [Series(c.name, c.setting, times[c.setting], times[c.setting]) for c in given])
    assert fastest(contenders, TurnOptions()).setting == "b"
    assert fastest(contenders[:1], TurnOptions()).setting == "a"


def test_peers_are_those_installed_unless_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    chosen, notes = choose_peers(None)
    assert [peer.name for peer in chosen] == ["numpy", "onnxruntime"]
    assert notes == ["torch is not installed: pip install '.[peers]' in Tilewright's directory"]
    assert [peer.name for peer in choose_peers(["onnxruntime", "numpy", "onnxruntime"])[0]] == ["onnxruntime", "numpy"]
    with pytest.raises(UserError, match=r"^the peer torch is not installed; get it with pip install '\.\[peers\]' in Tilewright's directory$"):
        choose_peers(["numpy", "torch"])
    with pytest.raises(UserError, match=r"^unknown peer 'tvm' \(known: numpy, torch, onnxruntime\)$"):
        choose_peers(["tvm"])
