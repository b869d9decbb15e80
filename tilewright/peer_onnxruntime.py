"""ONNX Runtime on a model of one operator with its prologue and epilogue, so that it can fuse and pack as it likes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from codegen.protocol import first_line
from ir.errors import Unsupported
from ir.program import CASTS, Apply, Constant, Read, Value
from ir.prologue import CONSTANTS
from ir.types import type_of
from tilewright.peer_onnxruntime_moves import MOVES
from tilewright.peer_onnxruntime_nodes import MICROSOFT, NEWER, NODES
from tilewright.problem import Problem, Way, clip_limits, leaky_slope
from tilewright.turns import Contender

# What every ONNX Runtime that the extra allows can read, and from when on it computes what is newer.
OPSET, IR_VERSION = 17, 8
NEWER_FROM, NEWER_IR_VERSION = (1, 23), 10

# Nodes that express an operator; the first one of a chain that ends with what is named here.
HEAVY = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "capsule_conv2d"), ("Conv",)),
    "conv_transpose2d": ("ConvTranspose",),
    "matmul": ("MatMul", "Gemm"),
    "batch_matmul": ("MatMul",),
}
WRITTEN = {**NODES, **MOVES}  # by operator, the ways to write it
REDUCE = {"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin", "prod": "ReduceProd", "l2": "ReduceL2"}
HEAVY_INPUTS = {name: ["x", "weights"] for name in ("Conv", "ConvTranspose")}
STEPS = {
    **{"bias": ("Add", ["bias"]), "add": ("Add", ["residual"])},
    **{name: (kind, []) for name, kind in (("relu", "Relu"), ("sigmoid", "Sigmoid"), ("tanh", "Tanh"), ("hardswish", "HardSwish"))},
}  # of an epilogue: those that are one node without attributes
STEPS_BEFORE = STEPS | {"scale": ("Mul", [CONSTANTS["scale"]]), "bias": ("Add", [CONSTANTS["bias"]])}  # of a prologue

FUNCTIONS = {
    **{name: name.capitalize() for name in ("add", "sub", "mul", "div", "max", "min", "pow", "less", "equal")},
    **{name: name.capitalize() for name in ("abs", "sqrt", "exp", "log", "tanh", "erf", "sigmoid")},
    "select": "Where",
}  # of `ir.program`
LOGICAL = {"max": "Or", "min": "And"}  # those of bools

Call: TypeAlias = Callable[[], object]
Result: TypeAlias = Callable[[], NDArray[Any]]


def onnxruntime_ways(problem: Problem) -> list[Way]:
    """Each node that expresses the task, with and without the memory arena, called in two ways: with inputs and output bound beforehand,
    and with inputs passed and the output allocated in each call. The latter can be the faster one where the output is large (10 % for a
    depthwise convolution of 112x112): places in memory differ. A node that this ONNX Runtime has not got is a way that says so when it is asked;
    `Unsupported` where it has none of them."""
    ways, refused = list[Way](), list[Way]()
    for heavy in _heavy(problem):
        try:
            ways += _ways_by(problem, heavy)
        except Unsupported as error:
            refused.append(_refused(heavy, error))
    if not ways:
        refused[0].answer()
    return [*ways, *refused]


def _ways_by(problem: Problem, heavy: str) -> list[Way]:
    ways, model = [], make_model(problem, heavy)
    for arena in (True, False):
        session = _session(model, problem.threads, arena)
        for how, (run, result) in {"bound": _bound(session, problem), "passed": _passed(session, problem)}.items():
            setting = f"{heavy}, {how}, {'arena' if arena else 'no arena'}"
            ways.append(Way(Contender("onnxruntime", setting, run), partial(_answer, problem, result)))
    return ways


def _refused(heavy: str, error: Unsupported) -> Way:
    def answer() -> NDArray[Any]:
        raise error

    return Way(Contender("onnxruntime", heavy, answer), answer)


def _answer(problem: Problem, result: Result) -> NDArray[Any]:
    return problem.ours(result())


def _session(model: bytes, threads: int, arena: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except (NoKernel, InvalidGraph) as error:  # for a type of elements, and in ONNX itself
        raise Unsupported(f"onnxruntime: {first_line(str(error))}") from None


def _bound(session: Any, problem: Problem) -> tuple[Call, Result]:
    binding = session.io_binding()
    for name, array in problem.variables.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(_shape(problem), np.dtype(problem.task.program.output.dtype))
    binding.bind_ortvalue_output("result", output)
    run = partial(session.run_with_iobinding, binding)

    def result() -> NDArray[Any]:
        run()
        return np.asarray(output.numpy())

    return run, result


def _shape(problem: Problem) -> tuple[int, ...]:
    """Of the result; a pooled image has dimensions of 1."""
    return (*problem.shape, 1, 1) if problem.operator.startswith("global_") else problem.shape


def _passed(session: Any, problem: Problem) -> tuple[Call, Result]:
    run = partial(session.run, None, dict(problem.variables))
    return run, lambda: np.asarray(run()[0])


def _heavy(problem: Problem) -> tuple[str, ...]:
    if problem.operator == "reduce":
        return (REDUCE[problem.parameters["function"]],)
    if problem.operator in WRITTEN:
        knows = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= NEWER_FROM
        return tuple(name for name in WRITTEN[problem.operator] if knows or name not in NEWER)
    if problem.operator == "elementwise":
        return ("elementwise",)
    if problem.operator != "einsum":
        return HEAVY[problem.operator]
    product = problem.product
    single = {len(product.rows), len(product.columns), len(product.inner)} == {1}
    return ("Einsum", "MatMul") if single and product.is_matrix_product else ("Einsum",)


def make_model(problem: Problem, heavy: str) -> bytes:
    """The task as a serialized model in which `heavy` does the work. Constants are initializers; the output is called "result"."""
    constants: dict[str, NDArray[Any]] = {name: array for name, array in problem.arrays.items() if name not in problem.variables}
    nodes, more = WRITTEN[problem.operator][heavy](problem) if problem.operator in WRITTEN else _with_steps(problem, heavy, constants)
    nodes[-1].output[0] = "result"
    graph = helper.make_graph(
        nodes,
        "task",
        [helper.make_tensor_value_info(name, _onnx_type(str(array.dtype)), array.shape) for name, array in problem.variables.items()],
        [helper.make_tensor_value_info("result", _onnx_type(problem.task.program.output.dtype), _shape(problem))],
        [numpy_helper.from_array(array, name) for name, array in (constants | more).items()],
    )
    opsets = [helper.make_opsetid("", NEWER.get(heavy, OPSET)), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=NEWER_IR_VERSION if heavy in NEWER else IR_VERSION)
    return bytes(model.SerializeToString())


def _with_steps(problem: Problem, heavy: str, constants: Mapping[str, NDArray[Any]]) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    """The nodes, and constants that they need besides those of the task or instead."""
    more: dict[str, NDArray[Any]] = {}
    inputs, steps = list(HEAVY_INPUTS.get(heavy, ["x"] if problem.operator == "reduce" else ["a", "b"])), problem.epilogue
    before, inputs[0] = _chain(problem.prologue, inputs[0], "before", STEPS_BEFORE, more)
    if heavy in ("Conv", "ConvTranspose"):
        more |= {name: constants[name].reshape(-1, *[1] * problem.rank) for name in ("bias", *CONSTANTS.values()) if name in constants}
    if problem.bias_first and heavy in ("Conv", "ConvTranspose", "Gemm"):
        inputs, steps = [*inputs, "bias"], steps[1:]
        more.pop("bias", None)
    if heavy == "elementwise":
        nodes, found = _elementwise(problem.chain)
        more |= found
    else:
        nodes = [helper.make_node(heavy, inputs, ["value"], **_attributes(problem, heavy))]
    if heavy == "ReduceSum":  # which takes its axes as an input
        more["axes"] = np.array(problem.parameters["axes"], np.int64)
        nodes[0].input.append("axes")
    if problem.operator == "einsum" and heavy == "MatMul":
        nodes = _transposed_product(problem, inputs[0])
    after, _ = _chain(steps, "value", "after", STEPS, more)
    return [*before, *nodes, *after], more


def _chain(
    steps: Sequence[str], x: str, name: str, single: Mapping[str, tuple[str, list[str]]], constants: dict[str, NDArray[Any]]
) -> tuple[list[Any], str]:  # fmt: skip
    """The nodes of steps that begin with tensor `x`, and the tensor that they end with; what they need is added to the constants."""
    nodes: list[Any] = []
    for number, step in enumerate(steps):
        y = f"{name}{number}"
        made, numbers = _step(step, x, y, single)
        nodes += made
        constants |= {each: np.array(value, np.float32) for each, value in numbers.items()}
        x = y
    return nodes, x


def _step(step: str, x: str, y: str, single: Mapping[str, tuple[str, list[str]]]) -> tuple[list[Any], dict[str, float]]:
    """Nodes from tensor `x` to tensor `y`, and the constants that they read. ONNX Runtime knows the two chains, and has one kernel for each."""
    node = helper.make_node
    if step in single:
        kind, others = single[step]
        return [node(kind, [x, *others], [y])], {}
    if step == "silu":
        return [node("Sigmoid", [x], [f"{y}_sigmoid"]), node("Mul", [x, f"{y}_sigmoid"], [y])], {}
    if step == "gelu":
        nodes = [
            node("Div", [x, f"{y}_root"], [f"{y}_scaled"]),
            node("Erf", [f"{y}_scaled"], [f"{y}_erf"]),
            node("Add", [f"{y}_erf", f"{y}_one"], [f"{y}_sum"]),
            node("Mul", [x, f"{y}_sum"], [f"{y}_product"]),
            node("Mul", [f"{y}_product", f"{y}_half"], [y]),
        ]
        return nodes, {f"{y}_root": math.sqrt(2), f"{y}_one": 1.0, f"{y}_half": 0.5}
    slope = leaky_slope(step)
    if slope is not None:
        return [node("LeakyRelu", [x], [y], alpha=slope)], {}
    low, high = clip_limits(step)
    return [node("Clip", [x, f"{y}_low", f"{y}_high"], [y])], {f"{y}_low": low, f"{y}_high": high}


def _elementwise(value: Value) -> tuple[list[Any], dict[str, NDArray[Any]]]:
    """The nodes of a chain, one a function and casts from and to the bools of conditions and comparisons, and its constants."""
    nodes: list[Any] = []
    constants: dict[str, NDArray[Any]] = {}

    def node(kind: str, inputs: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"result{len(nodes)}"], **attributes))
        return f"result{len(nodes) - 1}"

    def name_of(value: Value) -> str:
        match value:
            case Read(tensor):
                return tensor.name
            case Constant(number, dtype):
                name = f"constant{len(constants)}"
                constants[name] = np.array(number, dtype)
                return name
            case Apply("exp2", (exponent,)):  # ONNX has powers of any base alone
                return name_of(Apply("pow", (Constant(2.0), exponent)))
            case Apply(function, args):
                names = [name_of(arg) for arg in args]
                if function in CASTS:
                    return node("Cast", names, to=_onnx_type(CASTS[function]))
                if function == "select":
                    names[0] = node("Cast", names[:1], to=TensorProto.BOOL)
                kinds = FUNCTIONS | (LOGICAL if type_of(value) == "bool" else {})
                result = node(kinds[function], names)
                return node("Cast", [result], to=_onnx_type(type_of(value))) if function in ("less", "equal") else result
        raise TypeError(f"not a value: {value!r}")

    name_of(value)
    return nodes, constants


def _onnx_type(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _transposed_product(problem: Problem, a: str) -> list[Any]:
    first, second, last = problem.product.orders
    return [
        helper.make_node("Transpose", [a], ["left"], perm=first),
        helper.make_node("Transpose", ["b"], ["right"], perm=second),
        helper.make_node("MatMul", ["left", "right"], ["product"]),
        helper.make_node("Transpose", ["product"], ["value"], perm=last),
    ]


def _attributes(problem: Problem, heavy: str) -> dict[str, Any]:
    given = problem.parameters
    if problem.is_convolution:
        found = {"strides": given["stride"], "pads": given["pad"], "dilations": problem.dilation, "group": problem.groups}
        return found | ({"output_padding": given["output_pad"]} if heavy == "ConvTranspose" else {})
    if heavy == "Einsum":
        return {"equation": problem.product.text}
    if problem.operator == "reduce":
        return {"keepdims": 0} | ({} if heavy == "ReduceSum" else {"axes": given["axes"]})
    return {}
