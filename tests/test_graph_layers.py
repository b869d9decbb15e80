"""Extracted layers, run by the interpreter, against onnx's reference evaluator on the nodes that they cover."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graph_models import reference, run_layer, save
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from graph.layers import Layer
from graph.model import Graph, read_graph
from graph.network import Network, find_tasks
from ir.convolution import LAYOUTS
from ir.errors import Unsupported

node = helper.make_node
Constants = dict[str, Any]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all random networks: hypothesis asks for fixtures that outlive an example."""
    return tmp_path_factory.mktemp("layers") / "network.onnx"


def normal(seed: int) -> Callable[..., np.ndarray]:
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


def check(path: Path, feeds: dict[str, np.ndarray]) -> tuple[Graph, Network]:
    """Every layer of the network gives what its nodes give."""
    graph = read_graph(path, {})
    network = find_tasks(graph)
    tensors = reference(path, feeds, (name for layer in network.layers for name in (*layer.inputs.values(), layer.output)))
    for layer in network.layers:
        expected = tensors[layer.output]
        np.testing.assert_allclose(run_layer(graph, layer, tensors), expected, rtol=1e-4, atol=1e-5 * (1 + np.abs(expected).max()), err_msg=str(layer))
    return graph, network


def only(network: Network) -> Layer:
    (layer,) = network.layers
    return layer


def epilogue_of(layer: Layer) -> str:
    return layer.key.rpartition("=")[2]


# --- what may follow a heavy node: operator, constants it brings, and how its inputs are put together ------------------


def followers(channels: tuple[int, ...], full: tuple[int, ...], values: Callable[..., np.ndarray]) -> dict[str, tuple[list[str], Constants, dict[str, Any]]]:
    """By operator: inputs ("" stands for the value), constants, attributes. `channels`: shape of a constant per channel."""
    n = max(channels, default=1)
    return {
        "Relu": ([""], {}, {}),
        "Sigmoid": ([""], {}, {}),
        "Clip": (["", "low", "high"], {"low": np.float32(-0.25), "high": np.float32(0.1)}, {}),
        "Add": (["", "shift"], {"shift": values(*channels)}, {}),
        "Sub": (["shift", ""], {"shift": values(*channels)}, {}),
        "Mul": (["", "scale"], {"scale": values()}, {}),
        "Div": (["", "scale"], {"scale": np.abs(values(*channels)) + np.float32(1)}, {}),
        "Sum": (["", "residual"], {"residual": values(*full)}, {}),
        "BatchNormalization": (
            ["", "gamma", "beta", "mean", "variance"],
            {"gamma": values(n), "beta": values(n), "mean": values(n), "variance": np.abs(values(n)) + np.float32(0.5)},
            {"epsilon": 1e-3},
        ),
        "Tanh": ([""], {}, {}),
        "HardSwish": ([""], {}, {}),
        "SiLU": ([""], {}, {}),  # two nodes
        "LeakyRelu": ([""], {}, {"alpha": 0.2}),
        "Softplus": ([""], {}, {}),  # ends the fusion
    }


def add_followers(
    names: list[str], nodes: list[Any], constants: Constants, channels: tuple[int, ...], full: tuple[int, ...], values: Callable[..., np.ndarray]
) -> str:
    """Appends nodes of these operators after tensor "y0"; the last one's result."""
    for number, name in enumerate(names):
        operands, brought, attributes = followers(channels, full, values)[name]
        inputs = [f"y{number}" if operand == "" else f"{operand}{number}" for operand in operands]
        if name == "SiLU":
            nodes.append(node("Sigmoid", inputs, [f"sigmoid{number}"]))
            name, inputs = "Mul", [f"sigmoid{number}", *inputs][:: (-1) ** number]
        nodes.append(node(name, inputs, [f"y{number + 1}"], **attributes))
        constants |= {f"{key}{number}": value for key, value in brought.items()}
    return f"y{len(names)}"


