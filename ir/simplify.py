"""Equal programs with fewer axes: unit axes dropped, neighbouring axes fused where every access walks them as one.

A 1x1 convolution over (oh, ow) becomes a matrix product over oh*ow this way, whatever operator it came from. Memory layouts do not
change: a tensor of the result is a reshaped view of the tensor of the same name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

from ir.program import (
    Affine,
    Axis,
    Program,
    Read,
    affine,
    map_reads,
    reads,
)


def simplify(program: Program) -> Program:
    """Drop unit axes and unit dimensions, then fuse what can be fused until nothing changes."""
    program = _drop_units(program)
    while True:
        pair = next((pair for pair in _neighbours(program) if _fusible(program, *pair)), None)
        if pair is None:
            return program
        program = _fuse(program, *pair)


def _map_accesses(program: Program, change: Callable[[Read], Read], axes: Callable[[tuple[Axis, ...]], tuple[Axis, ...]]) -> Program:
    stages = []
    for stage in program.stages:
        write = change(stage.write)
        stages.append(
            replace(
                stage, output=write.tensor, indices=write.indices, spatial=axes(stage.spatial), reduce=axes(stage.reduce), body=map_reads(stage.body, change)
            )
        )
    shapes = {read.tensor.name: read.tensor for stage in stages for read in (*reads(stage.body), stage.write)}
    return Program(tuple(shapes[tensor.name] for tensor in program.inputs), tuple(stages))


def _drop_units(program: Program) -> Program:
    """A stage with a single output element keeps its last spatial axis, or one that an earlier stage keeps, so that every stage has one."""
    axes = {axis for stage in program.stages for axis in (*stage.spatial, *stage.reduce) if axis.extent > 1}
    for stage in program.stages:
        if not axes & set(stage.spatial):
            axes.add(stage.spatial[-1])
    dimensions = {
        (read.tensor.name, i)
        for read in _accesses(program)
        for i, (size, index) in enumerate(zip(read.tensor.shape, read.indices, strict=True))
        if size > 1 or index.constant or axes & set(index.axes)
    }

    def change(read: Read) -> Read:
        indices = [Affine(tuple(term for term in index.terms if term[0] in axes), index.constant) for index in read.indices]
        kept = [pair for i, pair in enumerate(zip(read.tensor.shape, indices, strict=True)) if (read.tensor.name, i) in dimensions]
        kept = kept or [(1, affine())]
        tensor = replace(read.tensor, shape=tuple(size for size, _ in kept))
        return replace(read, tensor=tensor, indices=tuple(index for _, index in kept))

    return _map_accesses(program, change, lambda old: tuple(axis for axis in old if axis in axes))


def _accesses(program: Program) -> Iterator[Read]:
    for stage in program.stages:
        yield from (stage.write, *reads(stage.body))


def _neighbours(program: Program) -> Iterator[tuple[Axis, Axis]]:
    for stage in program.stages:
        yield from pairwise(stage.spatial)
        yield from pairwise(stage.reduce)


def _place(read: Read, outer: Axis, inner: Axis) -> int | None:
    """Dimension of `outer` in `read` if (outer, inner) index two whole neighbouring dimensions on their own."""
    for i, (first, second) in enumerate(pairwise(read.indices)):
        if first == affine(outer) and second == affine(inner) and read.tensor.shape[i : i + 2] == (outer.extent, inner.extent):
            return i
    return None


def _fusible(program: Program, outer: Axis, inner: Axis) -> bool:
    """Also where the same two dimensions of a tensor are walked by other axes elsewhere, they stay apart."""
    places: dict[str, set[int | None]] = {}
    for read in _accesses(program):
        place = _place(read, outer, inner)
        if place is None and any(index.factor(axis) for index in read.indices for axis in (outer, inner)):
            return False
        places.setdefault(read.tensor.name, set()).add(place)
    return all(len(found) == 1 for found in places.values())


def _fuse(program: Program, outer: Axis, inner: Axis) -> Program:
    fused = Axis(f"{outer.name}_{inner.name}", outer.extent * inner.extent)

    def change(read: Read) -> Read:
        i = _place(read, outer, inner)
        if i is None:
            return read
        shape = (*read.tensor.shape[:i], math.prod(read.tensor.shape[i : i + 2]), *read.tensor.shape[i + 2 :])
        return replace(read, tensor=replace(read.tensor, shape=shape), indices=(*read.indices[:i], affine(fused), *read.indices[i + 2 :]))

    def axes(old: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(fused if axis == outer else axis for axis in old if axis != inner)

    return _map_accesses(program, change, axes)
