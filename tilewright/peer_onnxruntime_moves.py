"""Moving data as ONNX nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.peer_onnxruntime_nodes import Written, node
from tilewright.problem import Problem
from tilewright.repacking import repacking


def _transpose(problem: Problem) -> Written:
    return [node("Transpose", ["x"], perm=list(problem.parameters["axes"]))], {}


def _pad(problem: Problem) -> Written:
    given = problem.parameters
    inputs = ["x", "pads", "value"] if given["mode"] == "constant" else ["x", "pads"]
    numbers: dict[str, NDArray[Any]] = {"pads": _numbers([*given["before"], *given["after"]]), "value": np.array(given["value"], np.float32)}
    return [node("Pad", inputs, mode=given["mode"])], {name: numbers[name] for name in inputs[1:]}


def _slice(problem: Problem) -> Written:
    given = problem.parameters
    numbers = {name: _numbers(given[name]) for name in ("starts", "stops", "steps")}
    numbers["axes"] = _numbers(range(len(given["steps"])))
    return [node("Slice", ["x", "starts", "stops", "axes", "steps"])], numbers


def _concat(problem: Problem) -> Written:
    return [node("Concat", list(problem.arrays), axis=problem.parameters["axis"])], {}


def _pack(problem: Problem) -> Written:
    how, nodes, numbers, x = repacking(problem), [], dict[str, NDArray[Any]](), "x"
    shape = problem.arrays["x"].shape
    if how.n_more:
        numbers["pads"] = _numbers([0] * (4 + how.channels) + [how.n_more] + [0] * (3 - how.channels))
        nodes.append(node("Pad", [x, "pads"]))
        x = nodes[-1].output[0]
    if how.split != shape:
        numbers["split"] = _numbers(how.split)
        nodes.append(node("Reshape", [x, "split"]))
        x = nodes[-1].output[0]
    nodes.append(node("Transpose", [x], perm=list(how.axes)))
    if how.joined != tuple(how.split[place] for place in how.axes):
        numbers["joined"] = _numbers(how.joined)
        nodes.append(node("Reshape", [nodes[-1].output[0], "joined"]))
    if how.n_kept:
        numbers |= {"start": _numbers([0]), "stop": _numbers([how.n_kept]), "channels": _numbers([how.channels])}
        nodes.append(node("Slice", [nodes[-1].output[0], "start", "stop", "channels"]))
    return nodes, numbers


def _numbers(numbers: Iterable[int]) -> NDArray[np.int64]:
    return np.array(list(numbers), np.int64)


MOVES = {
    "transpose": {"Transpose": _transpose},
    "pad": {"Pad": _pad},
    "slice": {"Slice": _slice},
    "concat": {"Concat": _concat},
    "pack": {"Transpose": _pack},
}