CHAINS = st.lists(st.sampled_from(sorted(followers((1,), (1,), normal(0)))), max_size=4)
SIZES = st.integers(1, 4)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 2), groups=SIZES, c=SIZES, k=SIZES, kernel=st.lists(SIZES, min_size=1, max_size=3), bias=st.booleans(),
    auto_pad=st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]), chain=CHAINS, seed=st.integers(0, 1 << 16),
)  # fmt: skip
def test_convolutions(path: Path, n: int, groups: int, c: int, k: int, kernel: list[int], bias: bool, auto_pad: str, chain: list[str], seed: int) -> None:
    rank, rng, values = len(kernel), np.random.default_rng(seed), normal(seed)
    strides = rng.integers(1, 4, rank).tolist()
    # The reference evaluator of this library does not know dilation together with SAME padding.
    dilations = [1] * rank if auto_pad.startswith("SAME") else rng.integers(1, 3, rank).tolist()
    size = [step * (extent - 1) + 1 + int(more) for step, extent, more in zip(dilations, kernel, rng.integers(0, 5, rank), strict=True)]
    pads = {"pads": rng.integers(0, 3, 2 * rank).tolist()} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
    constants: Constants = {"w": values(groups * k, c, *kernel)} | ({"b": values(groups * k)} if bias else {})
    nodes = [node("Conv", ["x", *constants], ["y0"], strides=strides, dilations=dilations, group=groups, **pads)]
    x = values(n, groups * c, *size)
    save(path, nodes, {"x": x.shape}, {"y0": 2 + rank}, constants)
    full = reference(path, {"x": x}, ["y0"])["y0"].shape
    output = add_followers(chain, nodes, constants, (groups * k, *[1] * rank), full, values)
    save(path, nodes, {"x": x.shape}, {output: 2 + rank}, constants)
    _, network = check(path, {"x": x})
    assert only(network).key.startswith(f"conv{rank}d:n={n},c={groups * c},")
    assert f"layout={LAYOUTS[rank][0]}" in only(network).key


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 2), c=SIZES, k=SIZES, kernel=st.lists(SIZES, min_size=1, max_size=2), bias=st.booleans(),
    chain=CHAINS, seed=st.integers(0, 1 << 16),
)  # fmt: skip
def test_transposed_convolutions(path: Path, n: int, c: int, k: int, kernel: list[int], bias: bool, chain: list[str], seed: int) -> None:
    """In one group: the reference evaluator of this library fails for several."""
    rank, rng, values = len(kernel), np.random.default_rng(seed), normal(seed)
    strides = rng.integers(1, 4, rank).tolist()
    dilations = [1 if by > 1 else int(rng.integers(1, 3)) for by in strides]
    pads = rng.integers(0, 2, 2 * rank).tolist()
    least = [by * (extent - 1) + 1 - sum(pads[i::rank]) for i, (by, extent) in enumerate(zip(dilations, kernel, strict=True))]
    output_padding = [-few % by for few, by in zip(least, strides, strict=True)]
    size = [max(1, 2 - few) + int(rng.integers(0, 3)) for few in least]
    constants: Constants = {"w": values(c, k, *kernel)} | ({"b": values(k)} if bias else {})
    options = {"strides": strides, "dilations": dilations, "pads": pads, "output_padding": output_padding}
    nodes = [node("ConvTranspose", ["x", *constants], ["y0"], **options)]
    x = values(n, c, *size)
    save(path, nodes, {"x": x.shape}, {"y0": 2 + rank}, constants)
    full = reference(path, {"x": x}, ["y0"])["y0"].shape
    output = add_followers(chain, nodes, constants, (k, *[1] * rank), full, values)
    save(path, nodes, {"x": x.shape}, {output: 2 + rank}, constants)
    _, network = check(path, {"x": x})
    assert only(network).key.startswith(f"conv_transpose2d:n={n},c={c},")


@pytest.mark.parametrize("auto_pad", ["", "VALID"])
def test_a_transposed_convolution_without_padding(path: Path, auto_pad: str) -> None:
    values = normal(0)
    save(path, [node("ConvTranspose", ["x", "w"], ["y"], auto_pad=auto_pad)], {"x": (1, 2, 4, 5)}, {"y": 4}, {"w": values(2, 3, 3, 3)})
    assert ",pad=0," in only(find_tasks(read_graph(path, {}))).key


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("kernel", [[1, 3], [3, 3]])
def test_a_kernel_that_is_not_that_of_the_weights(path: Path, operator: str, kernel: list[int]) -> None:
    save(path, [node(operator, ["x", "w"], ["y"], kernel_shape=kernel)], {"x": (1, 4, 8, 8)}, {"y": 4}, {"w": normal(0)(4, 4, 3, 1)})
    with pytest.raises(ValueError, match=rf"kernel_shape={kernel[0]}x3 is not the kernel of weights of shape \(4, 4, 3, 1\)"):
        find_tasks(read_graph(path, {}))


def test_a_concatenation_of_many_tensors(path: Path) -> None:
    """More than there are letters, as in DenseNet."""
    names = [f"x{number}" for number in range(30)]
    save(path, [node("Concat", names, ["y"], axis=1)], dict.fromkeys(names, (1, 2, 3)), {"y": 3}, {})
    values = normal(0)
    _, network = check(path, {name: values(1, 2, 3) for name in names})
    assert only(network).key.startswith("concat:shapes=1x2x3.")


