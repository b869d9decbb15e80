"""Moving data in PyTorch: views of the input, copied into a tensor that is there or a new one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # the name that everybody knows it by

from tilewright.peer_torch_rows import Call, Tensors
from tilewright.problem import Problem
from tilewright.repacking import repacking

MODES = {"constant": "constant", "edge": "replicate", "reflect": "reflect"}
MOST_FOLDED = 3  # last dimensions that can be padded with elements of the tensor


def _transpose(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    return _copies(problem, tensors["x"].permute(tuple(problem.parameters["axes"])))


def _copies(problem: Problem, view: Any) -> dict[str, Call]:
    out = torch.empty(problem.shape)
    return {"clone": lambda: view.clone(memory_format=torch.contiguous_format), "out": lambda: out.copy_(view)}


def _slice(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    """There are no negative steps: what is cut forwards is flipped."""
    x, given = tensors["x"], problem.parameters
    parts = [range(*slice(*part).indices(size)) for size, *part in zip(x.shape, given["starts"], given["stops"], given["steps"], strict=True)]
    backwards = [place for place, part in enumerate(parts) if part.step < 0]
    forwards = [part[::-1] if part.step < 0 else part for part in parts]
    view = x[tuple(slice(part.start, part.stop, part.step) for part in forwards)]
    return {"flip": lambda: torch.flip(view, backwards)} if backwards else _copies(problem, view)


def _pad(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    x, given = tensors["x"], problem.parameters
    mode, widths = given["mode"], list(zip(given["before"], given["after"], strict=True))
    first = next((place for place, width in enumerate(widths) if any(width)), len(widths) - 1)
    last = [n for width in reversed(widths[first:]) for n in width]
    if mode == "constant":
        return {"pad": lambda: F.pad(x, last, value=given["value"])}
    calls: dict[str, Call] = {"index_select": _selected(x, widths, mode)}
    if len(widths) - first <= MOST_FOLDED:
        batch = x.reshape(1, -1, *x.shape[first:])
        calls["pad"] = lambda: F.pad(batch, last, mode=MODES[mode]).reshape(problem.shape)
    return calls


def _selected(x: Any, widths: list[tuple[int, int]], mode: str) -> Call:
    """One dimension after the other, by the indices of what it is made of."""
    indices = [torch.from_numpy(np.pad(np.arange(size), width, mode=mode)) for size, width in zip(x.shape, widths, strict=True)]  # type: ignore[call-overload]

    def run() -> Any:
        result = x
        for place, (index, width) in enumerate(zip(indices, widths, strict=True)):
            result = torch.index_select(result, place, index) if any(width) else result
        return result

    return run


def _concat(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    parts, axis, out = list(tensors.values()), problem.parameters["axis"], torch.empty(problem.shape)
    return {"cat": lambda: torch.cat(parts, axis), "out": lambda: torch.cat(parts, axis, out=out)}


def _pack(problem: Problem, tensors: Tensors) -> dict[str, Call]:
    how, x = repacking(problem), tensors["x"]
    more = [0, 0] * (3 - how.channels) + [0, how.n_more]

    def run() -> Any:
        padded = F.pad(x, more) if how.n_more else x
        moved = padded.reshape(how.split).permute(how.axes).reshape(how.joined)
        return (moved.narrow(how.channels, 0, how.n_kept) if how.n_kept else moved).contiguous()

    return {"permute": run}


MOVES = {"transpose": _transpose, "slice": _slice, "pad": _pad, "concat": _concat, "pack": _pack}
