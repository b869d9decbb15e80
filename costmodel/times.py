"""How long the parts of a stage take, estimated, as expressions: a round number for each kind of work and each level of memory, and what overlaps.

A half cycle is the time of one vector operation in a core that starts two a cycle. The numbers are for the CPUs of these years.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from costmodel.arithmetic import STORE_HALF_CYCLES
from costmodel.stage import StageQuantities
from ir.expression import Expr, add, ceil_div, less, maximum, minimum, mul, sub, where

# Of what stands around the updates: the counting, comparing and jumping of a loop for each of its iterations, and to find the addresses of a register tile,
# clear it, and begin its loops.
LOOP_HALF_CYCLES, TILE_HALF_CYCLES = 4, 8

SHARED_LINE_HALF_CYCLES = 60  # until a cache line that another thread has written is here
EDGE_HALF_CYCLES = 2  # to find out whether there is an element, for the vectors of a row together

# Bytes that arrive in half a cycle, from the second level of cache on. The last is shared.
BYTES_PER_HALF_CYCLE = {"l1": 24, "l2": 8, "l3": 4}
HELD_STEPS = 1024  # in which the part of the data that is still in a cache from the run before is counted


@dataclass(frozen=True)
class StageTimes:
    """Of one tiled stage."""

    stage: StageQuantities

    def quantities(self) -> dict[str, Expr]:
        """Half cycles that each part would take on its own: all threads together, then the longest and the sum on the busiest thread."""
        parts = self.of_busiest
        longest: Expr = 0
        for half_cycles in parts.values():
            longest = maximum(longest, half_cycles)
        times = self._parts | {"sharing": self.sharing, "longest": add(longest, self.sharing), "sum": add(*parts.values(), self.sharing)}
        return {f"half_cycles.{name}": half_cycles for name, half_cycles in times.items()}

    @cached_property
    def of_busiest(self) -> dict[str, Expr]:
        """What the busiest thread has of each part; all of them wait for what comes through the last cache."""
        return {name: part if name == "l3" else self.stage.shares.of_busiest(part) for name, part in self._parts.items()}

    @cached_property
    def sharing(self) -> Expr:
        """Half cycles of waiting for cache lines that two threads write."""
        return mul(SHARED_LINE_HALF_CYCLES, self.stage.shares.shared_lines)

    @cached_property
    def _parts(self) -> dict[str, Expr]:
        """All threads together."""
        parts = {"updates": self._updating(), "loops": self._looping()}
        for cache, rate in BYTES_PER_HALF_CYCLE.items():
            parts[cache] = ceil_div(mul(self.stage.traffic[cache].total, self._missing(cache)), rate * HELD_STEPS)
        return parts

    def _updating(self) -> Expr:
        """Half cycles of the updates and the accumulators if all data are in the first-level cache."""
        stage, tiled, tile = self.stage, self.stage.tiled, self.stage.tile
        updates = stage.visited(ceil_div(mul(tile.half_cycles, stage.n_steps), tile.copies))
        if tiled.is_across:  # combined by halves, each a shuffle and an operation
            accumulators = mul(stage.n_outputs, add(tile.copies, 2 * stage.target.lanes.bit_length()))
        else:  # a store for each slice, a load of those that come again
            accumulators = mul(stage.output_vectors, sub(mul(stage.n_slices, STORE_HALF_CYCLES + 1), 1), self._stores_of_vector())
        kept = STORE_HALF_CYCLES * stage.output_vectors * stage.n_steps if tiled.keeps else 0
        return add(updates, accumulators, kept, self._asking())

    def _stores_of_vector(self) -> Expr:
        """Its lanes one by one where neighbours in the output lie apart."""
        stage = self.stage
        return where(less(1, stage.accesses["output"].stride(stage.tiled.vector)), stage.target.lanes, 1)

    def _asking(self) -> Expr:
        """Half cycles of asking whether there is an element, at the edges of padded inputs."""
        stage, tile = self.stage, self.stage.tile
        if stage.edge_points == 0:
            return 0
        in_row = 1 if stage.tiled.is_across else ceil_div(tile.full[stage.tiled.vector], stage.target.lanes)
        guarded = (mul(stage.tiled.is_guarded(operand), tile.loads(role, tile.full, tile.copies)) for role, operand in stage.operands.items())
        rows = ceil_div(add(*guarded), in_row)
        bodies = stage.visited(ceil_div(mul(stage.tiles, stage.n_steps), tile.copies))
        return ceil_div(mul(EDGE_HALF_CYCLES, rows, bodies, stage.edge_points), stage.n_outputs)

    def _looping(self) -> Expr:
        """Half cycles around the updates; of the innermost loop an iteration has as many steps as there are copies."""
        structure = self.stage.structure
        iterations = [place.executions for place in structure.places[1:]]
        if structure.of("inner"):
            iterations[-1] = ceil_div(iterations[-1], self.stage.tile.copies)
        return add(mul(LOOP_HALF_CYCLES, add(0, *iterations)), mul(TILE_HALF_CYCLES, self.stage.place("tile").executions))

    def _missing(self, cache: str) -> Expr:
        """How many of `HELD_STEPS` parts of what is loaded are no more in the cache from the run before: none as long as the stage, judged alone, touches up to
        three quarters of its size, all from one and a half on."""
        size = getattr(self.stage.target, f"{cache}_bytes")
        touched = self.stage.touched("whole") if cache == "l3" else self.stage.touched_by_thread
        return minimum(maximum(0, ceil_div(mul(sub(mul(touched, 4), 3 * size), HELD_STEPS), 3 * size)), HELD_STEPS)
