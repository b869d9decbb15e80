"""What is constant in a network, and what static shapes follow from it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graph_models import save
from onnx import TensorProto, helper, numpy_helper

from graph.constants import SMALL
from graph.model import read_graph
from graph.network import find_tasks
from ir.errors import Unsupported

node = helper.make_node


def constant(name: str, value: Any) -> Any:
    return node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))


def test_shapes_that_exporters_compute_are_followed(tmp_path: Path) -> None:
    """As frameworks write a flattening: the sizes are read, picked, multiplied as floats, compared, and put together again."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        constant("first", 0), constant("axis", [0]), constant("minus", [-1]), constant("half", np.float32(0.5)),
        node("Gather", ["shape", "first"], ["batch"]),
        node("Cast", ["batch"], ["real"], to=TensorProto.FLOAT),
        node("Mul", ["real", "half"], ["halved"]),
        node("Floor", ["halved"], ["floor"]),
        node("Cast", ["floor"], ["rows"], to=TensorProto.INT64),
        node("Unsqueeze", ["rows", "axis"], ["rows1"]),
        node("Concat", ["rows1", "minus"], ["wanted0"], axis=0),
        node("ConstantOfShape", ["axis"], ["nothing"], value=numpy_helper.from_array(np.array([1], np.int64))),
        node("Equal", ["wanted0", "minus"], ["free"]),
        node("Where", ["free", "minus", "wanted0"], ["wanted"]),
        node("Reshape", ["x", "wanted"], ["flat"]),
        node("MatMul", ["flat", "w"], ["y"]),
    ]  # fmt: skip
    path = save(tmp_path / "net.onnx", nodes, {"x": ("N", 6, 2)}, {"y": 2}, {"w": np.ones((24, 3), np.float32)})
    graph = read_graph(path, {"x": (8, 6, 2)})
    assert graph.shapes["flat"] == (4, 24)
    assert [entry.op_type for entry in graph.nodes] == ["Reshape", "MatMul"]
    np.testing.assert_array_equal(graph.constants.value("wanted"), [4, -1])


