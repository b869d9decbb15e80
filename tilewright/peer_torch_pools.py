"""Pooling in PyTorch, in both memory formats and on oneDNN's opaque tensors. Padding that it does not know is added in each call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # the name that everybody knows it by

from tilewright.peer_torch_rows import Call, Tensors, can_be_opaque, each_format
from tilewright.problem import Problem


def _max_pool(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    options = {"kernel_size": problem.kernel, "stride": problem.parameters["stride"], "dilation": problem.dilation}
    around = _around(problem)
    if around is None:
        return _each(problem, tensors["x"], partial(F.max_pool2d, padding=problem.pads[0], **options))
    return each_format(tensors["x"], lambda x: F.max_pool2d(F.pad(x, around, value=-torch.inf), **options))


def _average_pool(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    """Sums of windows that were padded apart count the padding; factors that are made beforehand take it out again."""
    options = {"kernel_size": problem.kernel, "stride": problem.parameters["stride"]}
    around = _around(problem)
    if around is None:
        include = problem.parameters["count_include_pad"] == "1"
        return _each(problem, tensors["x"], partial(F.avg_pool2d, padding=problem.pads[0], count_include_pad=include, **options))
    factors = torch.from_numpy(problem.shares)
    return each_format(tensors["x"], lambda x: F.avg_pool2d(F.pad(x, around), divisor_override=1, **options).mul_(factors))


def _each(problem: Problem, x: Any, function: Callable[[Any], Any]) -> dict[str, Call]:
    calls = each_format(x, function)
    if problem.dilation == (1, 1) and can_be_opaque(x):
        opaque = x.to_mkldnn()
        calls["opaque"] = lambda: function(opaque)
    return calls


def _around(problem: Problem) -> list[int] | None:
    """What is to be added as `F.pad` wants it, the last dimension first; None where pooling can pad: as much on both sides, and half a window at most."""
    before, after = problem.pads
    reach = [by * (taps - 1) + 1 for taps, by in zip(problem.kernel, problem.dilation, strict=True)]
    if before == after and all(2 * size <= span for size, span in zip(before, reach, strict=True)):
        return None
    return [size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair]


def _global_max(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    return each_format(tensors["x"], lambda x: x.amax((2, 3)))


def _global_mean(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    pooled = each_format(tensors["x"], lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1))
    return each_format(tensors["x"], lambda x: x.mean((2, 3))) | {f"adaptive, {name}": call for name, call in pooled.items()}


POOLS = {"max_pool2d": _max_pool, "average_pool2d": _average_pool, "global_max_pool": _global_max, "global_average_pool": _global_mean}
