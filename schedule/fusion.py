"""Stages that run together, chunk by chunk of the axes that they share, so that what they hand on stays in the caches of one thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from ir.program import FLOAT, Apply, Axis, Program, Read, Stage, Tensor, Value, affine, factors, reads

Item = TypeVar("Item")


@dataclass(frozen=True)
class Group:
    """A stage with the elementwise ones that make an operand of it, its prologue, and that end it, its epilogue. `keeps`: where each value of the stage's
    body is stored, too."""

    stage: Stage
    prologue: Stage | None = None
    epilogue: Stage | None = None
    keeps: Read | None = None

    @property
    def result(self) -> Tensor:
        return (self.epilogue or self.stage).output

    @property
    def handed_on(self) -> frozenset[str]:
        """Names of the tensors that are stored."""
        return frozenset((self.result.name, self.keeps.tensor.name) if self.keeps else (self.result.name,))


def groups(program: Program) -> list[Group]:
    """Each stage together with an elementwise stage that follows it, reads it point by point, and is the only one that does; a sum of products also with
    one before it that makes an operand which nothing else reads; a reduction with one just before it that it reads point by point, as the sum of a softmax
    reads the powers, which are stored for those who read them later."""
    found: list[Group] = []
    stages = list(program.stages)
    while stages:
        stage = stages.pop(0)
        prologue = keeps = None
        if stages and _is_body(stage, stages[0]):
            keeps = stage.write if _is_read(stage.output, stages[1:]) else None
            stage = replace(stages.pop(0), body=stage.body)
        elif stages and _is_prologue(stage, stages[0], stages[1:]):
            prologue, stage = stage, stages.pop(0)
        epilogue = stages.pop(0) if stages and _is_epilogue(stage, stages[0], stages[1:]) else None
        found.append(Group(stage, prologue, epilogue, keeps))
    return found


def _is_read(tensor: Tensor, stages: list[Stage]) -> bool:
    return any(tensor == read.tensor for stage in stages for read in reads(stage.body))


def _is_body(stage: Stage, follower: Stage) -> bool:
    same_points = set(stage.spatial) == {*follower.spatial, *follower.reduce}
    return stage.reduction is None and follower.reduction is not None and follower.body == stage.write and same_points


def _is_prologue(stage: Stage, follower: Stage, later: list[Stage]) -> bool:
    """Where the operand is one of fp32 whose elements each have an iteration of the stage."""
    operands = factors(follower.body)
    is_product = follower.reduction == "sum" and bool(follower.reduce) and len(operands) == 2 and all(isinstance(operand, Read) for operand in operands)
    if stage.reduction is not None or not is_product:
        return False
    whole = all(index == affine(*index.axes[:1]) for index in stage.indices) and not any(read.padded for read in (stage.write, *reads(stage.body)))
    is_read_once = [operand for operand in operands if isinstance(operand, Read) and operand.tensor == stage.output]
    return whole and stage.output.dtype == FLOAT and len(is_read_once) == 1 and not _is_read(stage.output, later)


def _is_epilogue(stage: Stage, follower: Stage, later: list[Stage]) -> bool:
    if follower.reduction is not None or (follower.spatial, follower.indices) != (stage.spatial, stage.indices) or _is_read(stage.output, later):
        return False
    return {read for read in reads(follower.body) if read.tensor == stage.output} == {stage.write}


def shared_axes(program: Program) -> tuple[Axis, ...]:
    """Axes that every stage has and along which each works on its own part of what the others hand on, in the order in which all have them."""
    first, *rest = program.stages
    accesses = list(_accesses(program))
    found: list[Axis] = []
    for axis in first.spatial:
        if all(axis in stage.spatial for stage in rest) and all(_is_own_dimension(accesses, tensor, axis) for tensor in (*program.between, program.output)):
            found.append(axis)
    in_order = all(found == sorted(found, key=stage.spatial.index) for stage in rest)
    is_padded = any(read.padded for read in accesses)
    return tuple(found) if in_order and not is_padded else ()


def _accesses(program: Program) -> Iterator[Read]:
    """Of what stages write."""
    written = {*program.between, program.output}
    for stage in program.stages:
        yield from (read for read in (stage.write, *reads(stage.body)) if read.tensor in written)


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
    turned = {name for group in groups(program)[:-1] for name in (group.stage.output.name, *group.handed_on)} - {program.output.name}
    for stage in (stage for stage in program.stages if stage.output.name in turned):
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
