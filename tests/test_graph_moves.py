"""Nodes that only move data, as tasks: against onnx's reference evaluator, and what is no task."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_models import reference, run_layer, save
from onnx import TensorProto, helper

from graph.model import read_graph
from graph.network import Network, find_tasks, read_network
from ir.errors import UserError

node = helper.make_node
MATRIX = np.ones((4, 4), np.float32)


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def moved(tmp_path: Path, nodes: list[Any], rank: int, constants: dict[str, Any], opset: int = 17) -> Network:
    """The network of nodes from x (2, 3, 4, 5) to y; all of its layers give what its nodes give."""
    path = save(tmp_path / "net.onnx", nodes, {"x": (2, 3, 4, 5)}, {"y": rank}, constants, opset=opset)
    graph = read_graph(path, {})
    network = find_tasks(graph)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    tensors = reference(path, {"x": x}, [name for layer in network.layers for name in (*layer.inputs.values(), layer.output)])
    for layer in network.layers:
        assert np.array_equal(run_layer(graph, layer, tensors), tensors[layer.output])
    return network


@pytest.mark.parametrize(
    ("text", "made", "constants"),
    [
        ("transpose:shape=2x3x4x5,axes=0x2x3x1", node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1]), {}),
        ("transpose:shape=2x3x4x5,axes=3x2x1x0", node("Transpose", ["x"], ["y"]), {}),
        (
            "pad:shape=2x3x4x5,before=0x0x1x2,after=0x0x0x3,mode=constant,value=-inf",
            node("Pad", ["x", "pads", "value"], ["y"]),
            {"pads": whole(0, 0, 1, 2, 0, 0, 0, 3), "value": np.float32(-np.inf)},
        ),
        (
            "pad:shape=2x3x4x5,before=0x0x1x2,after=0x0x0x3,mode=edge,value=0",
            node("Pad", ["x", "pads"], ["y"], mode="edge"),
            {"pads": whole(0, 0, 1, 2, 0, 0, 0, 3)},
        ),
        (
            "pad:shape=2x3x4x5,before=0x0x1x2,after=0x0x0x3,mode=reflect,value=0",
            node("Pad", ["x", "pads"], ["y"], mode="reflect"),
            {"pads": whole(0, 0, 1, 2, 0, 0, 0, 3)},
        ),
        (
            "slice:shape=2x3x4x5,starts=0x0x1x4,stops=2x3x4x-6,steps=1x1x2x-1",
            node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"]),
            {"starts": whole(1, -1), "ends": whole(2**62, -(2**62)), "axes": whole(2, -1), "steps": whole(2, -1)},
        ),
        (
            "pad:shape=2x3x4x5,before=0x0x1x2,after=0x0x0x3,mode=constant,value=0",
            node("Pad", ["x", "pads", "", "axes"], ["y"]),
            {"pads": whole(1, 2, 0, 3), "axes": whole(-2, 3)},
        ),
        ("concat:shapes=2x3x4x5.2x1x4x5.2x3x4x5,axis=1", node("Concat", ["x", "c", "x"], ["y"], axis=-3), {"c": np.ones((2, 1, 4, 5), np.float32)}),
    ],
)
def test_a_moving_node_is_a_task(tmp_path: Path, text: str, made: Any, constants: dict[str, Any]) -> None:
    assert [task.key for task in moved(tmp_path, [made], 4, constants, opset=18).tasks] == [text]


def test_a_slice_backwards_from_before_the_first_element(tmp_path: Path) -> None:
    """Begins there, by ONNX's specification and its shape inference; its reference evaluator has nothing left, as Python has."""
    made = node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"])
    constants = {"starts": whole(-100), "ends": whole(-200), "axes": whole(1), "steps": whole(-1)}
    path = save(tmp_path / "net.onnx", [made], {"x": (4, 5)}, {"y": 2}, constants)
    assert [task.key for task in read_network(path, {}).tasks] == ["slice:shape=4x5,starts=0x0,stops=4x-6,steps=1x-1"]


