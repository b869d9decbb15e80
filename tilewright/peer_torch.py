"""PyTorch on the CPU: eager operators in both memory formats, and oneDNN's own ("opaque") tensors with weights packed beforehand.

Left out, because they were never the fastest where it was measured: TorchScript (`torch.jit.optimize_for_inference` converts to oneDNN's layout
and back in each call), and packed weights with activations that are not opaque. `torch.compile` needs a C++ compiler on the machine.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from operator import methodcaller
from typing import Any

import torch
import torch.nn.functional as F  # the name that everybody knows it by
from numpy.typing import NDArray

from ir.program import CASTS, Apply, Constant, Read, Value
from ir.prologue import CONSTANTS
from tilewright.peer_torch_moves import MOVES
from tilewright.peer_torch_pools import POOLS
from tilewright.peer_torch_rows import ROWS, Call, Tensors, can_be_opaque
from tilewright.problem import Problem, Way, clip_limits, leaky_slope
from tilewright.turns import Contender

with warnings.catch_warnings():  # it is written with TorchScript, which PyTorch no longer recommends
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.utils import mkldnn

OPAQUE_STEPS = {"relu", "sigmoid", "add"}  # of an epilogue: what opaque tensors can do


def torch_ways(problem: Problem) -> list[Way]:
    """Every way to compute the task. Sets the number of PyTorch's threads for the whole process."""
    torch.set_num_threads(problem.threads)
    make = _convolutions if problem.is_convolution else MAKERS[problem.operator]
    with torch.inference_mode():
        calls = make(problem, {name: torch.from_numpy(array) for name, array in problem.arrays.items()})
    return [Way(Contender("torch", setting, call, torch.inference_mode), partial(_answer, problem, call)) for setting, call in calls.items()]


def _answer(problem: Problem, call: Call) -> NDArray[Any]:
    with torch.inference_mode():
        result = call()
        array: NDArray[Any] = (result.to_dense() if result.is_mkldnn else result).numpy()
    return problem.ours(array)


def _convolutions(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    given, rank, transposed = problem.parameters, problem.rank, problem.operator == "conv_transpose2d"
    before, after = problem.pads
    symmetric = before == after
    options = {"stride": given["stride"], "dilation": problem.dilation, "groups": problem.groups, "padding": before if symmetric else 0}
    bias, steps = _fused_bias(problem, tensors)
    if transposed:
        return _transposed_convolutions(problem, tensors, options)
    around = None if symmetric else [size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair]
    forms = {1: torch.channels_last, 2: torch.channels_last, 3: torch.channels_last_3d}
    calls = {"contiguous": _eager(problem, tensors, rank, torch.contiguous_format, options, around)}
    if rank == 1:  # as images one pixel high: of rows there is no format with the channels last
        images = {name: tensor.unsqueeze(2) if tensor.ndim == 3 else tensor for name, tensor in tensors.items()}
        flat = {"stride": (1, *given["stride"]), "dilation": (1, *problem.dilation), "groups": problem.groups, "padding": (0, *before) if symmetric else 0}
        call = _eager(problem, images, 2, forms[rank], flat, around)
        calls["channels_last"] = lambda: call().squeeze(2)
    else:
        calls["channels_last"] = _eager(problem, tensors, rank, forms[rank], options, around)
    if symmetric and OPAQUE_STEPS.issuperset(steps) and not problem.prologue and can_be_opaque(tensors["x"]):
        k, c, *kernel = tensors["weights"].shape
        make = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[rank]
        module = make(c * problem.groups, k, kernel, bias=bias is not None, **options)
        calls["opaque"] = _opaque(module, tensors["weights"], bias, tensors["x"], steps, tensors)
    return calls


def _eager(problem: Problem, tensors: Tensors, rank: int, form: Any, options: dict[str, Any], around: Sequence[int] | None) -> Call:
    """One call after the other, in a memory format. `around`: padding that the convolution itself cannot add, as `F.pad` wants it, the last dimension first."""
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
    bias, steps = _fused_bias(problem, tensors)
    x, weights = (tensors[name].contiguous(memory_format=form) for name in ("x", "weights"))
    others = _broadcast(tensors, rank, form)
    begin, finish = _begin(problem, others), _finish(steps, others)
    if around is None:
        return lambda: finish(function(begin(x), weights, bias, **options))
    return lambda: finish(function(F.pad(begin(x), around), weights, bias, **options))


def _transposed_convolutions(problem: Problem, tensors: Tensors, options: dict[str, Any]) -> dict[str, Call]:
    """Padding that differs from side to side is cut off the result afterwards."""
    (top, left), (bottom, right) = problem.pads
    down, across = problem.parameters["output_pad"]
    symmetric = (top, left) == (bottom, right)
    bias, steps = _fused_bias(problem, tensors)

    def eager(form: Any) -> Call:
        x, weights = (tensors[name].contiguous(memory_format=form) for name in ("x", "weights"))
        others = _broadcast(tensors, 2, form)
        begin, finish = _begin(problem, others), _finish(steps, others)
        if symmetric:
            return lambda: finish(F.conv_transpose2d(begin(x), weights, bias, output_padding=(down, across), **options))

        def cropped() -> Any:
            whole = F.conv_transpose2d(begin(x), weights, bias, output_padding=(down, across), **options)
            return finish(whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right])

        return cropped

    return {"contiguous": eager(torch.contiguous_format), "channels_last": eager(torch.channels_last)}


