"""ONNX Runtime on a model of one operator and its epilogue, so that it can fuse and pack as it likes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tilewright.problem import Problem, Way, clip_limits
from tilewright.turns import Contender

# What every ONNX Runtime that the extra allows can read.
OPSET = 17
IR_VERSION = 8

HEAVY = {"conv2d": ("Conv",), "matmul": ("MatMul", "Gemm"), "batch_matmul": ("MatMul",)}  # nodes that express an operator
HEAVY_INPUTS = {"Conv": ["x", "weights"], "MatMul": ["a", "b"], "Gemm": ["a", "b"]}
STEPS = {"bias": ("Add", ["bias"]), "add": ("Add", ["residual"]), "relu": ("Relu", []), "sigmoid": ("Sigmoid", [])}  # of an epilogue; others are clips

Call: TypeAlias = Callable[[], object]
Result: TypeAlias = Callable[[], NDArray[Any]]


def onnxruntime_ways(problem: Problem) -> list[Way]:
    """Each node that expresses the task, with and without the memory arena, called in two ways: with inputs and output bound beforehand,
    and with inputs passed and the output allocated in each call. The latter can be the faster one where the output is large (10 % for a
    depthwise convolution of 112x112): places in memory differ."""
    ways = []
    for heavy in HEAVY[problem.operator]:
        model = make_model(problem, heavy)
        for arena in (True, False):
            session = _session(model, problem.threads, arena)
            for how, (run, result) in {"bound": _bound(session, problem), "passed": _passed(session, problem)}.items():
                setting = f"{heavy}, {how}, {'arena' if arena else 'no arena'}"
                ways.append(Way(Contender("onnxruntime", setting, run), partial(_answer, problem, result)))
    return ways


def _answer(problem: Problem, result: Result) -> NDArray[Any]:
    return problem.ours(result())


def _session(model: bytes, threads: int, arena: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _bound(session: Any, problem: Problem) -> tuple[Call, Result]:
    binding = session.io_binding()
    for name, array in problem.variables.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(problem.shape, np.float32)
    binding.bind_ortvalue_output("result", output)
    run = partial(session.run_with_iobinding, binding)

    def result() -> NDArray[Any]:
        run()
        return np.asarray(output.numpy())

    return run, result


def _passed(session: Any, problem: Problem) -> tuple[Call, Result]:
    run = partial(session.run, None, dict(problem.variables))
    return run, lambda: np.asarray(run()[0])


def make_model(problem: Problem, heavy: str) -> bytes:
    """The task as a serialized model whose first node is `heavy`. Constants are initializers; the output is called "result"."""
    constants = {name: array for name, array in problem.arrays.items() if name not in problem.variables}
    inputs, steps = HEAVY_INPUTS[heavy], problem.epilogue
    if problem.bias_first and heavy != "MatMul":
        inputs, steps = [*inputs, "bias"], steps[1:]
    elif heavy == "Conv" and "bias" in constants:
        constants["bias"] = constants["bias"].reshape(-1, 1, 1)
    nodes = [helper.make_node(heavy, inputs, ["value0"], **_attributes(problem))]
    for i, step in enumerate(steps):
        kind, others = STEPS.get(step) or ("Clip", [f"low{i}", f"high{i}"])
        if kind == "Clip":
            constants |= {name: np.array(limit, np.float32) for name, limit in zip(others, clip_limits(step), strict=True)}
        nodes.append(helper.make_node(kind, [f"value{i}", *others], [f"value{i + 1}"]))
    nodes[-1].output[0] = "result"
    graph = helper.make_graph(
        nodes,
        "task",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in problem.variables.items()],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, problem.shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def _attributes(problem: Problem) -> dict[str, Any]:
    if problem.operator != "conv2d":
        return {}
    given = problem.parameters
    return {"strides": given["stride"], "pads": given["pad"], "dilations": given["dilation"], "group": given["groups"]}
