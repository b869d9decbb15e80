"""Softmax, normalization, attention and pooling as ONNX nodes: for each operator the ways to write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from tilewright.problem import Problem

# The nodes, the last of which gives the result, and the constants that they need besides those of the task.
Written: TypeAlias = tuple[list[Any], dict[str, NDArray[Any]]]

NEWER = {"Attention": 23, "RMSNormalization": 23}  # the ways that need a newer set of operators than the others
MICROSOFT = "com.microsoft"


def node(kind: str, inputs: list[str], **attributes: Any) -> Any:
    """Its output is named by what it is and what it reads."""
    return helper.make_node(kind, inputs, [f"{kind} of {', '.join(inputs)}"], **attributes)


def _single(kind: str, inputs: list[str], attributes: Callable[[Problem], dict[str, Any]]) -> Mapping[str, Callable[[Problem], Written]]:
    return {kind: lambda problem: ([node(kind, inputs, **attributes(problem))], {})}


def _axis(problem: Problem) -> dict[str, Any]:
    return {"axis": problem.parameters["axis"]}


def _epsilon(problem: Problem) -> dict[str, Any]:
    return {"epsilon": problem.parameters["epsilon"]}


def _last_axes(problem: Problem) -> dict[str, Any]:
    return {"axis": problem.parameters["axes"][0], **_epsilon(problem)}


def _window(problem: Problem) -> dict[str, Any]:
    given = problem.parameters
    found = {"kernel_shape": problem.kernel, "strides": given["stride"], "pads": given["pad"]}
    return found | ({"count_include_pad": int(given["count_include_pad"])} if "count_include_pad" in given else {"dilations": given["dilation"]})


def _nothing(problem: Problem) -> dict[str, Any]:
    return {}


def _root_mean_square(problem: Problem) -> Written:
    """Step by step, which ONNX Runtime recognizes."""
    nodes = [node("Pow", ["x", "two"])]
    nodes.append(node("ReduceMean", [nodes[-1].output[0]], axes=problem.parameters["axes"]))
    nodes.append(node("Add", [nodes[-1].output[0], "epsilon"]))
    nodes.append(node("Sqrt", [nodes[-1].output[0]]))
    nodes.append(node("Div", ["x", nodes[-1].output[0]]))
    nodes.append(node("Mul", [nodes[-1].output[0], "scale"]))
    return nodes, {"two": np.array(2, np.float32), "epsilon": np.array(problem.parameters["epsilon"], np.float32)}


# --- attention ------------------------------------------------------------------------------------------------------


def _two_products(problem: Problem) -> Written:
    first = problem.parameters["layout"] == "bhid"
    moved = {"k": node("Transpose", ["k"], perm=(0, 1, 3, 2) if first else (0, 2, 3, 1))}
    if not first:
        moved |= {name: node("Transpose", [name], perm=(0, 2, 1, 3)) for name in "qv"}
    q, k, v = (moved[name].output[0] if name in moved else name for name in "qkv")
    nodes = [*moved.values(), node("MatMul", [q, k])]
    nodes.append(node("Mul", [nodes[-1].output[0], "factor"]))
    nodes.append(node("Softmax", [nodes[-1].output[0]], axis=-1))
    nodes.append(node("MatMul", [nodes[-1].output[0], v]))
    if not first:
        nodes.append(node("Transpose", [nodes[-1].output[0]], perm=(0, 2, 1, 3)))
    return nodes, {"factor": np.array(problem.attention_scale, np.float32)}


def _attention(problem: Problem) -> Written:
    """It takes the heads as a dimension, or side by side in the last one."""
    if problem.parameters["layout"] == "bhid":
        return [node("Attention", ["q", "k", "v"], scale=problem.attention_scale)], {}
    heads = problem.parameters["heads"]
    nodes = [node("Reshape", [name, "flat"]) for name in "qkv"]
    names = [node.output[0] for node in nodes]
    nodes.append(node("Attention", names, scale=problem.attention_scale, q_num_heads=heads, kv_num_heads=heads))
    nodes.append(node("Reshape", [nodes[-1].output[0], "whole"]))
    return nodes, {"flat": np.array([0, 0, -1]), "whole": np.array(problem.shape)}


def _multi_head_attention(problem: Problem) -> Written:
    """Microsoft's own, which wants the queries' heads side by side."""
    first = problem.parameters["layout"] == "bhid"
    nodes = [node("Transpose", ["q"], perm=(0, 2, 1, 3))] if first else []
    nodes.append(node("Reshape", [nodes[-1].output[0] if nodes else "q", "flat"]))
    names = [nodes[-1].output[0], "k", "v"]
    if not first:
        nodes += [node("Reshape", [name, "flat"]) for name in "kv"]
        names = [node.output[0] for node in nodes]
    attributes = {"domain": MICROSOFT, "num_heads": problem.parameters["heads"], "scale": problem.attention_scale}
    nodes.append(node("MultiHeadAttention", names, **attributes))
    nodes.append(node("Reshape", [nodes[-1].output[0], "whole"]))
    b, i, h, d = (problem.shape[at] for at in ((0, 2, 1, 3) if first else range(4)))
    if first:
        nodes.append(node("Transpose", [nodes[-1].output[0]], perm=(0, 2, 1, 3)))
    return nodes, {"flat": np.array([0, 0, -1]), "whole": np.array([b, i, h, d])}


NODES: Mapping[str, Mapping[str, Callable[[Problem], Written]]] = {
    "softmax": _single("Softmax", ["x"], _axis),
    "log_softmax": _single("LogSoftmax", ["x"], _axis),
    "layer_norm": _single("LayerNormalization", ["x", "scale", "bias"], _last_axes),
    "rms_norm": {**_single("RMSNormalization", ["x", "scale"], _last_axes), "ReduceMean": _root_mean_square},
    "batch_norm": _single("BatchNormalization", ["x", "scale", "bias", "mean", "variance"], _epsilon),
    "instance_norm": _single("InstanceNormalization", ["x", "scale", "bias"], _epsilon),
    "max_pool2d": _single("MaxPool", ["x"], _window),
    "average_pool2d": _single("AveragePool", ["x"], _window),
    "global_max_pool": _single("GlobalMaxPool", ["x"], _nothing),
    "global_average_pool": _single("GlobalAveragePool", ["x"], _nothing),
    "attention": {"Attention": _attention, "MatMul": _two_products, "MultiHeadAttention": _multi_head_attention},
}
