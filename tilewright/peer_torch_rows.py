"""Softmax, normalization and attention in PyTorch: its fused operators, and where another way can be faster, that too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # the name that everybody knows it by

from tilewright.problem import Problem

Call: TypeAlias = Callable[[], Any]  # computes the task, gives the result as a tensor
Tensors: TypeAlias = Mapping[str, Any]


MOST_OPAQUE = 5  # dimensions


def can_be_opaque(x: Any) -> bool:
    """Whether PyTorch has oneDNN, and oneDNN tensors of so many dimensions."""
    return bool(torch.backends.mkldnn.is_available()) and x.ndim <= MOST_OPAQUE


def _softmax(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    x, axis, out = tensors["x"], problem.parameters["axis"], torch.empty(problem.shape)
    calls: dict[str, Call] = {"softmax": lambda: torch.softmax(x, axis), "out": lambda: torch.softmax(x, axis, out=out)}
    if can_be_opaque(x):
        opaque = x.to_mkldnn()
        calls["opaque"] = lambda: torch.softmax(opaque, axis)
    return calls


def _log_softmax(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    x, axis, out = tensors["x"], problem.parameters["axis"], torch.empty(problem.shape)
    return {"log_softmax": lambda: torch.log_softmax(x, axis), "out": lambda: torch.log_softmax(x, axis, out=out)}


def _layer_norm(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    x, scale, bias, epsilon = tensors["x"], tensors["scale"], tensors["bias"], problem.parameters["epsilon"]
    return {"layer_norm": lambda: F.layer_norm(x, scale.shape, scale, bias, epsilon)}


def _rms_norm(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    x, scale, epsilon = tensors["x"], tensors["scale"], problem.parameters["epsilon"]
    return {"rms_norm": lambda: F.rms_norm(x, scale.shape, scale, epsilon)}


def _batch_norm(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    scale, bias, mean, variance = (tensors[name] for name in ("scale", "bias", "mean", "variance"))
    return each_format(tensors["x"], lambda x: F.batch_norm(x, mean, variance, scale, bias, eps=problem.parameters["epsilon"]))


def _instance_norm(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    """`F.instance_norm` refuses images of one element, which are batches of rows to it as any others."""
    scale, bias, epsilon = tensors["scale"], tensors["bias"], problem.parameters["epsilon"]
    return each_format(tensors["x"], lambda x: torch.instance_norm(x, scale, bias, None, None, True, 0.0, epsilon, False))


def _attention(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    swapped = problem.parameters["layout"] == "bihd"
    q, k, v = (tensors[name].transpose(1, 2) if swapped else tensors[name] for name in "qkv")
    scale = problem.attention_scale

    def laid_out(result: Any) -> Any:
        return result.transpose(1, 2).contiguous() if swapped else result

    return {
        "scaled_dot_product_attention": lambda: laid_out(F.scaled_dot_product_attention(q, k, v, scale=scale)),
        "matmul, softmax, matmul": lambda: laid_out(torch.matmul(torch.softmax(torch.matmul(q, k.transpose(2, 3)).mul_(scale), -1), v)),
    }


def each_format(x: Any, function: Callable[[Any], Any]) -> dict[str, Call]:
    """A function of images in both memory formats."""
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    given = {name: x.contiguous(memory_format=form) for name, form in formats.items()}
    return {name: lambda image=image: function(image) for name, image in given.items()}  # type: ignore[misc]  # the default binds it


ROWS = {
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "attention": _attention,
}
