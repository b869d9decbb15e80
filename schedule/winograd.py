"""Winograd's convolution: windows that move by their own steps, by transforms of small tiles and products of what comes out of them.

F(m, r) computes m neighbouring outputs of a window of r taps from α = m + r - 1 inputs with α multiplications instead of m r (Winograd, Arithmetic
Complexity of Computations, 1980); nested along two axes, F(m×m, r×r) takes α² instead of m² r² (Lavin and Gray, Fast Algorithms for Convolutional
Neural Networks, CVPR 2016): for r = 3 2.25 times fewer with m = 2, 4 times fewer with m = 4. At most two windows of a convolution are nested, the innermost
ones; along other axes, and over the channels, products are added up as they are. So a convolution of one dimension is one of F(m, r), and one of
three dimensions sums F(m×m, r×r) over the taps of the outermost axis. Dilated and transposed convolutions are taken by phases, each of which has windows
that move by their own steps, and groups have products of their own.

What a large α costs is precision: for standard normal inputs and weights the largest error against fp64, relative to the largest output, was measured
below 1e-6 for α up to 4 and below 2e-5 for α up to 6 (m = 4, and windows of five taps), for up to 512 channels; that of direct sums, which are longer, was
up to 2.4e-6 (`tests/test_schedule_winograd.py`).

Notation: g a window of weights, d a tile of the input, y a tile of the output; p the position in a transformed tile, t the tile, c input channels, k
output channels, b what input, weights and output have in common (groups, phases). With two axes

  u = G g Gᵀ     v = Bᵀ d B     products[p, b, t, k] = Σ over c of v[p, b, t, c] u[p, b, c, k]     y = Aᵀ products A
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

from ir.program import Affine, Apply, Axis, Program, Read, Stage, Table, Tensor, Value, affine, factors, map_reads
from schedule.sketch import Operand

TAPS = {2: (2, 3, 5), 4: (2, 3)}  # by m, the windows that networks have, of those for which α is at most 6: more points cost too much precision
POINTS = (0, 1, -1, 2, -2)  # where polynomials are evaluated, besides infinity; as many as are needed
MOST_NESTED = 2  # windows
PRODUCTS = 1  # number of the stage of products, without the one that makes u
Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Transforms:
    """The matrices G, Bᵀ and Aᵀ of F(m, r)."""

    weights: Matrix
    input: Matrix
    output: Matrix


@cache
def transforms(m: int, taps: int) -> Transforms:
    """Of F(m, taps), after Toom and Cook: a product of polynomials from its values at `POINTS` and infinity, transposed. Rows of Bᵀ are the coefficients
    of the polynomials that are 0 at all points but one; their values there divide the rows of G."""
    points = POINTS[: m + taps - 2]
    weights, inputs = [], []
    for point in points:
        others = [other for other in points if other != point]
        value = math.prod(point - other for other in others)
        weights.append([float(Fraction(point**power, value)) for power in range(taps)])
        inputs.append([*_with_roots(others), 0.0])
    weights.append([0.0] * (taps - 1) + [1.0])
    inputs.append(_with_roots(points))
    outputs = [[float(point**power) for point in points] + [float(power == m - 1)] for power in range(m)]
    return Transforms(*(tuple(map(tuple, rows)) for rows in (weights, inputs, outputs)))


def _with_roots(roots: Sequence[int]) -> list[float]:
    """Coefficients of the product of all x - root, that of the lowest power first."""
    result = [1.0]
    for root in roots:
        result = [a - root * b for a, b in zip([0.0, *result], [*result, 0.0], strict=True)]
    return result


Group = tuple[Axis, ...]  # spatial axes along neighbouring dimensions of both the input and the output, or one axis alone


@dataclass(frozen=True)
class _Convolution:
    """The first stage of a program as Winograd sees it.

    `windows`: by spatial axis the reduce axis that moves with it, by the same steps. `common`: the spatial axes b, on which the weights depend too.
    `input_groups`, `output_groups`: what the dimensions of v and of the products are made of, after p and b. `whole`: for an axis of v along a dimension of
    the input that other windows slide over, that dimension.
    """

    input: Read
    weights: Read
    windows: Mapping[Axis, Axis]
    common: tuple[Axis, ...]
    input_groups: tuple[Group, ...]
    output_groups: tuple[Group, ...]
    whole: Mapping[Axis, int]


def winograd(program: Program, m: int) -> Program | None:
    """`program` by F(m, r) along each of its windows; None where its first stage is no such convolution, or where direct products would be fewer.

    The first stage of the result makes u of constants alone. The tiles at the edge reach beyond the output, where nothing is written, and beyond the input,
    where zeros are read.
    """
    program = _by_phases(program, m)
    found = _convolution(program.stages[0], m)
    if found is None:
        return None
    ours = math.prod(-(-axis.extent // m) * (m + tap.extent - 1) for axis, tap in found.windows.items())
    if ours >= math.prod(axis.extent * tap.extent for axis, tap in found.windows.items()):
        return None
    return _transformed(program, found, m)


# --- what it applies to ---------------------------------------------------------------------------------------------


def _operands(stage: Stage) -> tuple[Read, Read] | None:
    """Input and weights of a sum of products of one variable and one constant operand."""
    reads = [factor for factor in factors(stage.body) if isinstance(factor, Read)]
    if stage.reduction != "sum" or len(factors(stage.body)) != 2 or sorted(read.tensor.constant for read in reads) != [False, True]:
        return None
    source, weights = sorted(reads, key=lambda read: read.tensor.constant)
    return source, weights


def _windows(stage: Stage, source: Read, weights: Read, m: int) -> dict[Axis, tuple[Axis, int]]:
    """The windows of F(m, r), those of the innermost dimensions: by spatial axis the reduce axis, and how many of its steps one of the reduce axis is."""
    found: dict[Axis, tuple[Axis, int]] = {}
    for index in source.indices:
        spatial = [axis for axis in index.axes if axis in stage.spatial and axis not in weights.axes and index.factor(axis) > 0]
        taps = [axis for axis in index.axes if axis in stage.reduce]
        if len(taps) != 1 or taps[0].extent not in TAPS[m]:
            continue
        fitting = [axis for axis in spatial if index.factor(taps[0]) > 0 and index.factor(taps[0]) % index.factor(axis) == 0]
        alone = {axis: sum(axis in other.axes for other in source.indices) == 1 for axis in (*fitting, *taps)}
        if fitting and all(alone.values()):
            axis = max(fitting, key=index.factor)
            found[axis] = taps[0], index.factor(taps[0]) // index.factor(axis)
    return dict(list(found.items())[-MOST_NESTED:])


def _by_phases(program: Program, m: int) -> Program:
    """Dilated windows by phases: of o = d q + p, those with the same p have windows that move by their own steps along q."""
    stage = program.stages[0]
    operands = _operands(stage)
    split = {axis: steps for axis, (_, steps) in _windows(stage, *operands, m).items() if steps > 1} if operands else {}
    if not split:
        return program
    parts = {axis: ((Axis(axis.name, -(-axis.extent // by)), by), (Axis(f"{axis.name}_phase", by), 1)) for axis, by in split.items()}

    def split_axes(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(new for axis in axes for new, _ in parts.get(axis, ((axis, 1),)))

    stages = tuple(
        replace(
            each, indices=_renamed(each.write, parts).indices, spatial=split_axes(each.spatial), body=map_reads(each.body, lambda read: _renamed(read, parts))
        )
        for each in program.stages
    )  # fmt: skip
    return Program(program.inputs, stages)


def _convolution(stage: Stage, m: int) -> _Convolution | None:
    operands = _operands(stage)
    if operands is None or operands[0].outside != 0:
        return None
    source, weights = operands
    windows = {axis: tap for axis, (tap, _) in _windows(stage, source, weights, m).items()}
    channels = [axis for axis in stage.reduce if axis not in windows.values()]
    if not windows or not channels or any(axis not in read.axes for axis in channels for read in operands):
        return None
    phases = {axis for index in stage.indices if set(index.axes) & windows.keys() for axis in index.axes if axis in weights.axes}
    common = tuple(axis for axis in stage.spatial if axis in phases or {axis} <= {*source.axes} & {*weights.axes})
    inward, whole = _input_axes(source, windows, common)
    outward = [axis for index in stage.indices for axis in index.axes if axis not in common]
    shared = [axis for axis in outward if axis in inward]
    groups = _groups(inward, shared), _groups(outward, shared)
    if {group for group in groups[0] if group[0] in shared} != {group for group in groups[1] if group[0] in shared}:
        groups = _groups(inward, ()), _groups(outward, ())
    return _Convolution(source, weights, windows, common, *groups, whole)


def _input_axes(source: Read, windows: Mapping[Axis, Axis], common: Sequence[Axis]) -> tuple[list[Axis], dict[Axis, int]]:
    """The axes of v after p and b in the order of the input's dimensions, and the dimensions of those that stand for a whole one."""
    axes: list[Axis] = []
    whole: dict[Axis, int] = {}
    for dimension, together in Operand(source).parts:
        if set(together) & windows.keys() or len(together) == 1:
            axes += [axis for axis in together if axis not in common and axis not in windows.values()]
        else:
            low, high = source.indices[dimension].range
            every = Axis(f"{source.tensor.name}_{dimension}", high - low + 1)
            whole[every] = dimension
            axes.append(every)
    return axes, whole