def test_a_constant_that_cannot_be_computed_ends_a_fusion(path: Path) -> None:
    """Before a product and behind one: the products are tasks all the same."""
    big, place = np.ones((2, 4), np.float32), np.array([7], np.int64)
    nodes = [
        node("Gather", ["big", "place"], ["row"]), node("ReduceMax", ["row"], ["most"], keepdims=0), node("Clip", ["x", "", "most"], ["a"]),
        node("MatMul", ["a", "m"], ["b"]), node("Add", ["b", "most"], ["y"]),
    ]  # fmt: skip
    save(path, nodes, {"x": (3, 4)}, {"y": 2}, {"big": big, "place": place, "m": np.ones((4, 4), np.float32)})
    network = find_tasks(read_graph(path, {}))
    assert only(network).key.startswith("matmul:m=3,n=4,k=4,b=constant,epilogue=none")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"auto_pad": "SAME_UPPER"}, "auto_pad and output_shape of a transposed convolution are not supported, only pads and output_padding"),
        ({"output_shape": [9, 9]}, "auto_pad and output_shape of a transposed convolution are not supported, only pads and output_padding"),
    ],
)
def test_what_a_transposed_convolution_may_not_have(path: Path, options: dict[str, Any], reason: str) -> None:
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], name="up", **options), node("MatMul", ["y", "m"], ["z"])]
    save(path, nodes, {"x": (1, 2, 9, 9)}, {"z": 4}, {"w": np.ones((2, 3, 1, 1), np.float32), "m": np.ones((9, 4), np.float32)})
    network = find_tasks(read_graph(path, {}))
    assert [(refusal.op_type, refusal.reason) for refusal in network.unsupported] == [("ConvTranspose", reason)]


@settings(deadline=None, max_examples=40)
@given(
    m=SIZES, n=SIZES, k=SIZES, trans_b=st.booleans(), alpha=st.sampled_from([1.0, 0.5, -2.0]), beta=st.sampled_from([1.0, 0.0, 0.5]),
    c_shape=st.sampled_from(["none", "scalar", "n", "1n", "mn"]), chain=CHAINS, seed=st.integers(0, 1 << 16),
)  # fmt: skip
def test_gemm(path: Path, m: int, n: int, k: int, trans_b: bool, alpha: float, beta: float, c_shape: str, chain: list[str], seed: int) -> None:
    values = normal(seed)
    constants: Constants = {"b": values(n, k) if trans_b else values(k, n)}
    shapes = {"scalar": (), "n": (n,), "1n": (1, n), "mn": (m, n)}
    if c_shape in shapes:
        constants["c"] = values(*shapes[c_shape])
    nodes = [node("Gemm", ["a", *constants], ["y0"], transB=int(trans_b), alpha=alpha, beta=beta)]
    output = add_followers(chain, nodes, constants, (n,), (m, n), values)
    save(path, nodes, {"a": (m, k)}, {output: 2}, constants)
    if c_shape == "mn" and beta == 0.5 and m > 1:
        with pytest.raises(ValueError, match=r"1 × Gemm: 'c' of shape \(\d, \d\) is neither a constant for each column nor a whole matrix"):
            find_tasks(read_graph(path, {}))
    else:
        _, network = check(path, {"a": values(m, k)})
        assert only(network).key.startswith(f"matmul:m={m},n={n},k={k},b=constant")


@settings(deadline=None, max_examples=60)
@given(
    a_lead=st.lists(SIZES, max_size=2), b_lead=st.sampled_from(["none", "ones", "same"]), m=SIZES, n=SIZES, k=SIZES, constant=st.booleans(),
    chain=CHAINS, seed=st.integers(0, 1 << 16),
)  # fmt: skip
def test_matrix_products(path: Path, a_lead: list[int], b_lead: str, m: int, n: int, k: int, constant: bool, chain: list[str], seed: int) -> None:
    values = normal(seed)
    lead = {"none": [], "ones": [1] * len(a_lead), "same": a_lead}[b_lead]
    a, b = values(*a_lead, m, k), values(*lead, k, n)
    constants: Constants = {"b": b} if constant else {}
    inputs = {"a": a.shape} | ({} if constant else {"b": b.shape})
    nodes = [node("MatMul", ["a", "b"], ["y0"])]
    rank = 2 + len(a_lead)
    # Batch normalization works on axis 1, which is the columns only where there is no batch.
    chain = [name for name in chain if name != "BatchNormalization" or rank == 2]
    output = add_followers(chain, nodes, constants, (n,), (*a_lead, m, n), values)
    save(path, nodes, inputs, {output: rank}, constants)
    _, network = check(path, {"a": a} | ({} if constant else {"b": b}))
    batch = int(np.prod(lead))
    expected = f"batch_matmul:batch={batch},m={m}" if batch > 1 else f"matmul:m={int(np.prod(a_lead)) * m}"
    assert only(network).key.startswith(f"{expected},n={n},k={k},b={'constant' if constant else 'variable'}")


