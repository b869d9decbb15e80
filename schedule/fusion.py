"""Stages that run together, chunk by chunk of the axes that they share, so that what they hand on stays in the caches of one thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from ir.program import Apply, Axis, Program, Read, Stage, Tensor, Value, affine, reads

Item = TypeVar("Item")
Group = tuple[Stage, Stage | None]  # a stage, and the elementwise one that is its epilogue


def groups(program: Program) -> list[Group]:
    """Each stage together with an elementwise stage that follows it, reads it point by point, and is the only one that does."""
    found: list[Group] = []
    stages = list(program.stages)
    while stages:
        stage = stages.pop(0)
        follower = stages[0] if stages else None
        if follower is not None and _is_epilogue(stage, follower, stages[1:]):
            found.append((stage, stages.pop(0)))
        else:
            found.append((stage, None))
    return found


def _is_epilogue(stage: Stage, follower: Stage, later: list[Stage]) -> bool:
    if (
        follower.reduction is not None
        or (follower.spatial, follower.indices) != (stage.spatial, stage.indices)
        or any(stage.output == read.tensor for other in later for read in reads(other.body))
    ):
        return False
    return {read for read in reads(follower.body) if read.tensor == stage.output} == {stage.write}


def shared_axes(program: Program) -> tuple[Axis, ...]:
    """Axes that every stage has and along which each works on its own part of what the others hand on, in the order in which all have them."""
    first, *rest = program.stages
    accesses = list(_accesses_between(program))
    found: list[Axis] = []
    for axis in first.spatial:
        if all(axis in stage.spatial for stage in rest) and all(_is_own_dimension(accesses, tensor, axis) for tensor in _between(program)):
            found.append(axis)
    in_order = all(found == sorted(found, key=stage.spatial.index) for stage in rest)
    is_padded = any(read.padded for read in accesses)
    return tuple(found) if in_order and not is_padded else ()


def _between(program: Program) -> list[Tensor]:
    return [stage.output for stage in program.stages[:-1]]


def _accesses_between(program: Program) -> Iterator[Read]:
    """Of intermediate tensors."""
    between = set(_between(program))
    for stage in program.stages:
        yield from (read for read in (stage.write, *reads(stage.body)) if read.tensor in between)


def _is_own_dimension(accesses: list[Read], tensor: Tensor, axis: Axis) -> bool:
    """Whether all accesses index the same dimension of the tensor with the axis alone, and no other one."""
    places = {tuple(i for i, index in enumerate(read.indices) if axis in index.axes) for read in accesses if read.tensor == tensor}
    if len(places) != 1 or len(next(iter(places))) != 1:
        return False
    (place,) = next(iter(places))
    return all(read.indices[place] == affine(axis) for read in accesses if read.tensor == tensor)


def with_innermost(program: Program, axis: Axis) -> Program:
    """The same program with every tensor that one group of stages hands to another, and that has a dimension of this axis, contiguous along it."""
    moved: dict[str, int] = {}
    for stage in (stage for group in groups(program)[:-1] for stage in group if stage is not None):
        place = next((i for i, index in enumerate(stage.indices) if index == affine(axis)), None)
        if place is not None:
            moved[stage.output.name] = place

    def rolled(items: tuple[Item, ...], name: str) -> tuple[Item, ...]:
        place = moved[name]
        return (*items[:place], *items[place + 1 :], items[place])

    def tensor(old: Tensor) -> Tensor:
        return replace(old, shape=rolled(old.shape, old.name)) if old.name in moved else old

    def value(node: Value) -> Value:
        match node:
            case Read() if node.tensor.name in moved:
                return replace(node, tensor=tensor(node.tensor), indices=rolled(node.indices, node.tensor.name))
            case Apply(function, args):
                return Apply(function, tuple(value(arg) for arg in args))
        return node

    stages = tuple(
        replace(
            stage,
            output=tensor(stage.output),
            indices=rolled(stage.indices, stage.output.name) if stage.output.name in moved else stage.indices,
            body=value(stage.body),
        )
        for stage in program.stages
    )
    return replace(program, stages=stages)