def _broadcast(tensors: Tensors, rank: int, form: Any) -> dict[str, Any]:
    """What prologue and epilogue read: activations in the memory format, a bias with a dimension for each of an activation's but the first."""
    return {name: tensor.contiguous(memory_format=form) if tensor.ndim == rank + 2 else tensor.reshape(-1, *[1] * rank) for name, tensor in tensors.items()}


def _products(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    a, b, out = tensors["a"], tensors["b"], torch.empty(problem.shape)
    bias, steps = _fused_bias(problem, tensors)
    begin, finish = _begin(problem, tensors), _finish(steps, tensors)
    calls: dict[str, Call] = {}
    if bias is None:
        calls["mm"] = lambda: finish(torch.mm(begin(a), b, out=out))
    else:
        calls["addmm"] = lambda: finish(torch.addmm(bias, begin(a), b, out=out))
    if "b" not in problem.variables:
        weights = b.t().contiguous()
        calls["linear"] = lambda: finish(F.linear(begin(a), weights, bias))
        if OPAQUE_STEPS.issuperset(steps) and not problem.prologue and can_be_opaque(a):
            module = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=bias is not None)
            calls["opaque"] = _opaque(module, weights, bias, a, steps, tensors)
    return calls


def _batched_products(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    a, b, out = tensors["a"], tensors["b"], torch.empty(problem.shape)
    begin, finish = _begin(problem, tensors), _finish(problem.epilogue, tensors)
    operands = {"bmm": b}
    if "b" not in problem.variables:
        operands["bmm by columns"] = b.transpose(1, 2).contiguous().transpose(1, 2)
    return {name: partial(lambda right: finish(torch.bmm(begin(a), right, out=out)), right) for name, right in operands.items()}


def _einsums(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    """As it is written and, where that is what it is, as a batched matrix product of views."""
    product, a, b = problem.product, tensors["a"], tensors["b"]
    begin, finish = _begin(problem, tensors), _finish(problem.epilogue, tensors)
    calls: dict[str, Call] = {"einsum": lambda: finish(torch.einsum(product.text, begin(a), b))}
    if product.is_matrix_product:
        sizes = dict(zip(product.first + product.second, (*a.shape, *b.shape), strict=True))
        lead, rows, columns, inner = ([sizes[letter] for letter in some] for some in (product.batch, product.rows, product.columns, product.inner))
        first, second, last = product.orders
        left, right = (*lead, math.prod(rows), math.prod(inner)), (*lead, math.prod(inner), math.prod(columns))
        whole = (*lead, *rows, *columns)
        fixed = None if "b" in problem.variables else b.permute(second).reshape(right).contiguous()

        def matmul() -> Any:
            there = b.permute(second).reshape(right) if fixed is None else fixed
            return finish(torch.matmul(begin(a).permute(first).reshape(left), there).reshape(whole).permute(last).contiguous())

        calls["matmul"] = matmul
    return calls


def _reductions(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    x, axes, function = tensors["x"], tuple(problem.parameters["axes"]), problem.parameters["function"]
    if function == "prod":
        return {"prod": lambda: _product(x, axes)}
    call = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin, "l2": torch.linalg.vector_norm}[function]
    return {function: lambda: call(x, dim=axes)}


def _product(x: Any, axes: Sequence[int]) -> Any:
    for axis in sorted(axes, reverse=True):
        x = x.prod(dim=axis)
    return x


def _elementwise(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    """One function after the other."""

    def call(value: Value) -> Call:
        match value:
            case Constant(number, dtype):
                single = torch.tensor(number, dtype=getattr(torch, dtype))
                return lambda: single
            case Read(tensor):
                return lambda: tensors[tensor.name]
            case Apply(name, args):
                function, given = FUNCTIONS[name], [call(arg) for arg in args]
                return lambda: function(*(arg() for arg in given))
        raise TypeError(f"not a value: {value!r}")

    return {"eager": call(problem.chain)}


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "max": torch.maximum, "min": torch.minimum, "pow": torch.pow},
    "less": lambda a, b: torch.lt(a, b).to(a.dtype),
    "equal": lambda a, b: torch.eq(a, b).to(a.dtype),
    "select": lambda condition, a, b: torch.where(condition != 0, a, b),
    **{name: getattr(torch, name) for name in ("abs", "sqrt", "exp", "exp2", "log", "tanh", "erf", "sigmoid")},
    **{name: partial(torch.Tensor.to, dtype=getattr(torch, dtype)) for name, dtype in CASTS.items()},
}  # of `ir.program`
MAKERS = {
    "matmul": _products, "batch_matmul": _batched_products, "einsum": _einsums, "reduce": _reductions, "elementwise": _elementwise, **ROWS, **POOLS,
    **MOVES,
}  # fmt: skip


def _opaque(module: Any, weights: Any, bias: Any, x: Any, steps: Sequence[str], tensors: Tensors) -> Call:
    """`module`, a convolution or a linear layer, with these weights packed for oneDNN, on an input in oneDNN's layout."""
    module.weight.copy_(weights)
    if bias is not None:
        module.bias.copy_(bias)
    packed, opaque = mkldnn.to_mkldnn(module.eval()), x.to_mkldnn()
    finish = _finish(steps, {name: tensor.to_mkldnn() for name, tensor in tensors.items() if name == "residual"})
    return lambda: finish(packed(opaque))


def _fused_bias(problem: Problem, tensors: Tensors) -> tuple[Any, Sequence[str]]:
    """The bias where the operator can take it, or None, and the steps of the epilogue that are left."""
    return (tensors["bias"], problem.epilogue[1:]) if problem.bias_first else (None, problem.epilogue)


def _begin(problem: Problem, tensors: Tensors) -> Callable[[Any], Any]:
    """The steps of the prologue, one after the other, the first one into a new tensor."""
    constants = {step: tensors[name] for step, name in CONSTANTS.items() if name in tensors}
    return _in_turn([_step(step, constants, "_" if number else "") for number, step in enumerate(problem.prologue)])


def _finish(steps: Sequence[str], tensors: Tensors) -> Callable[[Any], Any]:
    """The steps of an epilogue, one after the other, in place."""
    return _in_turn([_step(step, tensors, "_") for step in steps])


def _in_turn(calls: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def run(x: Any) -> Any:
        for call in calls:
            x = call(x)
        return x

    return run


def _step(step: str, tensors: Tensors, ending: str) -> Callable[[Any], Any]:
    """`ending`: of the methods' names, "_" where they work in place."""
    match step:
        case "scale":
            return methodcaller(f"mul{ending}", tensors["scale"])
        case "bias":
            return methodcaller(f"add{ending}", tensors["bias"])
        case "add":
            return methodcaller(f"add{ending}", tensors["residual"])
        case "relu" | "sigmoid" | "tanh":
            return methodcaller(f"{step}{ending}")
        case "gelu":
            return partial(F.gelu, approximate="none")
        case "silu":
            return partial(F.silu, inplace=ending == "_")
        case "hardswish":
            return partial(F.hardswish, inplace=ending == "_")
    slope = leaky_slope(step)
    if slope is not None:
        return partial(F.leaky_relu, negative_slope=slope, inplace=ending == "_")
    return methodcaller(f"clamp{ending}", *clip_limits(step))