@pytest.mark.parametrize(("a_shape", "b_shape"), [((5,), (5, 3)), ((4, 5), (5,)), ((2, 4, 5), (5,)), ((5,), (5,)), ((5,), (2, 5, 3))])
def test_products_with_a_vector(path: Path, a_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> None:
    values = normal(0)
    rank = max(len(a_shape) + len(b_shape) - 2, 0) if min(len(a_shape), len(b_shape)) == 1 and max(len(a_shape), len(b_shape)) < 3 else 2
    nodes = [node("MatMul", ["a", "b"], ["y0"]), node("Add", ["y0", "shift"], ["y1"])]
    save(path, nodes, {"a": a_shape}, {"y1": rank}, {"b": values(*b_shape), "shift": values()})
    if len(b_shape) == 3:
        with pytest.raises(ValueError, match=r"batches \(\) and \(2,\): they are not equal"):
            find_tasks(read_graph(path, {}))
    else:
        _, network = check(path, {"a": values(*a_shape)})
        assert epilogue_of(only(network)) == "bias"


# --- rows and pools ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "x", "constants", "key"),
    [
        (node("Softmax", ["x"], ["y"]), (2, 3, 4), {}, "softmax:shape=2x3x4,axis=2"),
        (node("LogSoftmax", ["x"], ["y"], axis=1), (2, 3, 4), {}, "log_softmax:shape=2x3x4,axis=1"),
        (node("LayerNormalization", ["x", "s"], ["y"], epsilon=1e-3), (5, 4), {"s": (4,)}, "layer_norm:shape=5x4,axes=1,epsilon=1e-3"),
        (node("LayerNormalization", ["x", "s", "b"], ["y"], axis=1), (5, 3, 4), {"s": (3, 4), "b": (3, 4)}, "layer_norm:shape=5x3x4,axes=1x2,epsilon=1e-5"),
        (node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]), (2, 3, 8, 7), {}, "max_pool2d:n=2,c=3,h=8,w=7,r=3,s=2,"),
        (node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2]), (1, 3, 8, 7), {}, "max_pool2d:n=1,c=3,h=8,w=7,r=2,s=2,"),
        (node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"), (1, 3, 8, 7), {}, "max_pool2d:n=1,c=3,h=8,w=7,r=3,s=3,"),
        (node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), (1, 3, 8, 6), {}, "max_pool2d:n=1,c=3,h=8,w=6,r=2,s=2,"),
        (node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), (1, 3, 8, 7), {}, "average_pool2d:n=1,c=3,h=8,w=7,r=3,s=3,"),
        (node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1), (1, 3, 8, 7), {}, "average_pool2d:n=1,c=3,h=8,w=7,"),
        (node("GlobalAveragePool", ["x"], ["y"]), (2, 3, 4, 5), {}, "global_average_pool:n=2,c=3,h=4,w=5,layout=nhwc"),
        (node("GlobalMaxPool", ["x"], ["y"]), (2, 3, 4, 5), {}, "global_max_pool:n=2,c=3,h=4,w=5,layout=nhwc"),
    ],
)
def test_rows_and_pools(path: Path, made: Any, x: tuple[int, ...], constants: dict[str, tuple[int, ...]], key: str) -> None:
    values = normal(7)
    save(path, [made], {"x": x}, {"y": len(x)}, {name: values(*shape) for name, shape in constants.items()})
    _, network = check(path, {"x": values(*x)})
    assert only(network).key.startswith(key)


def test_softmax_was_over_all_that_follows(path: Path) -> None:
    save(path, [node("Softmax", ["x"], ["y"])], {"x": (2, 3, 4)}, {"y": 3}, {}, opset=11)
    assert only(find_tasks(read_graph(path, {}))).key == "softmax:shape=2x12,axis=1"


def test_an_axis_that_softmax_never_had(path: Path) -> None:
    save(path, [node("Softmax", ["x"], ["y"])], {"x": (5,)}, {"y": 1}, {}, opset=9)
    with pytest.raises(ValueError, match="1 × Softmax: axis=1 of a tensor of 1 dimensions"):
        find_tasks(read_graph(path, {}))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"auto_pad": "", "pads": [1, 1, 1, 1]}, ",stride=2,pad=1,"),
        ({"auto_pad": "SAME", "pads": [1, 1, 1, 1]}, "1 × Conv: auto_pad=SAME, which is none of NOTSET, VALID, SAME_UPPER, SAME_LOWER"),
        ({"auto_pad": "SAME_UPPER", "pads": [2, 2, 2, 2]}, r"1 × Conv: its result has shape \(1, 4, 5, 5\) in the network, which conv2d:.* does not give"),
    ],
)
def test_padding_in_ways_that_onnx_does_not_define(path: Path, options: dict[str, Any], found: str) -> None:
    made = node("Conv", ["x", "w"], ["y"], strides=[2, 2], **options)
    save(path, [made], {"x": (1, 4, 8, 8)}, {"y": 4}, {"w": normal(0)(4, 4, 3, 3)})
    if found.startswith("1 ×"):
        with pytest.raises(ValueError, match=found):
            find_tasks(read_graph(path, {}))
    else:
        assert found in only(find_tasks(read_graph(path, {}))).key


