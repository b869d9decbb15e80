"""A program in parts along an axis that all its stages share, so that what they hand on to each other is small while it is worked on in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ir.program import Affine, Axis, Program, Read, Stage, Tensor, affine, map_reads, reads

PART_ELEMENTS = 1 << 20  # of the largest tensor between stages: 8 MiB in double precision

Array = NDArray[Any]
Dimensions = dict[Tensor, int | None]


def in_parts(program: Program, inputs: Mapping[str, Array], compute: Callable[[Program, Mapping[str, Array]], Array]) -> Array:
    """`compute(program, inputs)`, done for one part of the program after the other where that is possible and saves memory; in parts of parts if need be.

    Inputs by tensor name, in the tensors' shapes.
    """
    largest = max((math.prod(tensor.shape) for tensor in program.between), default=0)
    for axis in program.stages[0].spatial if largest > PART_ELEMENTS else ():
        dimensions = own_dimensions(program, axis)
        if axis.extent > 1 and dimensions is not None:
            break
    else:
        return compute(program, inputs)
    step = max(1, axis.extent * PART_ELEMENTS // largest)
    shaped = {tensor: np.asarray(inputs[tensor.name]).reshape(tensor.shape) for tensor in program.inputs}
    along = dimensions[program.output]
    assert along is not None, "an output has all spatial axes of its stage"
    results = []
    for start in range(0, axis.extent, step):
        stop = min(start + step, axis.extent)
        mine = {tensor.name: _slice(array, dimensions[tensor], start, stop) for tensor, array in shaped.items()}
        results.append(in_parts(narrowed(program, axis, stop - start, dimensions), mine, compute))
    return np.concatenate(results, axis=along)


def own_dimensions(program: Program, axis: Axis) -> Dimensions | None:
    """The dimension of each tensor that all accesses index with this axis alone (None for a tensor that it does not index), if every stage has the axis
    and every tensor is so."""
    dimensions: Dimensions = {}
    for stage in program.stages:
        if axis not in stage.spatial:
            return None
        for access in (stage.write, *reads(stage.body)):
            places = [place for place, index in enumerate(access.indices) if axis in index.axes]
            alone = len(places) <= 1 and all(access.indices[place] == affine(axis) and access.tensor.shape[place] == axis.extent for place in places)
            place = places[0] if places else None
            if not alone or dimensions.setdefault(access.tensor, place) != place:
                return None
    return dimensions


def _slice(array: Array, dimension: int | None, start: int, stop: int) -> Array:
    return array if dimension is None else array[(slice(None),) * dimension + (slice(start, stop),)]


def narrowed(program: Program, axis: Axis, extent: int, dimensions: Dimensions) -> Program:
    """The program with `extent` iterations of `axis`."""
    short = Axis(axis.name, extent)

    def tensor(of: Tensor) -> Tensor:
        place = dimensions[of]
        return of if place is None else replace(of, shape=(*of.shape[:place], extent, *of.shape[place + 1 :]))

    def indices(of: tuple[Affine, ...]) -> tuple[Affine, ...]:
        return tuple(replace(index, terms=tuple((short if each == axis else each, factor) for each, factor in index.terms)) for index in of)

    def read(of: Read) -> Read:
        return replace(of, tensor=tensor(of.tensor), indices=indices(of.indices))

    def stage(of: Stage) -> Stage:
        spatial = tuple(short if each == axis else each for each in of.spatial)
        return replace(of, output=tensor(of.output), indices=indices(of.indices), spatial=spatial, body=map_reads(of.body, read))

    return Program(tuple(tensor(of) for of in program.inputs), tuple(stage(of) for of in program.stages))