def _groups(axes: Sequence[Axis], shared: Sequence[Axis]) -> tuple[Group, ...]:
    """Neighbouring `shared` axes together."""
    groups: list[Group] = []
    for axis in axes:
        if groups and axis in shared and groups[-1][-1] in shared:
            groups[-1] = (*groups[-1], axis)
        else:
            groups.append((axis,))
    return tuple(groups)


# --- the program ----------------------------------------------------------------------------------------------------


def _transformed(program: Program, found: _Convolution, m: int) -> Program:
    stage, windows, common = program.stages[0], found.windows, found.common
    sizes = {axis: m + tap.extent - 1 for axis, tap in windows.items()}
    matrices = {axis: transforms(m, tap.extent) for axis, tap in windows.items()}
    taps = {axis: replace(tap, name=f"{tap.name}_tap") for axis, tap in windows.items()}
    tiles = {axis: Axis(f"{axis.name}_tile", -(-axis.extent // m)) for axis in windows}
    inside = {axis: Axis(f"{axis.name}_in", m) for axis in windows}
    before = {axis: Axis(f"{axis.name}_before", size) for axis, size in sizes.items()}  # of a tile before its transform
    after = {axis: Axis(f"{axis.name}_after", size) for axis, size in sizes.items()}
    at_before, at_after = (_index(tuple(axes.values()), {}) for axes in (before, after))
    position = Axis("position", math.prod(sizes.values()))
    in_common = tuple(map(affine, common))

    kept = tuple(axis for axis in found.weights.axes if axis not in windows.values())
    u = Tensor("u", (position.extent, *(axis.extent for axis in kept)), constant=True)
    weights = _renamed(found.weights, {windows[axis]: ((tap, 1),) for axis, tap in taps.items()})
    of_weights = {axis: matrix.weights for axis, matrix in matrices.items()}
    make_u = _transform(u, (at_after, *map(affine, kept)), (*after.values(), *kept), of_weights, after, taps, weights)

    read_common = tuple(axis for axis in common if axis in found.input.axes)
    inward = (*(affine(axis) for axis in read_common), *(_index(group, tiles) for group in found.input_groups))
    v = Tensor("v", (position.extent, *(axis.extent for axis in read_common), *(_extent(group, tiles) for group in found.input_groups)))
    v_spatial = (*after.values(), *read_common, *(tiles.get(axis, axis) for group in found.input_groups for axis in group))
    moved = {axis: ((tile, m),) for axis, tile in tiles.items()} | {windows[axis]: ((column, 1),) for axis, column in before.items()}
    source = _over_whole(_renamed(found.input, moved), found)
    make_v = _transform(v, (at_after, *inward), v_spatial, {axis: matrix.input for axis, matrix in matrices.items()}, after, before, source)

    joined = {group: _joined(group, tiles) for group in (*found.input_groups, *found.output_groups)}
    outward = tuple(joined[group] for group in found.output_groups)
    products = Tensor("products", (position.extent, *(axis.extent for axis in (*common, *outward))))
    v_read = Read(v, (affine(position), *map(affine, read_common), *(_place(group, joined[group], found) for group in found.input_groups)))
    product = Apply("mul", (v_read, Read(u, (affine(position), *map(affine, kept)))))
    channels = tuple(axis for axis in stage.reduce if axis not in windows.values())
    multiply = Stage(products, (affine(position), *in_common, *map(affine, outward)), (position, *common, *outward), channels, product, "sum")

    placed = {axis: ((tile, m), (inside[axis], 1)) for axis, tile in tiles.items()}
    y_spatial = tuple(new for axis in stage.spatial for new in ((tiles[axis], inside[axis]) if axis in tiles else (axis,)))
    y_read = Read(products, (at_before, *in_common, *(_index(group, tiles) for group in found.output_groups)))
    of_output = {axis: matrix.output for axis, matrix in matrices.items()}
    make_y = _transform(stage.output, _renamed(stage.write, placed).indices, y_spatial, of_output, inside, before, y_read)

    epilogue = [
        replace(
            each, indices=_renamed(each.write, placed).indices, spatial=y_spatial, body=map_reads(each.body, lambda read: _renamed(read, placed))
        )
        for each in program.stages[1:]
    ]  # fmt: skip
    return Program(program.inputs, (make_u, make_v, multiply, make_y, *epilogue))


def _transform(
    output: Tensor, indices: tuple[Affine, ...], spatial: tuple[Axis, ...], matrices: Mapping[Axis, Matrix], rows: Mapping[Axis, Axis],
    columns: Mapping[Axis, Axis], source: Read,
) -> Stage:  # fmt: skip
    """A matrix applied to a tile along each axis of the windows."""
    body: Value = source
    for axis, matrix in reversed(tuple(matrices.items())):
        body = Apply("mul", (Table(rows[axis], columns[axis], matrix), body))
    return Stage(output, indices, spatial, tuple(columns.values()), body, "sum")


def _renamed(read: Read, axes: Mapping[Axis, Sequence[tuple[Axis, int]]]) -> Read:
    """The read with sums of other axes in place of some."""

    def index(old: Affine) -> Affine:
        return affine(*((new, factor * by) for axis, factor in old.terms for new, by in axes.get(axis, ((axis, 1),))), constant=old.constant)

    return replace(read, indices=tuple(index(old) for old in read.indices))


def _over_whole(read: Read, found: _Convolution) -> Read:
    """The read with v's own axis in place of the windows that slide over a whole dimension, so that v has the padding in it, too."""
    indices = list(read.indices)
    for axis, dimension in found.whole.items():
        indices[dimension] = affine(axis, constant=found.input.indices[dimension].range[0])
    return replace(read, indices=tuple(indices))


def _place(group: Group, joined: Axis, found: _Convolution) -> Affine:
    """Where the products read v along the dimension of a group."""
    if group[0] not in found.whole:
        return affine(joined)
    index = found.input.indices[found.whole[group[0]]]
    return replace(index, constant=index.constant - index.range[0])


def _extent(group: Group, tiles: Mapping[Axis, Axis]) -> int:
    return math.prod(tiles.get(axis, axis).extent for axis in group)


def _index(group: Group, tiles: Mapping[Axis, Axis]) -> Affine:
    """The position in a dimension that the axes of the group have together."""
    return affine(*((tiles.get(axis, axis), _extent(group[place + 1 :], tiles)) for place, axis in enumerate(group)))


def _joined(group: Group, tiles: Mapping[Axis, Axis]) -> Axis:
    return Axis("_".join(tiles.get(axis, axis).name for axis in group), _extent(group, tiles))