@pytest.mark.parametrize(
    ("made", "x", "reason"),
    [
        (
            node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
            (1, 3, 7, 7),
            "ceil_mode=1 adds windows that reach beyond the padding",
        ),
        (node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2]), (1, 3, 7, 7), "its further results are not supported"),
        (node("MaxPool", ["x"], ["y"], kernel_shape=[2]), (1, 3, 7), "pooling of a tensor of 3 dimensions, only of 4 can be tuned"),
        (node("GlobalMaxPool", ["x"], ["y"]), (3,), "pooling of a tensor of 1 dimensions, only of 4 can be tuned"),
        (node("LayerNormalization", ["x", "x"], ["y"], axis=0), (3, 7), "'x' is not constant"),
        (node("LayerNormalization", ["x", "one"], ["y"]), (3, 7), "'one' of shape (1,) is not of the shape (7,) of what is normalized"),
    ],
)
def test_what_rows_and_pools_may_not_have(path: Path, made: Any, x: tuple[int, ...], reason: str) -> None:
    save(path, [made], {"x": x}, {"y": len(x)}, {"one": np.ones(1, np.float32)})
    with pytest.raises(ValueError, match=re.escape(f"1 × {made.op_type}: {reason}")):
        find_tasks(read_graph(path, {}))


# --- what is fused, and what is not --------------------------------------------------------------------------------


def convolution(name: str, x: str, y: str) -> Any:
    return node("Conv", [x, "w", "b"], [y], name=name, pads=[1, 1, 1, 1])


def weights() -> Constants:
    values = normal(0)
    return {"w": values(4, 4, 3, 3), "b": values(4)}


def fused(path: Path, nodes: list[Any], outputs: dict[str, int], constants: Constants, **options: Any) -> list[tuple[str, tuple[str, ...]]]:
    """(epilogue, covered nodes) of each layer of a network with input x, after checking its numbers."""
    save(path, nodes, {"x": (1, 4, 5, 5)}, outputs, weights() | constants, **options)
    _, network = check(path, {"x": normal(1)(1, 4, 5, 5)})
    return [(epilogue_of(layer), layer.nodes) for layer in network.layers]


def test_chains_fuse_in_order(path: Path) -> None:
    chain = [
        convolution("c", "x", "y"),
        node("Relu", ["y"], ["r"], name="r"),
        node("Add", ["x", "r"], ["s"], name="s"),
        node("Sigmoid", ["s"], ["t"], name="t"),
    ]
    assert fused(path, chain, {"t": 4}, {}) == [("bias+relu+add+sigmoid", ("c", "r", "s", "t"))]


def test_a_chain_is_fused_as_far_as_an_operator_text_may_have_it(path: Path) -> None:
    """HardSwish uses its argument twice: with the bias, three in a row are 43 functions, four 91."""
    chain = [node("HardSwish", ["y" if i == 0 else f"h{i - 1}"], [f"h{i}"], name=f"h{i}") for i in range(5)]
    ((steps, nodes),) = fused(path, [convolution("c", "x", "y"), *chain], {"h4": 4}, {})
    assert (steps, nodes) == ("bias+hardswish+hardswish+hardswish", ("c", "h0", "h1", "h2"))
    relus = [node("Relu", ["x" if i == 0 else f"r{i - 1}"], [f"r{i}"], name=f"r{i}") for i in range(70)]
    ((prologue, before, _),) = begun(path, [*relus, convolution("c", "r69", "y")], {"y": 4}, {})
    assert (prologue.count("relu"), len(before)) == (64, 64)


def test_where_branches_meet_the_later_layer_adds(path: Path) -> None:
    nodes = [convolution("c1", "x", "y1"), convolution("c2", "x", "y2"), node("Add", ["y1", "y2"], ["s"], name="s"), node("Relu", ["s"], ["t"], name="t")]
    assert fused(path, nodes, {"t": 4}, {}) == [("bias", ("c1",)), ("bias+add+relu", ("c2", "s", "t"))]


def test_a_result_of_the_network_is_not_fused_over(path: Path) -> None:
    nodes = [convolution("c", "x", "y"), node("Relu", ["y"], ["r"], name="r")]
    assert fused(path, nodes, {"y": 4, "r": 4}, {}) == [("bias", ("c",))]


