"""What is constant in a network, and what static shapes follow from it."""

from pathlib import Path
from typing import Any

import numpy as np
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
