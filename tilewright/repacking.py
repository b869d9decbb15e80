"""Packing an image into another layout as the steps that every library has: pad, transpose, reshape, cut."""

from __future__ import annotations

from dataclasses import dataclass

from ir.movement import block_of
from tilewright.problem import Problem


@dataclass(frozen=True)
class Repacking:
    """In this order: `n_more` zeros after dimension `channels`, a view of shape `split`, dimensions in the order `axes`, a view of shape `joined`,
    and the first `n_kept` of dimension `channels`. Where nothing is split, joined, added or dropped, the shape stays and the number is 0."""

    channels: int
    n_more: int
    split: tuple[int, ...]
    axes: tuple[int, ...]
    joined: tuple[int, ...]
    n_kept: int


def repacking(problem: Problem) -> Repacking:
    """Of a task `pack`."""
    given, (x,), y = problem.parameters, problem.task.program.inputs, problem.task.program.output
    source, target = given["from"], given["to"]
    last = "nhwc" in (source, target)
    channels = 3 if last else 1
    block = block_of(source) or block_of(target)
    if not block:
        axes = (0, 3, 1, 2) if source == "nhwc" else (0, 2, 3, 1)
        return Repacking(channels, 0, x.shape, axes, y.shape, 0)
    if block_of(target):
        n_blocks = y.shape[1]
        split = (*x.shape[:channels], n_blocks, block, *x.shape[channels + 1 :])
        return Repacking(channels, n_blocks * block - x.shape[channels], split, (0, 3, 1, 2, 4) if last else (0, 1, 3, 4, 2), y.shape, 0)
    joined = (*y.shape[:channels], x.shape[1] * block, *y.shape[channels + 1 :])
    n_kept = y.shape[channels] if joined != y.shape else 0
    return Repacking(channels, 0, x.shape, (0, 2, 3, 1, 4) if last else (0, 1, 4, 2, 3), joined, n_kept)