def test_a_tensor_read_twice_is_not_fused_over(path: Path) -> None:
    nodes = [convolution("c", "x", "y"), node("Add", ["y", "y"], ["s"], name="s")]
    assert fused(path, nodes, {"s": 4}, {}) == [("bias", ("c",))]


def test_a_tensor_read_in_a_branch_is_not_fused_over(path: Path) -> None:
    branch = helper.make_graph([node("Neg", ["y"], ["z"])], "branch", [], [helper.make_tensor_value_info("z", 1, [1, 4, 5, 5])])
    other = helper.make_graph([node("Identity", ["x"], ["i"])], "other", [], [helper.make_tensor_value_info("i", 1, [1, 4, 5, 5])])
    nodes = [
        convolution("c", "x", "y"), node("Relu", ["y"], ["r"], name="r"), node("ReduceMax", ["r"], ["m"], keepdims=0), node("Cast", ["m"], ["f"], to=9),
        node("If", ["f"], ["o"], then_branch=branch, else_branch=other),
    ]  # fmt: skip
    assert fused(path, nodes, {"o": 4}, {}) == [("bias", ("c",))]


def test_only_one_residual_is_added(path: Path) -> None:
    nodes = [convolution("c", "x", "y"), node("Add", ["y", "x"], ["s"], name="s"), node("Add", ["s", "x"], ["t"], name="t")]
    assert fused(path, nodes, {"t": 4}, {}) == [("bias+add", ("c", "s"))]


def test_constants_are_folded_only_before_other_steps(path: Path) -> None:
    nodes = [convolution("c", "x", "y"), node("Relu", ["y"], ["r"], name="r"), node("Add", ["r", "shift"], ["s"], name="s")]
    assert fused(path, nodes, {"s": 4}, {"shift": normal(2)(4, 1, 1)}) == [("bias+relu", ("c", "r"))]


def test_a_summand_along_the_width_is_not_a_bias(path: Path) -> None:
    nodes = [convolution("c", "x", "y"), node("Add", ["y", "shift"], ["s"], name="s")]
    assert fused(path, nodes, {"s": 4}, {"shift": normal(2)(5)}) == [("bias", ("c",))]


def test_a_constant_of_the_whole_shape_is_a_residual(path: Path) -> None:
    nodes = [convolution("c", "x", "y"), node("Add", ["shift", "y"], ["s"], name="s")]
    assert fused(path, nodes, {"s": 4}, {"shift": normal(2)(1, 4, 5, 5)}) == [("bias+add", ("c", "s"))]


def test_a_reciprocal_is_not_folded(path: Path) -> None:
    nodes = [convolution("c", "x", "y"), node("Div", ["shift", "y"], ["s"], name="s")]
    assert fused(path, nodes, {"s": 4}, {"shift": normal(2)(4, 1, 1)}) == [("bias", ("c",))]


def test_a_factor_needs_weights_to_fold_into(path: Path) -> None:
    nodes = [node("MatMul", ["x", "x"], ["y"], name="p"), node("Mul", ["y", "scale"], ["s"], name="s")]
    assert fused(path, nodes, {"s": 4}, {"scale": np.float32(2)}) == [("none", ("p",))]


def test_constants_that_are_no_numbers_are_folded_without_a_warning(path: Path) -> None:
    normalized = node("BatchNormalization", ["y", "b", "b", "b", "minus"], ["n"], name="n")
    nodes = [convolution("c", "x", "y"), normalized, node("Div", ["n", "zero"], ["z"], name="d")]
    save(path, nodes, {"x": (1, 4, 5, 5)}, {"z": 4}, weights() | {"minus": np.full(4, -1, np.float32), "zero": np.float32(0)})
    assert only(find_tasks(read_graph(path, {}))).nodes == ("c", "n", "d")


