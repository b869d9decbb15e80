"""How many bytes move between the levels of memory: a model of caches that keep what was used last.

At each place in the loops the working set of everything inside is the sum of the accesses' footprints. A cache holds the largest working set
that fits into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from costmodel.access import LINE_BYTES, Access
from costmodel.loops import LoopStructure, Place
from ir.expression import Expr, add, ceil_div, equal, less, mul, where


@dataclass(frozen=True)
class Traffic:
    """`by_access`: bytes loaded into a cache (or, for the output, written) in one run of the stage, by access; `working_set_bytes`: of
    what the cache holds at a time; `executions`: how often that is exchanged."""

    by_access: Mapping[str, Expr]
    working_set_bytes: Expr
    executions: Expr

    @property
    def total(self) -> Expr:
        return add(*self.by_access.values())


class Footprints:
    """Bytes in whole cache lines of each access at each place of a loop structure, places from the outside in. `own`: by access whether its lines are its own;
    those that are not are counted with another access."""

    def __init__(self, structure: LoopStructure, accesses: Mapping[str, Access], own: Mapping[str, Expr]) -> None:
        self.structure = structure
        self.by_access = {
            name: [mul(own.get(name, 1), access.lines(place.extents), LINE_BYTES) for place in structure.places] for name, access in accesses.items()
        }
        self.loads = {name: self._loads(access, self.by_access[name]) for name, access in accesses.items()}
        n_inner = len(structure.of("inner"))  # further in than the register tile's place, the output is in registers
        if n_inner:
            self.by_access["output"][-n_inner:] = [0] * n_inner
            self.loads["output"][-n_inner:] = [self.loads["output"][-n_inner - 1]] * n_inner
        self.working_set = [add(*sizes) for sizes in zip(*self.by_access.values(), strict=True)]

    def _loads(self, access: Access, sizes: Sequence[Expr]) -> list[Expr]:
        """Bytes loaded in all if a cache holds the working set of each place: whatever one run of the loop just outside of it touches is
        loaded once a run, for neighbouring iterations find what they share; and only once for all runs of loops that do not move it."""
        loads = [sizes[0]]
        for here, outside, place in zip(sizes[1:], sizes, self.structure.places, strict=False):
            loads.append(where(equal(here, outside), loads[-1], _in_all(access, outside, place)))
        return loads

    def traffic(self, capacities: Sequence[int]) -> Traffic:
        """Into a cache of `capacities[i]` bytes for the working set of place i."""
        held = [less(size, capacity + 1) for size, capacity in zip(self.working_set, capacities, strict=True)]

        def chosen(values: Sequence[Expr]) -> Expr:
            result = values[-1]
            for value, fits in zip(values[-2::-1], held[-2::-1], strict=True):
                result = where(fits, value, result)
            return result

        executions = [place.executions for place in self.structure.places]
        return Traffic({name: chosen(loads) for name, loads in self.loads.items()}, chosen(self.working_set), chosen(executions))


def _in_all(access: Access, size: Expr, place: Place) -> Expr:
    """`size` bytes in each execution of a place; where the last tile of an axis is cut short, it has less."""
    moving = [axis for axis in place.extents if axis in access.read.axes]
    times = mul(*(count for axis, count in place.counts.items() if axis not in moving), *(axis.extent for axis in moving))
    return ceil_div(mul(times, size), mul(*(place.extents[axis] for axis in moving)))
