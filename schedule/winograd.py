"""Winograd's convolution: 3×3 windows by transforms of small tiles and products of what comes out of them.

F(m×m, 3×3) computes m×m outputs from α×α inputs, α = m + 2, with α² multiplications instead of 9m² (Lavin and Gray, Fast Algorithms for Convolutional
Neural Networks, CVPR 2016): 2.25 times fewer for m = 2, 4 times fewer for m = 4. What m = 4 costs is precision: for standard
normal inputs and weights the largest error against fp64, relative to the largest output, was measured below 1e-6 for m = 2 and below 2e-5 for m = 4, for
up to 512 channels; that of direct sums, which are longer, was up to 2e-6 (`tests/test_schedule_winograd.py`).

Notation: g a 3×3 window of weights, d an α×α tile of the input, y an m×m tile of the output; p the position in a transformed tile, t the tile,
c input channels, k output channels.

  u = G g Gᵀ     v = Bᵀ d B     products[p, t, k] = Σ over c of v[p, t, c] u[p, c, k]     y = Aᵀ products A
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ir.program import Affine, Apply, Axis, Program, Read, Stage, Table, Tensor, Value, affine, factors, map_reads

WINDOW = 3
PRODUCTS = 1  # number of the stage of products, without the one that makes u
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Transforms:
    """The matrices G, Bᵀ and Aᵀ of one tile size."""

    weights: Matrix
    input: Matrix
    output: Matrix


TRANSFORMS = {
    2: Transforms(
        weights=((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        input=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        output=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    4: Transforms(
        weights=((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1)),
        input=((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1)),
        output=((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    ),
}


Group = tuple[Axis, ...]  # spatial axes along neighbouring dimensions of both the input and the output, or one axis alone


@dataclass(frozen=True)
class _Convolution:
    """The first stage of a program as Winograd sees it. `windows`: by spatial axis the reduce axis that moves with it, by one each."""

    input: Read
    weights: Read
    windows: Mapping[Axis, Axis]
    input_groups: tuple[Group, ...]
    output_groups: tuple[Group, ...]


def winograd(program: Program, m: int) -> Program | None:
    """`program` by F(m×m, 3×3); None where its first stage is no such convolution, or where direct products would be fewer.

    The first stage of the result makes u of constants alone. The tiles at the edge reach beyond the output, where nothing is written, and beyond the input,
    where zeros are read.
    """
    found = _convolution(program.stages[0])
    if found is None:
        return None
    tiles = math.prod(-(-axis.extent // m) for axis in found.windows)
    if tiles * (m + WINDOW - 1) ** 2 >= math.prod(axis.extent for axis in found.windows) * WINDOW**2:
        return None
    return _transformed(program, found, m)


# --- what it applies to ---------------------------------------------------------------------------------------------


def _convolution(stage: Stage) -> _Convolution | None:
    reads = [factor for factor in factors(stage.body) if isinstance(factor, Read)]
    if stage.reduction != "sum" or len(factors(stage.body)) != 2 or sorted(read.tensor.constant for read in reads) != [False, True]:
        return None
    source, weights = sorted(reads, key=lambda read: read.tensor.constant)
    windows = {index.axes[0]: index.axes[1] for index in source.indices if _is_window(index, stage, weights)}
    single = [index for index in source.indices if index.axes[:1] and index.axes[0] not in windows]
    shared = [axis for axis in stage.spatial if axis in source.axes]
    channels = [axis for axis in stage.reduce if axis not in windows.values()]
    if (
        len(windows) != 2
        or source.outside != 0
        or any(index != affine(*index.axes[:1]) for index in (*single, *stage.indices))
        or not channels
        or any(axis not in read.axes for axis in channels for read in reads)
        or any(axis in weights.axes for axis in shared)
    ):
        return None
    groups = _groups(source.indices, shared), _groups(stage.indices, shared)
    if {group for group in groups[0] if group[0] in shared} != {group for group in groups[1] if group[0] in shared}:
        return None
    return _Convolution(source, weights, windows, *groups)


def _is_window(index: Affine, stage: Stage, weights: Read) -> bool:
    """Whether it moves by one with a spatial axis and with a reduce axis of `WINDOW` positions, along which the weights have a dimension of their own."""
    match index.terms:
        case ((spatial, 1), (reduce, 1)) if spatial in stage.spatial and reduce in stage.reduce:
            along = [other for other in weights.indices if reduce in other.axes]
            return reduce.extent == WINDOW and len(along) == 1 and along[0].axes == (reduce,)
    return False


def _groups(indices: Sequence[Affine], shared: Sequence[Axis]) -> tuple[Group, ...]:
    """The first axis of each dimension, those of neighbouring dimensions along `shared` axes together."""
    groups: list[Group] = []
    for axis in (index.axes[0] for index in indices if index.axes):
        if groups and axis in shared and groups[-1][-1] in shared:
            groups[-1] = (*groups[-1], axis)
        else:
            groups.append((axis,))
    return tuple(groups)


# --- the program ----------------------------------------------------------------------------------------------------


def _transformed(program: Program, found: _Convolution, m: int) -> Program:
    stage, size, matrices, windows = program.stages[0], m + WINDOW - 1, TRANSFORMS[m], found.windows
    taps = {tap: replace(tap, name=f"{tap.name}_tap") for tap in windows.values()}
    tiles = {axis: Axis(f"{axis.name}_tile", -(-axis.extent // m)) for axis in windows}
    inside = {axis: Axis(f"{axis.name}_in", m) for axis in windows}
    before = {axis: Axis(f"{axis.name}_before", size) for axis in windows}  # of a tile before its transform
    after = {axis: Axis(f"{axis.name}_after", size) for axis in windows}
    at_before, at_after = (affine(*zip(axes.values(), (size, 1), strict=True)) for axes in (before, after))
    position = Axis("position", size * size)

    kept = tuple(axis for axis in found.weights.axes if axis not in taps)
    u = Tensor("u", (position.extent, *(axis.extent for axis in kept)), constant=True)
    weights = _renamed(found.weights, {old: ((new, 1),) for old, new in taps.items()})
    make_u = _transform(u, (at_after, *map(affine, kept)), (*after.values(), *kept), matrices.weights, after, taps, weights)

    v = Tensor("v", (position.extent, *(_extent(group, tiles) for group in found.input_groups)))
    v_indices = (at_after, *(_index(group, tiles) for group in found.input_groups))
    v_spatial = (*after.values(), *(tiles.get(axis, axis) for group in found.input_groups for axis in group))
    moved = {axis: ((tile, m),) for axis, tile in tiles.items()} | {windows[axis]: ((column, 1),) for axis, column in before.items()}
    make_v = _transform(v, v_indices, v_spatial, matrices.input, after, before, _renamed(found.input, moved))

    joined = {group: _joined(group, tiles) for group in (*found.input_groups, *found.output_groups)}
    outward = tuple(joined[group] for group in found.output_groups)
    products = Tensor("products", (position.extent, *(axis.extent for axis in outward)))
    v_read = Read(v, (affine(position), *(affine(joined[group]) for group in found.input_groups)))
    product = Apply("mul", (v_read, Read(u, (affine(position), *map(affine, kept)))))
    channels = tuple(axis for axis in stage.reduce if axis not in taps)
    multiply = Stage(products, (affine(position), *map(affine, outward)), (position, *outward), channels, product, "sum")

    placed = {axis: ((tile, m), (inside[axis], 1)) for axis, tile in tiles.items()}
    y_spatial = tuple(new for axis in stage.spatial for new in ((tiles[axis], inside[axis]) if axis in tiles else (axis,)))
    y_read = Read(products, (at_before, *(_index(group, tiles) for group in found.output_groups)))
    make_y = _transform(stage.output, _renamed(stage.write, placed).indices, y_spatial, matrices.output, inside, before, y_read)

    epilogue = [
        replace(
            each, indices=_renamed(each.write, placed).indices, spatial=y_spatial, body=map_reads(each.body, lambda read: _renamed(read, placed))
        )
        for each in program.stages[1:]
    ]  # fmt: skip
    return Program(program.inputs, (make_u, make_v, multiply, make_y, *epilogue))


def _transform(
    output: Tensor, indices: tuple[Affine, ...], spatial: tuple[Axis, ...], matrix: Matrix, rows: Mapping[Axis, Axis], columns: Mapping[Axis, Axis],
    source: Read,
) -> Stage:  # fmt: skip
    """The matrix applied to a tile from both sides."""
    tables = (Table(row, column, matrix) for row, column in zip(rows.values(), columns.values(), strict=True))
    body: Value = source
    for table in reversed(tuple(tables)):
        body = Apply("mul", (table, body))
    return Stage(output, indices, spatial, tuple(columns.values()), body, "sum")


def _renamed(read: Read, axes: Mapping[Axis, Sequence[tuple[Axis, int]]]) -> Read:
    """The read with sums of other axes in place of some."""

    def index(old: Affine) -> Affine:
        return affine(*((new, factor * by) for axis, factor in old.terms for new, by in axes.get(axis, ((axis, 1),))), constant=old.constant)

    return replace(read, indices=tuple(index(old) for old in read.indices))


def _extent(group: Group, tiles: Mapping[Axis, Axis]) -> int:
    return math.prod(tiles.get(axis, axis).extent for axis in group)


def _index(group: Group, tiles: Mapping[Axis, Axis]) -> Affine:
    """The position in a dimension that the axes of the group have together."""
    return affine(*((tiles.get(axis, axis), _extent(group[place + 1 :], tiles)) for place, axis in enumerate(group)))


def _joined(group: Group, tiles: Mapping[Axis, Axis]) -> Axis:
    return Axis("_".join(tiles.get(axis, axis).name for axis in group), _extent(group, tiles))
