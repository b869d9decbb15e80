"""All quantities of one tiled stage but its time, by name, as expressions: what `costmodel.feature_table` lists for its compute and final slots.

Operands are "a" and "b" in the order in which the body reads them; of more than two, these are the largest. An operand that a stage does not have
counts nothing.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from functools import cached_property

from costmodel.access import Access
from costmodel.arithmetic import FUNCTION_KINDS, KINDS, count_functions, is_fused_product
from costmodel.cache import Footprints, Traffic
from costmodel.copies import shared_vectors
from costmodel.edges import interior_points
from costmodel.loops import Loop, LoopStructure, Place, confined, is_at, loop_structure, of_loop
from costmodel.register_tile import RegisterTile
from costmodel.threads import ThreadShares
from ir.expression import Expr, add, both, ceil_div, less, minimum, mod, mul, sub, where
from ir.program import REDUCTIONS, Axis
from schedule.sketch import BANDS, Operand, TiledStage
from schedule.target import Target

ROLES = ("a", "b")
ACCESSES = (*ROLES, "output")
MORE_ROLES = string.ascii_lowercase[2:]  # they count in all totals

# Places in the loops that exist in every sketch: number of loops entered in a band, all of them where it is None.
PLACES = {
    "whole": ("parallel", 0),
    "parallel_1": ("parallel", 1),
    "chunk": ("parallel", None),
    "outer_1": ("outer", 1),
    "block": ("outer", None),
    "slice": ("slice", None),
    "block_1": ("block", 1),
    "tile": ("block", None),
    "inner_1": ("inner", 1),
    "step": ("inner", None),
}
FOOTPRINT_PLACES = ("whole", "chunk", "block", "slice", "tile", "step")
RUN_PLACES = ("chunk", "block", "tile")


def operands_by_role(tiled: TiledStage) -> dict[str, Operand]:
    """See the head of this file."""
    many = len(tiled.operands) > len(ROLES)
    return dict(zip((*ROLES, *MORE_ROLES), sorted(tiled.operands, key=lambda operand: -operand.read.tensor.n_bytes * many), strict=False))


class StageQuantities:
    """Expressions of one tiled stage for one machine."""

    def __init__(self, tiled: TiledStage, target: Target) -> None:
        self.tiled, self.stage, self.target = tiled, tiled.stage, target
        self.operands = operands_by_role(tiled)
        self.structure: LoopStructure = loop_structure(tiled)
        self.accesses = {role: Access(tiled, operand.read, operand, target.lanes) for role, operand in self.operands.items()}
        self.accesses["output"] = Access(tiled, tiled.write, None, target.lanes)
        if tiled.keeps is not None:
            self.accesses["kept"] = Access(tiled, tiled.keeps, None, target.lanes)
        self.tile = RegisterTile(tiled, {role: self.accesses[role] for role in self.operands}, target.lanes)
        is_last = tiled.result.name not in tiled.between
        own = {role: tiled.between.get(operand.read.tensor.name, 1) for role, operand in self.operands.items() if is_last}  # or it lies in the result
        self.footprints = Footprints(self.structure, self.accesses, own)

    def all(self) -> dict[str, Expr]:
        """Every quantity but those of packing, of the epilogue, and of time."""
        by_role = {role: self.access(role) for role in ACCESSES if role in self.accesses}
        nothing = dict.fromkeys(by_role["output"], 0)  # of an operand that the stage has not
        accesses = {f"{role}.{name}": quantity for role in ACCESSES for name, quantity in by_role.get(role, nothing).items()}
        return self.arithmetic() | self.register_tile() | self.parallel() | self.loops() | accesses | self.caches() | self.places()

    def outline(self) -> dict[str, Expr]:
        """Those of them that stages beside the main one are described by, which most stages are: work and threads, what the caches move, and of operands and
        loops the sizes alone."""
        sizes = {f"{role}.{name}": size for role in ACCESSES for name, size in self._sizes(role).items()}
        trips = {f"{band}.trips": self._trips(band) for band in BANDS}
        return self.arithmetic() | self.register_tile() | self.parallel() | trips | sizes | self.caches()

    # -- sizes that several parts use

    @cached_property
    def n_outputs(self) -> int:
        return math.prod(axis.extent for axis in self.stage.spatial)

    @cached_property
    def reduce_length(self) -> int:
        """Positions of the reduce axes that have loops."""
        return math.prod(axis.extent for axis in self.tiled.axes("inner"))

    @cached_property
    def output_vectors(self) -> int:
        """Vectors of the output: register tiles are whole vectors, so no tile size changes their number. Across a reduce axis they are numbers."""
        if self.tiled.is_across:
            return self.n_outputs
        vector = self.tiled.vector.extent
        return self.n_outputs // vector * -(-vector // self.target.lanes)

    @cached_property
    def n_steps(self) -> int:
        """Of the reduction, for each register tile."""
        return math.prod(-(-axis.extent // self.tiled.step(axis)) for axis in self.tiled.axes("inner"))

    @cached_property
    def n_slices(self) -> Expr:
        return mul(*(self.tiled.tilings[axis].count(0) for axis in self.stage.reduce))

    @cached_property
    def chunks(self) -> Expr:
        return self.place("chunk").executions

    @cached_property
    def shares(self) -> ThreadShares:
        return ThreadShares(self.tiled, self.chunks, self.target.threads)

    def visited(self, quantity: Expr) -> Expr:
        """What of a quantity, spread evenly over all points, falls on those that the loops visit."""
        return confined(self.tiled, quantity)

    def _number(self, place: str) -> int:
        band, entered = PLACES[place]
        return self.structure.inside(band) if entered is None else self.structure.index(band, entered)

    def place(self, place: str) -> Place:
        return self.structure.places[self._number(place)]

    # -- the parts

    def arithmetic(self) -> dict[str, Expr]:
        """Scalar operations by kind, and the vector updates that execute them."""
        if self.stage.tables:
            return self._transform_arithmetic()
        points = self.visited(self.n_outputs * self.reduce_length)
        fused = is_fused_product(self.stage)
        counts = count_functions(self.stage.body)
        if fused:
            counts["multiply"] -= 1
        elif self.stage.reduction is not None:
            counts[FUNCTION_KINDS[REDUCTIONS[self.stage.reduction][0]]] += 1
        vector_updates = self.visited(self.output_vectors * self.n_steps)
        return {
            "points": points,
            "fma": mul(points, int(fused)),
            **{kind: mul(points, count) for kind, count in counts.items()},
            "flops": self.visited(self.stage.flops),
            "vector_updates": vector_updates,
            "lane_updates": mul(vector_updates, self.target.lanes),
        }

    def _transform_arithmetic(self) -> dict[str, Expr]:
        counts = self.stage.n_operations
        n_positions = math.prod(axis.extent for axis in self.stage.looped)
        vector_updates = self.tile.total([self.tile.updates(variant.sizes) for variant in self.tile.variants])
        return {
            "points": n_positions * sum(counts.values()),
            **{kind: n_positions * counts.get(kind, 0) for kind in ("fma", *KINDS)},
            "flops": self.stage.flops,
            "vector_updates": vector_updates,
            "lane_updates": mul(vector_updates, self.target.lanes),
        }

    def register_tile(self) -> dict[str, Expr]:
        """The register tile, one step of it, and the text of the innermost loop."""
        tile, vector = self.tile, self.tiled.vector
        step_vectors = tile.vectors(tile.full)
        vectors = mul(step_vectors, tile.copies) if self.tiled.is_across else step_vectors
        vector_count = tile.copies if self.tiled.is_across else ceil_div(tile.full[vector], self.target.lanes)
        # A step holds the accumulators, the vectors of the operand that has the vector axis, one broadcast, and what a later copy reads again.
        shared = 0 if self.tiled.is_across else shared_vectors(self.tiled, tile.copies)
        live = add(vectors, vector_count, 1, shared)
        full = tile.variants[0]
        loads = add(*(tile.loads(role, tile.full) for role in self.operands))
        loads_unrolled = add(*(tile.loads(role, tile.full, tile.copies) for role in self.operands))
        tiles = self.tiles
        return {
            "vectors": vectors,
            "rows": mul(*(tile.full[axis] for axis in self.stage.spatial if axis != vector)),
            "vector_count": vector_count,
            "shared_vectors": shared,
            "live_registers": live,
            "registers": self.target.vector_registers,
            "loads": loads,
            "loads_unrolled": loads_unrolled,
            "tiles": tiles,
            "cut_tiles": sub(tiles, full.count),
            "cut_updates": sub(self.output_vectors, mul(full.count, step_vectors)),
            "output_vectors": self.output_vectors,
            "output.streamed": self.tiled.streams,
            "variants": tile.n_variants,
            "edge_points": self.edge_points,
            "outputs": self.n_outputs,
            "unroll": tile.copies,
            "body_updates": mul(step_vectors, tile.copies),
            "code_updates": tile.code_updates,
            "innermost_extent": tile.innermost_extent,
            "innermost_left": mod(tile.innermost_extent, tile.copies),
        }

    @cached_property
    def tiles(self) -> Expr:
        """Register tiles of one slice of the reduction."""
        return mul(*(self.tiled.tilings[axis].count(0) for axis in self.stage.spatial))

    def parallel(self) -> dict[str, Expr]:
        """Chunks and their distribution over the threads."""
        shares, threads = self.shares, self.target.threads
        return {
            "chunks": self.chunks,
            "threads": threads,
            "busy_threads": shares.busy,
            "chunk_slots": mul(shares.turns, threads),
            "chunk_points": mul(*(extent for extent in self.place("chunk").extents.values())),
            "busiest_points": mul(shares.busiest_points, threads),
            "looped_points": shares.points,
            "shared_lines": shares.shared_lines,
        }

    def loops(self) -> dict[str, Expr]:
        """Of each band: iterations of its loops together, in one execution and in all, and what its innermost loop moves."""
        result: dict[str, Expr] = {}
        for band in BANDS:
            loops = self.structure.of(band)
            result[f"{band}.trips"] = self._trips(band)
            result[f"{band}.executions"] = self.structure.places[self.structure.inside(band)].executions
            result[f"{band}.n_loops"] = add(*(less(1, loop.trips) for loop in loops))
            result[f"{band}.innermost_trips"] = _innermost(loops, [loop.trips for loop in loops], 1)
            for name, axes in self._axes_of_accesses.items():
                moved = [of_loop(self.tiled, band, loop.number, {axis: int(axis in axes) for axis in self.tiled.axes(band)}) for loop in loops]
                result[f"{band}.moves_{name}"] = _innermost(loops, moved, 0)
        result["n_loops"] = add(*(result[f"{band}.n_loops"] for band in BANDS))
        result["n_slices"] = self.n_slices
        return result

    def _trips(self, band: str) -> Expr:
        return mul(*(loop.trips for loop in self.structure.of(band)))

    @cached_property
    def _axes_of_accesses(self) -> dict[str, tuple[Axis, ...]]:
        axes = {role: self.accesses[role].read.axes if role in self.accesses else () for role in ACCESSES}
        return {**axes, "vector": (self.tiled.vector,)}

    def access(self, role: str) -> dict[str, Expr]:
        """Footprints, reuse, loads and strides of one access."""
        access = self.accesses[role]
        result: dict[str, Expr] = {"packed": sub(1, access.in_place)}
        for name in FOOTPRINT_PLACES:
            result[f"{name}.bytes"] = self._bytes(role, name)
            result[f"{name}.lines"] = access.lines(self.place(name).extents)
        for name in RUN_PLACES:
            result[f"{name}.runs"] = access.runs(self.place(name).extents)
        result |= self._reuse(role) | self._loads(role)
        vector_stride = access.stride(self.tiled.vector)
        tile = {axis: extent for axis, extent in self.tile.full.items() if axis != self.tiled.vector}
        result["vector_stride"] = vector_stride
        result["row_conflicts"] = access.set_conflicts(tile)
        result["reduce_stride"] = self._innermost_reduce_stride(role)
        result["slice_conflicts"] = access.set_conflicts({axis: self.place("tile").extents[axis] for axis in self.stage.reduce})
        return result

    def _sizes(self, role: str) -> dict[str, Expr]:
        """Of an access, a part of what `access` says."""
        if role not in self.accesses:
            return dict.fromkeys(("whole.bytes", "tile.lines", "reduce_stride"), 0)
        lines = self.accesses[role].lines(self.place("tile").extents)
        return {"whole.bytes": self._bytes(role, "whole"), "tile.lines": lines, "reduce_stride": self._innermost_reduce_stride(role)}

    def _bytes(self, role: str, place: str) -> Expr:
        access = self.accesses[role]
        return mul(access.elements(self.place(place).extents), access.element_bytes)

    def _innermost_reduce_stride(self, role: str) -> Expr:
        result: Expr = 0
        for axis in self.tiled.axes("inner"):
            result = where(is_at(self.tiled, "inner", axis, -1), self.accesses[role].stride(axis), result)
        return result

    def _loads(self, role: str) -> dict[str, Expr]:
        """Load instructions: of an operand in a step of a full tile and in all, of the output between slices."""
        if role == "output":
            again = mul(sub(self.n_slices, 1), self.output_vectors) if self.stage.reduce else 0
            stores = mul(self.n_slices, self.output_vectors)
            return {"loads": 0, "load_instructions": again, "loaded_bytes": mul(again, self._vector_bytes(role)), "store_instructions": stores}
        loads = [self.tile.loads(role, variant.sizes) for variant in self.tile.variants]
        total = self.visited(mul(self.tile.total(loads), self._loading_steps(role)))
        read = self.operands[role].read
        width = self._vector_bytes(role) if self.tiled.vector in read.axes else read.tensor.element_bytes
        return {"loads": loads[0], "load_instructions": total, "loaded_bytes": mul(total, width), "store_instructions": 0}

    def _loading_steps(self, role: str) -> Expr:
        """Across a reduce axis, copies of a step share the load of what does not move along it."""
        vector = self.tiled.vector
        if not self.tiled.is_across or vector in self.operands[role].read.axes:
            return self.n_steps
        others = self.n_steps // -(-vector.extent // self.tiled.step(vector))
        return mul(others, ceil_div(vector.extent, mul(self.tile.copies, self.target.lanes)))

    def _vector_bytes(self, role: str) -> int:
        return self.target.lanes * self.accesses[role].element_bytes

    def _reuse(self, role: str) -> dict[str, Expr]:
        """The innermost loop that leaves the access where it is: its iterations, how often its body runs, and what one iteration touches.

        For the output it is sought around the register tile, where it is in memory.
        """
        axes = self.accesses[role].read.axes
        trips: Expr = 1
        executions: Expr = 0
        distance: Expr = 0
        for number, loop in enumerate(self.structure.loops, 1):
            if role == "output" and loop.band == "inner":
                continue
            stays = of_loop(self.tiled, loop.band, loop.number, {axis: int(axis not in axes) for axis in self.tiled.axes(loop.band)})
            reused = both(less(1, loop.trips), stays)
            trips = where(reused, loop.trips, trips)
            executions = where(reused, self.structure.places[number].executions, executions)
            distance = where(reused, self.footprints.working_set[number], distance)
        return {"reuse_trips": trips, "reuse_executions": executions, "reuse_distance_bytes": distance}

    # -- caches

    @cached_property
    def traffic(self) -> dict[str, Traffic]:
        """By cache. The last one is shared: outside of the parallel loop one working set has it, inside each thread has a share."""
        target, inside = self.target, len(self.structure.places) - 1
        capacities = {
            "l1": [target.l1_bytes] * (inside + 1),
            "l2": [target.l2_bytes] * (inside + 1),
            "l3": [target.l3_bytes] + [target.l3_bytes // target.threads] * inside,
        }
        return {cache: self.footprints.traffic(capacity) for cache, capacity in capacities.items()}

    def touched(self, place: str) -> Expr:
        """Bytes in whole cache lines that one execution of all inside of a place touches."""
        return self.footprints.working_set[self._number(place)]

    @cached_property
    def touched_by_thread(self) -> Expr:
        """The most bytes, in whole cache lines, that the thread with the most chunks touches."""
        whole, chunk = (self._number(place) for place in ("whole", "chunk"))
        return add(*(minimum(sizes[whole], mul(sizes[chunk], self.shares.turns)) for sizes in self.footprints.by_access.values()))

    def caches(self) -> dict[str, Expr]:
        """Bytes that come into each cache by access and in all, and the working set that it holds at a time."""
        result: dict[str, Expr] = {}
        for cache, traffic in self.traffic.items():
            result |= {f"{cache}.{role}_bytes": traffic.by_access.get(role, 0) for role in ACCESSES}
            result[f"{cache}.bytes"] = traffic.total
            result[f"{cache}.working_set"] = traffic.working_set_bytes
            result[f"{cache}.executions"] = traffic.executions
        return result | {"l1.capacity": self.target.l1_bytes, "l2.capacity": self.target.l2_bytes, "l3.capacity": self.target.l3_bytes}

    @cached_property
    def edge_points(self) -> Expr:
        """Positions in register tiles that ask of each element of an input whether it is there."""
        return sub(self.n_outputs, interior_points(self.tiled))

    def places(self) -> dict[str, Expr]:
        """Operations and working set of one execution of all that is inside of each of `PLACES`."""
        looped = (*self.stage.looped, *self.tiled.axes("inner"))
        per_point = self.stage.flops // math.prod(axis.extent for axis in looped)
        result: dict[str, Expr] = {}
        for name in PLACES:
            result[f"{name}.flops"] = mul(*(extent for axis, extent in self.place(name).extents.items() if axis in looped), per_point)
            result[f"{name}.working_set"] = self.touched(name)
        return result


def _innermost(loops: Sequence[Loop], values: Sequence[Expr], otherwise: Expr) -> Expr:
    """The value of the innermost loop that has more than one iteration."""
    result = otherwise
    for loop, value in zip(loops, values, strict=True):
        result = where(less(1, loop.trips), value, result)
    return result