def test_batch_normalization_in_training_is_not_folded(path: Path) -> None:
    values = normal(3)
    bn = node("BatchNormalization", ["y", "g", "h", "m", "v"], ["z", "mean", "variance"], name="n", training_mode=1)
    constants = {"g": values(4), "h": values(4), "m": values(4), "v": np.abs(values(4))}
    assert fused(path, [convolution("c", "x", "y"), bn], {"z": 4}, constants) == [("bias", ("c",))]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 6, "bias+clip0:6"), (-0.0, 0.1, "bias+clip0:0.1"), (-1e-7, 1e6, "bias+clip-0.0000001:1000000"), (0, None, "bias+relu"), (0, np.inf, "bias+relu"),
        (0, np.finfo(np.float32).max, "bias+relu"), (None, 6, "bias"), (-1, None, "bias"), (2, 1, "bias"), (np.nan, 1, "bias"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("opset", [9, 17])
def test_clip(path: Path, low: float | None, high: float | None, expected: str, opset: int) -> None:
    bounds = {name: np.float32(bound) for name, bound in (("min", low), ("max", high)) if bound is not None}
    if opset < 11:
        nodes, constants = [node("Clip", ["y"], ["z"], **{name: float(bound) for name, bound in bounds.items()})], {}
    else:
        nodes, constants = [node("Clip", ["y", *(name if name in bounds else "" for name in ("min", "max"))], ["z"])], bounds
    assert [epilogue for epilogue, _ in fused(path, [convolution("c", "x", "y"), *nodes], {"z": 4}, constants, opset=opset)] == [expected]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (node("Tanh", ["y"], ["z"]), "bias+tanh"), (node("HardSwish", ["y"], ["z"]), "bias+hardswish"), (node("Gelu", ["y"], ["z"]), "bias+gelu"),
        (node("Gelu", ["y"], ["z"], approximate="tanh"), "bias"), (node("LeakyRelu", ["y"], ["z"]), "bias+leaky0.01"),
        (node("LeakyRelu", ["y"], ["z"], alpha=-1e-7), "bias+leaky-0.0000001"),
    ],
)  # fmt: skip
def test_activations(path: Path, activation: Any, expected: str) -> None:
    assert [epilogue for epilogue, _ in fused(path, [convolution("c", "x", "y"), activation], {"z": 4}, {}, opset=20)] == [expected]


@pytest.mark.parametrize("operands", [["y", "s"], ["s", "y"]])
def test_a_sigmoid_and_the_product_with_it_are_silu(path: Path, operands: list[str]) -> None:
    conv, sigmoid, product = convolution("c", "x", "y"), node("Sigmoid", ["y"], ["s"], name="s"), node("Mul", operands, ["z"], name="z")
    more = node("Relu", ["z"], ["t"], name="t")
    assert fused(path, [conv, sigmoid, product, more], {"t": 4}, {}) == [("bias+silu+relu", ("c", "s", "z", "t"))]
    for others in ([node("Relu", ["s"], ["t"])], [node("Relu", ["y"], ["t"])]):  # which read what would not be there
        assert fused(path, [conv, sigmoid, product, *others], {"t": 4, "z": 4}, {}) == [("bias", ("c",))]
    for result in "sy":
        assert fused(path, [conv, sigmoid, product], {result: 4, "z": 4}, {}) == [("bias", ("c",))]
    assert fused(path, [conv, sigmoid, node("Add", operands, ["z"])], {"z": 4}, {}) == [("bias", ("c",))]
    assert fused(path, [conv, node("Tanh", ["y"], ["s"]), product], {"z": 4}, {}) == [("bias", ("c",))]


@pytest.mark.skipif(not onnx.defs.has("Swish"), reason="onnx knows no Swish")
def test_swish(path: Path) -> None:
    def epilogues(alpha: float) -> list[str]:
        swish = node("Swish", ["y"], ["z"], alpha=alpha)
        return [epilogue for epilogue, _ in fused(path, [convolution("c", "x", "y"), swish], {"z": 4}, {}, opset=24)]

    assert (epilogues(1.0), epilogues(0.5)) == (["bias+silu"], ["bias"])


def test_clip_with_bounds_that_are_computed_is_not_fused(path: Path) -> None:
    bound = [node("ReduceMax", ["x"], ["high"], keepdims=0), convolution("c", "x", "y"), node("Clip", ["y", "", "high"], ["z"])]
    assert [epilogue for epilogue, _ in fused(path, bound, {"z": 4}, {})] == ["bias"]


def test_weights_may_be_computed_from_constants(path: Path) -> None:
    values = normal(4)
    nodes = [
        node("Constant", [], ["factor"], value=onnx.numpy_helper.from_array(np.float32(3))),
        node("Transpose", ["stored"], ["turned"], perm=[3, 2, 0, 1]),
        node("Mul", ["turned", "factor"], ["weights"]),
        node("Conv", ["x", "weights"], ["y"], name="c"),
    ]
    # Larger than what is computed when the file is read.
    assert fused(path, nodes, {"y": 4}, {"stored": values(3, 3, 4, 120)}) == [("none", ("c",))]


def test_equal_layers_are_one_task(path: Path) -> None:
    nodes = [convolution("c1", "x", "y1"), convolution("c2", "y1", "y2"), convolution("c3", "y2", "y3"), node("Relu", ["y3"], ["z"], name="r")]
    save(path, nodes, {"x": (1, 4, 5, 5)}, {"z": 4}, weights())
    graph, network = check(path, {"x": normal(1)(1, 4, 5, 5)})
    assert [(task.count, task.name, task.key.rpartition("=")[2]) for task in network.tasks] == [(2, "c1", "bias"), (1, "c3", "bias+relu")]
    assert [layer.nodes for layer in network.layers if layer.key == network.tasks[0].key] == [("c1",), ("c2",)]
    assert network.other_operators == Counter()
    assert graph.inputs == ("x",)


