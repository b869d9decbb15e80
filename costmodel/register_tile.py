"""The register tile: its vectors, its loads, and what executing it costs, over all the sizes that its remainders take."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from costmodel.access import Access
from costmodel.arithmetic import is_fused_product, update_half_cycles
from costmodel.loops import is_at
from ir.expression import Expr, add, ceil_div, floor_div, less, maximum, minimum, mod, mul, where
from ir.program import Axis
from schedule.sketch import TiledStage

# In half cycles of a core that starts two vector operations and two loads a cycle.
FMA_LATENCY, OTHER_LATENCY = 8, 5  # from one update of an accumulator to the next: of a multiply-add, and of any other
IN_FLIGHT = 320  # instructions that a core looks ahead, a round number for the CPUs of these years: short register tiles hide each other's latency


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

    # -- one step, a point of the reduction, and the body of the innermost loop

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

    def _body_half_cycles(self, sizes: Mapping[Axis, Expr]) -> Expr:
        """As long as its updates, its loads, or the latency of one accumulator; across a reduce axis copies of the step have their own. Of that latency a core
        sees the part n / (n + `IN_FLIGHT`), n being about how many instructions a register tile takes for a slice: it works on the next ones meanwhile."""
        loads = add(*(self.loads(role, sizes, self.copies) for role in self.operands))
        of_one = FMA_LATENCY if is_fused_product(self.tiled.stage) else OTHER_LATENCY if self.tiled.stage.reduction else 0
        latency = of_one if self.tiled.is_across else mul(of_one, self.copies)
        operations = 1 if self.tiled.stage.tables else update_half_cycles(self.tiled.stage)
        updates = mul(self.updates(sizes), operations, self.copies)
        instructions = maximum(0, mul(add(updates, loads), ceil_div(self._steps_of_slice, self.copies)))  # (of sizes that do not occur, anything)
        seen = ceil_div(mul(latency, instructions), add(instructions, IN_FLIGHT))
        return maximum(maximum(updates, loads), seen)

    @cached_property
    def _steps_of_slice(self) -> Expr:
        """Steps from when accumulators are cleared or loaded until they are stored."""
        tilings = self.tiled.tilings
        return mul(*(ceil_div(minimum(tilings[axis].sizes[0], axis.extent), self.tiled.step(axis)) for axis in self.tiled.axes("inner")))

    @property
    def half_cycles(self) -> Expr:
        """Of one body of the innermost loop, `copies` steps, in every tile of the stage, as if everything were in the first-level cache."""
        return self.total([self._body_half_cycles(variant.sizes) for variant in self.variants])

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
                lengths = add(0, *(mod(length, self.copies) for length in window.lengths))
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