def test_constants_that_are_large_are_computed_when_asked_for(tmp_path: Path) -> None:
    side = int(SMALL**0.5) + 1
    stored = np.random.default_rng(0).standard_normal((side, side)).astype(np.float32)
    nodes = [node("Transpose", ["stored"], ["turned"]), node("Neg", ["turned"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    graph = read_graph(save(tmp_path / "net.onnx", nodes, {"x": (1, side)}, {"y": 2}, {"stored": stored}), {})
    assert [entry.op_type for entry in graph.nodes] == ["MatMul"]
    assert not graph.constants.is_small("w")
    np.testing.assert_array_equal(graph.constants.value("w"), -stored.T)


@pytest.mark.parametrize("opset", [13, 19])
def test_constants_are_constant_where_the_evaluator_does_not_have_their_operator(tmp_path: Path, opset: int) -> None:
    """As quantized networks have their weights: onnx's reference evaluator knows `DequantizeLinear` only from 19 on."""
    stored = {"w": np.ones((4, 2, 3, 3), np.int8), "b": np.ones(4, np.int32), "factor": np.int8(1)}
    nodes = [node("DequantizeLinear", [f"{name}_whole", "scale"], [name]) for name in stored]
    nodes += [node("Conv", ["x", "w", "b"], ["y"]), node("Mul", ["y", "factor"], ["z"])]
    constants = {f"{name}_whole": value for name, value in stored.items()} | {"scale": np.float32(0.5)}
    path = save(tmp_path / "net.onnx", nodes, {"x": (1, 2, 5, 5)}, {"z": 4}, constants, opset=opset)
    graph = read_graph(path, {})
    (task,) = find_tasks(graph).tasks
    assert task.key.endswith("epilogue=bias")
    assert [entry.op_type for entry in graph.nodes] == ["Conv", "Mul"]
    if opset == 19:
        np.testing.assert_array_equal(graph.constants.value("b"), [0.5] * 4)
    else:
        with pytest.raises(Unsupported, match=r"^constant 'b' cannot be computed by DequantizeLinear: No implementation for operator .*[^\n]$"):
            graph.constants.value("b")


@pytest.mark.parametrize(
    ("made", "gib"),
    [
        (node("ConstantOfShape", ["sizes"], ["huge"]), 4096),
        (node("Expand", ["number", "sizes"], ["huge"]), 4096),
        (node("Tile", ["matrix", "sizes"], ["huge"]), 4096),
        (node("Range", ["number", "end", "step"], ["huge"]), 3725),
    ],
)
def test_constants_that_need_too_much_memory_are_not_computed(tmp_path: Path, made: Any, gib: int) -> None:
    nodes = [made, node("ReduceSum", ["huge"], ["b"], keepdims=0), node("MatMul", ["x", "w"], ["y"]), node("Add", ["y", "b"], ["z"])]
    numbers = {"number": 0.0, "end": 1e12, "step": 1.0, "matrix": [[0.0]]}
    constants = {name: np.array(value, np.float32) for name, value in numbers.items()} | {"sizes": np.array([1 << 20, 1 << 20])}
    graph = read_graph(save(tmp_path / "net.onnx", nodes, {"x": (2, 4)}, {"z": 2}, constants | {"w": np.ones((4, 3), np.float32)}), {})
    assert [task.key for task in find_tasks(graph).tasks] == ["matmul:m=2,n=3,k=4,b=constant,epilogue=none"]
    with pytest.raises(Unsupported, match=rf"^constant 'b' is not computed: on the way there are {gib} GiB, more than 4 GiB$"):
        graph.constants.value("b")


def test_a_constant_at_the_end_of_a_long_chain(tmp_path: Path) -> None:
    n = 1500
    nodes = [node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(n)]
    nodes += [node("ReduceSum", [f"v{n}"], ["b"], keepdims=0), node("MatMul", ["x", "w"], ["y"]), node("Add", ["y", "b"], ["z"])]
    constants = {"v0": np.ones(SMALL + 1, np.float32), "w": np.ones((4, 3), np.float32)}
    graph = read_graph(save(tmp_path / "net.onnx", nodes, {"x": (2, 4)}, {"z": 2}, constants), {})
    assert graph.constants.value("b") == SMALL + 1
    assert find_tasks(graph).tasks[0].key.endswith("epilogue=bias")


@pytest.mark.parametrize(
    ("made", "shape", "expected"),
    [
        (node("Shape", ["x"], ["s"], start=1, end=-1), (2, 3, 4, 5), [3, 4]),
        (node("Shape", ["x"], ["s"], start=-9, end=9), (2, 3), [2, 3]),
        (node("Shape", ["x"], ["s"], end=-9), (2, 3), []),
        (node("Shape", ["x"], ["s"]), (1,) * 70, [1] * 70),
        (node("Size", ["x"], ["s"]), (2, 3, 4), 24),
        (node("Size", ["x"], ["s"]), (1 << 62, 1 << 62), 0),  # 2 to the power of 124, in 64 bits
    ],
)
def test_what_is_asked_of_a_shape_is_constant(tmp_path: Path, made: Any, shape: tuple[int, ...], expected: Any) -> None:
    path = save(tmp_path / "net.onnx", [made], {"x": shape}, {"s": np.ndim(expected)}, {}, types={"s": TensorProto.INT64})
    np.testing.assert_array_equal(read_graph(path, {}).constants.value("s"), expected)


@pytest.mark.parametrize("given", ["x", "stored", "small", "large"])
def test_a_result_that_is_an_input_or_constant_keeps_its_shape(tmp_path: Path, given: str) -> None:
    nodes = [node("Neg", ["stored"], ["small"]), node("Concat", ["small"] * 300, ["large"], axis=0)]
    nodes += [node("MatMul", ["x", "stored"], ["a"]), node("MatMul", ["a", "small"], ["b"]), node("MatMul", ["large", "b"], ["c"])]
    path = save(tmp_path / "net.onnx", nodes, {"x": ("N", 4)}, {given: 2, "c": 2}, {"stored": np.ones((4, 4), np.float32)})
    graph = read_graph(path, {"x": (4, 4)})
    assert graph.outputs == (given, "c")
    assert [graph.shape(name) for name in "abc"] == [(4, 4), (4, 4), (1200, 4)]


@pytest.mark.parametrize("side", [8, 80])
def test_what_a_foreign_operator_gives_is_not_constant(tmp_path: Path, side: int) -> None:
    """It may be noise."""
    nodes = [node("Noise", [], ["w"], domain="com.example"), node("MatMul", ["x", "w"], ["y"])]
    path = save(tmp_path / "net.onnx", nodes, {"x": (2, side)}, {"y": 2}, {}, domains=["com.example"])
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [side, side]))
    onnx.save(model, path)
    network = find_tasks(read_graph(path, {}))
    assert network.tasks[0].key == f"matmul:m=2,n={side},k={side},b=variable,epilogue=none"
    assert [refusal.op_type for refusal in network.unsupported] == ["com.example.Noise"]


def test_random_numbers_are_not_constant(tmp_path: Path) -> None:
    nodes = [node("RandomNormal", [], ["w"], shape=[4, 3]), node("MatMul", ["x", "w"], ["y"])]
    graph = read_graph(save(tmp_path / "net.onnx", nodes, {"x": (2, 4)}, {"y": 2}, {}), {})
    assert "w" not in graph.constants
    assert find_tasks(graph).tasks[0].key == "matmul:m=2,n=3,k=4,b=variable,epilogue=none"


def test_a_shape_that_depends_on_values_stays_unknown(tmp_path: Path) -> None:
    nodes = [node("NonZero", ["x"], ["where"]), node("Cast", ["where"], ["a"], to=TensorProto.FLOAT), node("MatMul", ["a", "w"], ["y"])]
    nodes += [node("MatMul", ["x", "v"], ["z"])]
    path = save(tmp_path / "net.onnx", nodes, {"x": (2, 4)}, {"y": 2, "z": 2}, {"w": np.ones((3, 3), np.float32), "v": np.ones((4, 4), np.float32)})
    graph = read_graph(path, {})
    with pytest.raises(Unsupported, match=r"the shape of 'a' is not known"):
        graph.shape("a")
    (refusal,) = find_tasks(graph).unsupported
    assert (refusal.op_type, refusal.reason) == ("MatMul", "the shape of 'a' is not known")


def test_constants_whose_shapes_follow_from_values(tmp_path: Path) -> None:
    """As older exporters wrote `arange`."""
    nodes = [
        node("ConstantOfShape", ["n"], ["ones"], value=helper.make_tensor("one", TensorProto.INT64, [1], [1])), node("NonZero", ["ones"], ["places"]),
        node("Transpose", ["places"], ["column"]), node("Squeeze", ["column", "last"], ["indices"]), node("Gather", ["table", "indices"], ["rows"]),
        node("Add", ["x", "rows"], ["sum"]), node("MatMul", ["sum", "w"], ["y"]),
    ]  # fmt: skip
    constants = {"n": np.array([3]), "last": np.array([1]), "table": np.arange(20, dtype=np.float32).reshape(5, 4), "w": np.ones((4, 2), np.float32)}
    graph = read_graph(save(tmp_path / "net.onnx", nodes, {"x": (3, 4)}, {"y": 2}, constants), {})
    np.testing.assert_array_equal(graph.constants.value("rows"), np.arange(12).reshape(3, 4))
    assert [task.key for task in find_tasks(graph).tasks] == ["matmul:m=3,n=2,k=4,b=constant,epilogue=none"]


def test_an_evaluation_that_fails_leaves_the_node_in_the_network(tmp_path: Path) -> None:
    """A Gather out of range: the network is broken there, but not elsewhere."""
    nodes = [
        constant("index", 7), constant("table", [1.0, 2.0]), node("Gather", ["table", "index"], ["bad"]), node("MatMul", ["x", "w"], ["y"]),
        node("Cast", ["bad"], ["bound"], to=TensorProto.FLOAT), node("Max", ["y", "bound"], ["z"]),
    ]  # fmt: skip
    graph = read_graph(save(tmp_path / "net.onnx", nodes, {"x": (2, 4)}, {"z": 2}, {"w": np.ones((4, 3), np.float32)}), {})
    assert "bad" not in graph.constants
    assert len(find_tasks(graph).tasks) == 1


def test_a_constant_that_cannot_be_computed_says_so(tmp_path: Path) -> None:
    nodes = [node("Gather", ["table", "index"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    constants = {"table": np.ones((3, 100), np.float32), "index": np.full(SMALL, 9)}
    graph = read_graph(save(tmp_path / "net.onnx", nodes, {"x": (2, SMALL)}, {"y": 2}, constants), {})
    with pytest.raises(Unsupported, match=r"constant 'w' cannot be computed by Gather: .*out of bounds"):
        graph.constants.value("w")
