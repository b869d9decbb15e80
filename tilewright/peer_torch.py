"""PyTorch on the CPU: eager operators in both memory formats, and oneDNN's own ("opaque") tensors with weights packed beforehand.

Left out, because they were never the fastest where it was measured: TorchScript (`torch.jit.optimize_for_inference` converts to oneDNN's layout
and back in each call), and packed weights with activations that are not opaque. `torch.compile` needs a C++ compiler on the machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # the name that everybody knows it by
from numpy.typing import NDArray

from tilewright.problem import Problem, Way, clip_limits
from tilewright.turns import Contender

with warnings.catch_warnings():  # it is written with TorchScript, which PyTorch no longer recommends
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch.utils import mkldnn

OPAQUE_STEPS = {"relu", "sigmoid", "add"}  # of an epilogue: what opaque tensors can do

Call: TypeAlias = Callable[[], Any]  # computes the task, gives the result as a tensor
Tensors: TypeAlias = Mapping[str, Any]


def torch_ways(problem: Problem) -> list[Way]:
    """Every way to compute the task. Sets the number of PyTorch's threads for the whole process."""
    torch.set_num_threads(problem.threads)
    make = {"conv2d": _convolutions, "matmul": _products, "batch_matmul": _batched_products}[problem.operator]
    with torch.inference_mode():
        calls = make(problem, {name: torch.from_numpy(array) for name, array in problem.arrays.items()})
    return [Way(Contender("torch", setting, call, torch.inference_mode), partial(_answer, problem, call)) for setting, call in calls.items()]


def _answer(problem: Problem, call: Call) -> NDArray[Any]:
    with torch.inference_mode():
        result = call()
        array: NDArray[Any] = (result.to_dense() if result.is_mkldnn else result).numpy()
    return problem.ours(array)


def _convolutions(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    given = problem.parameters
    top, left, bottom, right = given["pad"]
    symmetric = (top, left) == (bottom, right)
    options = {"stride": given["stride"], "dilation": given["dilation"], "groups": given["groups"], "padding": (top, left) if symmetric else (0, 0)}
    bias, steps = _fused_bias(problem, tensors)

    def eager(form: Any) -> Call:
        x, weights = (tensors[name].contiguous(memory_format=form) for name in ("x", "weights"))
        here = {name: tensor.contiguous(memory_format=form) if tensor.ndim == 4 else tensor.reshape(-1, 1, 1) for name, tensor in tensors.items()}
        finish = _finish(steps, here)
        if symmetric:
            return lambda: finish(F.conv2d(x, weights, bias, **options))
        return lambda: finish(F.conv2d(F.pad(x, (left, right, top, bottom)), weights, bias, **options))

    calls = {"contiguous": eager(torch.contiguous_format), "channels_last": eager(torch.channels_last)}
    if symmetric and OPAQUE_STEPS.issuperset(steps):
        module = torch.nn.Conv2d(given["c"], given["k"], (given["r"], given["s"]), bias=bias is not None, **options)
        calls["opaque"] = _opaque(module, tensors["weights"], bias, tensors["x"], steps, tensors)
    return calls


def _products(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    a, b, out = tensors["a"], tensors["b"], torch.empty(problem.shape)
    bias, steps = _fused_bias(problem, tensors)
    finish = _finish(steps, tensors)
    calls: dict[str, Call] = {}
    if bias is None:
        calls["mm"] = lambda: finish(torch.mm(a, b, out=out))
    else:
        calls["addmm"] = lambda: finish(torch.addmm(bias, a, b, out=out))
    if "b" not in problem.variables:
        weights = b.t().contiguous()
        calls["linear"] = lambda: finish(F.linear(a, weights, bias))
        if OPAQUE_STEPS.issuperset(steps):
            module = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=bias is not None)
            calls["opaque"] = _opaque(module, weights, bias, a, steps, tensors)
    return calls


def _batched_products(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    a, b, out = tensors["a"], tensors["b"], torch.empty(problem.shape)
    finish = _finish(problem.epilogue, tensors)
    return {"bmm": lambda: finish(torch.bmm(a, b, out=out))}


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


def _finish(steps: Sequence[str], tensors: Tensors) -> Callable[[Any], Any]:
    """The steps of an epilogue, one after the other, in place."""
    calls = [_step(step, tensors) for step in steps]

    def finish(result: Any) -> Any:
        for call in calls:
            result = call(result)
        return result

    return finish


def _step(step: str, tensors: Tensors) -> Callable[[Any], Any]:
    match step:
        case "bias":
            return lambda result: result.add_(tensors["bias"])
        case "add":
            return lambda result: result.add_(tensors["residual"])
        case "relu":
            return lambda result: result.relu_()
        case "sigmoid":
            return lambda result: result.sigmoid_()
    low, high = clip_limits(step)
    return lambda result: result.clamp_(low, high)