def test_older_sets_of_operators_have_attributes(tmp_path: Path) -> None:
    made = node("Slice", ["x"], ["y"], starts=[1, -2], ends=[2, 9], axes=[0, 3])
    assert moved(tmp_path, [made], 4, {}, opset=9).tasks[0].key == "slice:shape=2x3x4x5,starts=1x0x0x3,stops=2x3x4x5,steps=1x1x1x1"
    path = save(tmp_path / "pad.onnx", [node("Pad", ["x"], ["y"], pads=[1, 0, 0, 2], value=-1.0)], {"x": (4, 4)}, {"y": 2}, {}, opset=9)
    assert read_network(path, {}).tasks[0].key == "pad:shape=4x4,before=1x0,after=0x2,mode=constant,value=-1"


def test_what_moves_nothing_is_no_task(tmp_path: Path) -> None:
    """Dimensions of one change places, computations on shapes, what is added or cut nowhere, and constants."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("Pad", ["t", "pads"], ["p"]),
        node("Slice", ["p", "start", "stop"], ["s"]),
        node("Pad", ["s", "none", "", "none"], ["d"]),
        node("Slice", ["s", "none", "none", "none", "none"], ["e"]),
        node("Concat", ["e"], ["a"], axis=0),
        node("Transpose", ["w"], ["v"]),
        node("MatMul", ["a", "v"], ["y"]),
        node("NonZero", ["x"], ["places"]),
        node("Shape", ["places"], ["size"]),
        node("Slice", ["size", "one", "two"], ["n"]),
        node("Concat", ["n", "one"], ["wanted"], axis=0),
    ]
    constants = {"pads": whole(*[0] * 6), "start": whole(0), "stop": whole(9), "none": whole(), "w": MATRIX, "one": whole(1), "two": whole(2)}
    path = save(tmp_path / "net.onnx", nodes, {"x": (1, 3, 4)}, {"y": 3, "d": 3, "wanted": 1}, constants, opset=18, types={"wanted": TensorProto.INT64})
    network = read_network(path, {})
    assert [task.key for task in network.tasks] == ["matmul:m=3,n=4,k=4,b=constant,epilogue=none"]
    assert network.unsupported == ()


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (node("Transpose", ["h"], ["y"], name="bad"), "'h' is float16, only float (fp32) can be tuned"),
        (node("Pad", ["x", "pads"], ["y"], name="bad"), "pads=1x0x0x-1 cut the tensor"),
        (node("Pad", ["x", "shift"], ["y"], name="bad"), "pads=0x1x0x-1 cut the tensor"),
        (node("Pad", ["x", "given"], ["y"], name="bad"), "'given' is not constant"),
        (node("Slice", ["x", "some", "some"], ["y"], name="bad"), "'some' is not constant"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, made: Any, reason: str) -> None:
    nodes = [made, node("MatMul", ["x", "w"], ["z"])]
    inputs, types = {"x": (4, 4), "h": (4, 4), "given": (4,), "some": (1,)}, {"h": TensorProto.FLOAT16, "given": TensorProto.INT64, "some": TensorProto.INT64}
    types |= {"y": TensorProto.FLOAT16} if made.op_type == "Transpose" else {}
    path = save(tmp_path / "net.onnx", nodes, inputs, {"y": 2, "z": 2}, {"w": MATRIX, "pads": whole(1, 0, 0, -1), "shift": whole(0, 1, 0, -1)}, types=types)
    assert [(refusal.node, refusal.reason) for refusal in read_network(path, {}).unsupported] == [("bad", reason)]


@pytest.mark.parametrize("axes", [[-7], [5, 0]])
def test_axes_that_a_slice_cannot_have(tmp_path: Path, axes: list[int]) -> None:
    """Onnx's shape inference lets them pass in older sets of operators."""
    made = node("Slice", ["x"], ["y"], starts=[1] * len(axes), ends=[3] * len(axes), axes=axes)
    path = save(tmp_path / "net.onnx", [made], {"x": (4, 5, 6)}, {"y": 3}, {}, opset=9)
    with pytest.raises(UserError, match=rf"1 × Slice: axis={axes[0]} of a tensor of 3 dimensions"):
        read_network(path, {})


def test_a_mode_of_padding_that_is_not_supported_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [node("Pad", ["x", "pads"], ["y"], mode="wrap")], {"x": (4, 4)}, {"y": 2}, {"pads": whole(1, 0, 0, 1)}, opset=19)
    with pytest.raises(UserError, match="Pad: mode=wrap, only constant, edge, reflect can be tuned"):
        read_network(path, {})
