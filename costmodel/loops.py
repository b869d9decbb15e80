"""The loops of a tiled stage as expressions: how often each place between two loops is reached, and what is covered from there in.

A place stands between two loops. Outside of it are all loops of the bands before its own and the first few of its own band, in the
order that the schedule chose, so what they cover depends on the symbols of that order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from ir.expression import Expr, both, ceil_div, equal, less, minimum, mul, where
from ir.program import Axis
from schedule.sketch import BANDS, TiledStage


@dataclass(frozen=True)
class Place:
    """`extents`: elements of each axis that one execution of everything inside covers, where no tile is cut short. `counts`: in how many
    parts the loops outside cut each axis. `executions`: how often the place is reached in one run of the stage, exactly."""

    extents: Mapping[Axis, Expr]
    counts: Mapping[Axis, Expr]
    executions: Expr


@dataclass(frozen=True)
class Loop:
    """The loop of `band` that is number `number` from the outside. `trips` counts its iterations where no tile is cut short."""

    band: str
    number: int
    trips: Expr


@dataclass(frozen=True)
class LoopStructure:
    """`loops[i]` stands between `places[i]` and `places[i + 1]`, the outermost first."""

    tiled: TiledStage
    loops: tuple[Loop, ...]
    places: tuple[Place, ...]

    def of(self, band: str) -> tuple[Loop, ...]:
        return tuple(loop for loop in self.loops if loop.band == band)

    def index(self, band: str, entered: int) -> int:
        """Number of the place inside the first `entered` loops of the band, or inside all of them if there are fewer."""
        numbers = self._numbers[band]
        return min(numbers.start + entered, numbers.stop)

    def inside(self, band: str) -> int:
        """Number of the place inside all loops of the band."""
        return self._numbers[band].stop

    @cached_property
    def _numbers(self) -> dict[str, range]:
        """Of the loops of each band."""
        ends = accumulate((len(self.of(band)) for band in BANDS), initial=0)
        return {band: range(start, stop) for band, (start, stop) in zip(BANDS, pairwise(ends), strict=True)}


def is_at(tiled: TiledStage, band: str, axis: Axis, number: int) -> Expr:
    """Whether the axis has loop number `number` of the band (-1: the innermost)."""
    return equal(tiled.position(band, axis), number % len(tiled.axes(band)))


def _is_entered(tiled: TiledStage, band: str, axis: Axis, number: int) -> Expr:
    return less(tiled.position(band, axis), number + 1)


def loop_structure(tiled: TiledStage) -> LoopStructure:
    """All loops of the stage down to the register tile; bands without axes have none."""
    extents: dict[Axis, Expr] = {axis: axis.extent for axis in (*tiled.stage.spatial, *tiled.stage.reduce)}
    counts: dict[Axis, Expr] = dict.fromkeys(extents, 1)
    places, loops = [_place(tiled, extents, counts)], []
    for band in BANDS:
        axes = tiled.axes(band)
        inner = {axis: _tile_inside(tiled, band, axis) for axis in axes}
        inner_counts = {axis: _count_inside(tiled, band, axis) for axis in axes}
        steps = ((extents, inner), (counts, inner_counts))
        for number in range(len(axes)):
            entered = {axis: _is_entered(tiled, band, axis, number) for axis in axes}
            now, now_counts = ({**old, **{axis: where(entered[axis], new[axis], old[axis]) for axis in axes}} for old, new in steps)
            loops.append(Loop(band, number, of_loop(tiled, band, number, {axis: ceil_div(extents[axis], inner[axis]) for axis in axes})))
            places.append(_place(tiled, now, now_counts, entered if band == "inner" else {}))
        extents.update(inner)
        counts.update(inner_counts)
    return LoopStructure(tiled, tuple(loops), tuple(places))


def _tile_inside(tiled: TiledStage, band: str, axis: Axis) -> Expr:
    """Elements of the axis that one iteration of its loop in the band covers, at most all of them."""
    return tiled.step(axis) if band == "inner" else minimum(tiled.tilings[axis].sizes[_LEVEL[band]], axis.extent)


def _count_inside(tiled: TiledStage, band: str, axis: Axis) -> Expr:
    """How many iterations the loops of the axis down to the band make in all; tiles are nested, so cut ones add none."""
    return ceil_div(axis.extent, tiled.step(axis)) if band == "inner" else tiled.tilings[axis].count(_LEVEL[band])


_LEVEL = {"parallel": 2, "outer": 1, "slice": 0, "block": 0}  # of the tiling that the loops of a band step by


def _place(tiled: TiledStage, extents: Mapping[Axis, Expr], counts: Mapping[Axis, Expr], entered: Mapping[Axis, Expr] | None = None) -> Place:
    """Spatial and reduce counts are multiplied apart, so that places that differ in one kind share the other's product. `entered`: whether
    the innermost loop of a reduce axis is around the place."""
    spatial, reduce = (mul(*(counts[axis] for axis in axes)) for axes in (tiled.stage.spatial, tiled.stage.reduce))
    return Place(dict(extents), dict(counts), confined(tiled, mul(spatial, reduce), entered or {}))


def confined(tiled: TiledStage, quantity: Expr, entered: Mapping[Axis, Expr] | None = None) -> Expr:
    """What of a quantity, spread evenly over the positions of all axes, falls on those that the loops visit (see `TiledStage.windows`);
    with `entered`, the loops of those axes alone."""
    for window in tiled.windows:
        within = 1 if entered is None else entered.get(window.reduce, 0)
        quantity = where(both(tiled.is_confined(window), within), window.inside(quantity), quantity)
    return quantity


def of_loop(tiled: TiledStage, band: str, number: int, by_axis: Mapping[Axis, Expr]) -> Expr:
    """What `by_axis` gives for the axis that has loop number `number` of the band; of plain numbers a table does."""
    axes = tiled.axes(band)
    numbers = [value for axis in axes if isinstance(value := by_axis[axis], int)]
    if len(numbers) == len(axes):
        return tiled.by_order(band, lambda order: numbers[order[number]])
    result = by_axis[axes[-1]]
    for axis in axes[:-1]:
        result = where(is_at(tiled, band, axis, number), by_axis[axis], result)
    return result