def test_a_product_that_is_a_bound_of_a_clip_is_not_clipped(path: Path) -> None:
    nodes = [node("Conv", ["x", "all"], ["y"], name="c"), node("Squeeze", ["y"], ["s"]), node("Clip", ["x", "", "s"], ["z"])]
    assert fused(path, nodes, {"z": 4}, {"all": normal(5)(1, 4, 5, 5)}) == [("none", ("c",))]
    nodes = [node("Squeeze", ["x"], ["u"]), node("ReduceSum", ["u"], ["v"], keepdims=0), node("Unsqueeze", ["v", "axis"], ["a"])]
    nodes += [node("MatMul", ["a", "b1"], ["y"], name="p"), node("Clip", ["x", "", "y"], ["z"])]
    assert fused(path, nodes, {"z": 4}, {"axis": np.array([0]), "b1": normal(6)(1)}) == [("none", ("p",))]


# --- prologues -------------------------------------------------------------------------------------------------------


def normalization(name: str, x: str, y: str) -> tuple[Any, Constants]:
    values = normal(7)
    kinds = {f"{name}_scale": values(4), f"{name}_shift": values(4), f"{name}_mean": values(4), f"{name}_variance": np.abs(values(4))}
    return node("BatchNormalization", [x, *kinds], [y], name=name), kinds


def begun(path: Path, nodes: list[Any], outputs: dict[str, int], constants: Constants) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """(prologue, its nodes, all other nodes) of each layer of a network with input x, after checking its numbers."""
    save(path, nodes, {"x": (1, 4, 5, 5)}, outputs, weights() | constants)
    _, network = check(path, {"x": normal(1)(1, 4, 5, 5)})
    return [(re.search("prologue=([^,]*)|$", layer.key)[1] or "", layer.before, layer.nodes) for layer in network.layers]


def test_what_comes_before_activation_networks_is_a_prologue(path: Path) -> None:
    """As in a dense block: what the convolution before gives is needed elsewhere, too. Padding pads what the prologue gives."""
    normalized, constants = normalization("n", "y", "m")
    nodes = [convolution("c", "x", "y"), normalized, node("Relu", ["m"], ["r"], name="r"), convolution("d", "r", "t")]
    nodes.append(node("Concat", ["y", "t"], ["z"], name="z", axis=1))
    assert begun(path, nodes, {"z": 4}, constants) == [("", (), ("c",)), ("scale+bias+relu", ("n", "r"), ("d",)), ("", (), ("z",))]


def test_an_epilogue_comes_before_a_prologue(path: Path) -> None:
    nodes = [convolution("c", "x", "y"), node("Relu", ["y"], ["r"], name="r"), convolution("d", "r", "z")]
    assert begun(path, nodes, {"z": 4}, {}) == [("", (), ("c", "r")), ("", (), ("d",))]


def test_a_prologue_is_read_by_one_node_alone(path: Path) -> None:
    nodes = [node("Relu", ["x"], ["r"], name="r"), convolution("c", "r", "y"), convolution("d", "r", "z")]
    assert begun(path, nodes, {"y": 4, "z": 4}, {}) == [("", (), ("c",)), ("", (), ("d",))]


def test_a_constant_that_cannot_be_computed_is_no_prologue(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer itself can be tuned all the same."""

    def fails(*_: object) -> None:
        raise Unsupported("nobody knows it")

    monkeypatch.setattr("graph.prologue.channel_affine", fails)
    normalized, constants = normalization("n", "x", "m")
    assert begun(path, [normalized, convolution("d", "m", "z")], {"z": 4}, constants) == [("", (), ("d",))]


def test_scales_and_shifts_of_a_prologue_are_one_pair(path: Path) -> None:
    first, constants = normalization("n", "t", "m")
    second, more = normalization("o", "x", "s")
    nodes = [second, node("Tanh", ["s"], ["t"], name="t"), node("Mul", ["u", "two"], ["v"], name="v"), convolution("c", "v", "z")]
    nodes[2:2] = [first, node("Sub", ["m", "two"], ["u"], name="u")]
    found = begun(path, nodes, {"z": 4}, constants | more | {"two": np.array(2, np.float32)})
    assert found == [("tanh+scale+bias", ("t", "n", "u", "v"), ("c",))]


def test_prologues_of_products(path: Path) -> None:
    nodes = [node("Flatten", ["x"], ["f"]), node("Mul", ["f", "each"], ["g"], name="g")]
    nodes += [node("LeakyRelu", ["g"], ["h"], name="h", alpha=0.5), node("MatMul", ["h", "b1"], ["z"], name="p")]
    values = normal(8)
    assert begun(path, nodes, {"z": 2}, {"each": values(100), "b1": values(100, 3)}) == [("scale+leaky0.5", ("g", "h"), ("p",))]
