"""The register tile: its vectors, its loads, and what executing it costs, over all the sizes that its remainders take."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from costmodel.access import Access
from costmodel.arithmetic import update_half_cycles
from costmodel.loops import is_at
from ir.expression import Expr, add, ceil_div, floor_div, less, maximum, minimum, mod, mul, where
from ir.program import Axis
from schedule.sketch import TiledStage

# In half cycles of a core that starts two vector operations and two loads a cycle.
UPDATE_LATENCY = 8  # from one update of an accumulator to the next


@dataclass(frozen=True)
class Variant:
    """One of the sizes that the register tile takes: along each axis the full one or what remains; `count` tiles of it, maybe none."""

    sizes: Mapping[Axis, Expr]
    count: Expr


@dataclass(frozen=True)
class RegisterTile:
    """`operands`: the accesses that are loaded in each step, by role."""

    tiled: TiledStage
    operands: Mapping[str, Access]
    lanes: int

    def vectors(self, sizes: Mapping[Axis, Expr]) -> Expr:
        """That one step updates."""
        return mul(*(ceil_div(sizes[axis], self.lanes) if axis == self.tiled.vector else sizes[axis] for axis in self.tiled.stage.spatial))

    @cached_property
    def full(self) -> dict[Axis, Expr]:
        return {axis: minimum(self.tiled.tilings[axis].sizes[0], axis.extent) for axis in self.tiled.stage.spatial}

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """The full size first."""
        choices = []
        for axis, size in self.full.items():
            rest = mod(axis.extent, size)
            full = (axis, size, floor_div(axis.extent, size))
            choices.append([full] if rest == 0 else [full, (axis, rest, minimum(rest, 1))])
        return tuple(Variant({axis: size for axis, size, _ in choice}, mul(*(count for _, _, count in choice))) for choice in itertools.product(*choices))

    @property
    def n_variants(self) -> Expr:
        """How many sizes occur."""
        return mul(*(add(minimum(mod(axis.extent, size), 1), 1) for axis, size in self.full.items()))

    def total(self, quantities: Sequence[Expr]) -> Expr:
        """Sum over all tiles of a quantity that is given for each variant."""
        return add(*(mul(variant.count, quantity) for variant, quantity in zip(self.variants, quantities, strict=True)))

    # -- one step: one point of the reduction

    def loads(self, role: str, sizes: Mapping[Axis, Expr], steps: Expr = 1) -> Expr:
        """Load instructions of an operand in `steps` steps along the innermost reduce axis."""
        return self.operands[role].loads({**sizes, **self._reduce_box(steps)})

    def _reduce_box(self, steps: Expr) -> dict[Axis, Expr]:
        """Elements of each reduce axis."""
        looped = self.tiled.axes("inner")
        innermost = {axis: where(is_at(self.tiled, "inner", axis, -1), steps, 1) for axis in looped}
        return {axis: mul(innermost[axis], self.tiled.step(axis)) if axis in looped else axis.extent for axis in self.tiled.stage.reduce}

    def updates(self, sizes: Mapping[Axis, Expr]) -> Expr:
        """Vector operations: an update of each accumulator, or all that a transform is made of."""
        stage = self.tiled.stage
        if not stage.tables:
            return self.vectors(sizes)
        return mul(sum(stage.n_operations.values()), self.vectors({**sizes, **dict.fromkeys(stage.written_out, 1)}))

    def _step_half_cycles(self, sizes: Mapping[Axis, Expr]) -> Expr:
        """As long as its updates, its loads, or the latency of one accumulator; across a reduce axis copies of the step have their own."""
        loads = add(*(self.loads(role, sizes) for role in self.operands))
        latency = ceil_div(UPDATE_LATENCY, self.copies) if self.tiled.is_across else UPDATE_LATENCY
        operations = 1 if self.tiled.stage.tables else update_half_cycles(self.tiled.stage)
        return maximum(maximum(mul(self.updates(sizes), operations), loads), latency)

    @property
    def half_cycles(self) -> Expr:
        """Of one step of every tile of the stage, as if everything were in the first-level cache."""
        return self.total([self._step_half_cycles(variant.sizes) for variant in self.variants])

    # -- the innermost loop

    @cached_property
    def innermost_extent(self) -> Expr:
        """Iterations of the innermost loop in a whole slice."""
        result: Expr = 1
        for axis in self.tiled.axes("inner"):
            result = where(is_at(self.tiled, "inner", axis, -1), ceil_div(self.tiled.tilings[axis].sizes[0], self.tiled.step(axis)), result)
        return result

    @cached_property
    def copies(self) -> Expr:
        """Copies of the step in the body of the innermost loop."""
        return minimum(self.tiled.unroll, self.innermost_extent)

    @property
    def has_leftover(self) -> Expr:
        """Whether a loop over the iterations that unrolling leaves follows the innermost one."""
        result: Expr = 0
        for axis in self.tiled.axes("inner"):
            slice_size = self.tiled.tilings[axis].sizes[0]
            left = add(mod(slice_size, self.copies), mod(mod(axis.extent, slice_size), self.copies))
            for window in (window for window in self.tiled.windows if window.reduce == axis):
                lengths = add(0, *(mod(length, self.copies) for length in sorted(set(window.lengths))))
                left = where(self.tiled.is_confined(window), lengths, left)
            result = where(is_at(self.tiled, "inner", axis, -1), minimum(left, 1), result)
        return result

    @property
    def code_updates(self) -> Expr:
        """Vector updates in the text of the stage, all variants and copies counted."""
        present = add(*(mul(minimum(variant.count, 1), self.updates(variant.sizes)) for variant in self.variants))
        if self.tiled.is_across:
            width = mul(self.copies, self.tiled.lanes)
            left = ceil_div(mod(self.tiled.vector.extent, width), self.tiled.lanes)
            return mul(present, add(where(less(self.tiled.vector.extent, width), 0, self.copies), left))
        return mul(present, add(self.copies, self.has_leftover))
