"""Every feature of a candidate: its name, its unit, what it means, and the quantities it is made of.

Names begin with the slot that they describe, the same for all sketches: `compute` is the main nest of the tiled stage with the most operations, `pack_a`
and `pack_b` the packing of its operands, `epilogue` the elementwise ends of all stages, `final` all other tiled stages together (such as the sum of a
split reduction), each quantity a sum over them; `program`, `machine` and `task` are what they say. All features of a slot that a sketch does not have are 0.

Words: a *step* is one point of the reduction for one register tile, an *update* one vector of accumulators changed by it; the places `whole`,
`chunk`, `block`, `slice`, `tile` and `step` are inside all loops of the bands parallel, outer, slice, block and inner in turn (see
`schedule.sketch`); a half cycle is the time of one vector operation in a core that starts two a cycle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FEATURE_VERSION = 13

SCALES = ("plain", "log", "ratio", "log ratio")

# What a feature is about, by the name of its group; each feature is in one of them.
GROUPS = {
    "arithmetic": "operations, vector updates, and the epilogue's",
    "register tile": "the register tile, its loads, and the text of the kernel",
    "loops": "trips of loops, chunks and threads",
    "access": "bytes, cache lines and strides of each operand and the output",
    "reuse": "reuse, and what the caches hold and move",
    "curve": "operations for each byte touched, at every level of the loops",
    "packing": "packed copies, and the workspace",
    "cost": "estimated times, and shares of the peak",
    "task": "the task and the machine",
}


@dataclass(frozen=True)
class Feature:
    """`scale` says how the quantities named in `of` make the feature: "plain" x, "log" log2(1 + x), "ratio" x / y, "log ratio" log2(1 + x / y); y counts
    as 1 where it is 0. `group`: one of `GROUPS`."""

    name: str
    unit: str
    meaning: str
    scale: str
    of: tuple[str, ...]
    group: str = ""


def _plain(name: str, unit: str, meaning: str) -> Feature:
    return Feature(name, unit, meaning, "plain", (name,))


def _log(name: str, unit: str, meaning: str) -> Feature:
    return Feature(name, f"log2(1 + {unit})", meaning, "log", (name,))


def _ratio(name: str, top: str, bottom: str, meaning: str) -> Feature:
    return Feature(name, "1", meaning, "ratio", (top, bottom))


def _log_ratio(name: str, unit: str, top: str, bottom: str, meaning: str) -> Feature:
    return Feature(name, f"log2(1 + {unit})", meaning, "log ratio", (top, bottom))


def _in(group: str, *features: Feature) -> tuple[Feature, ...]:
    return tuple(replace(feature, group=group) for feature in features)


_ARITHMETIC = _in(
    "arithmetic",
    _log("fma", "count", "fused multiply-adds"),
    _log("add", "count", "additions that are not fused"),
    _log("multiply", "count", "multiplications that are not fused"),
    _log("compare", "count", "minima, maxima, comparisons, choices and casts"),
    _log("special", "count", "divisions, roots and transcendental functions"),
    _log("flops", "count", "floating-point operations, a fused one counted as two"),
    _log("vector_updates", "count", "vector updates executed, lanes beyond the output's edge included"),
    _ratio("useful_lanes", "points", "lane_updates", "share of the lanes of all vector updates that compute something"),
)

_REGISTER_TILE = _in(
    "register tile",
    _plain("vectors", "vectors", "accumulators of a full register tile"),
    _plain("rows", "elements", "extent of the register tile along all axes but the vector axis together"),
    _plain("vector_count", "vectors", "extent of the register tile along the vector axis"),
    _plain("shared_vectors", "vectors", "vectors, broadcasts included, that registers hold from one copy of the step to a later one"),
    _plain("live_registers", "registers", "vector registers that a step needs: accumulators, the vectors of one operand, a broadcast, and what is shared"),
    _ratio("register_use", "live_registers", "registers", "registers needed against registers there are"),
    _plain("loads", "instructions", "loads, broadcasts and vectors, in a step of a full register tile"),
    _ratio("loads_per_update", "loads", "vectors", "loads a vector update in a step of a full register tile"),
    _ratio(
        "loads_per_update_unrolled",
        "loads_unrolled",
        "body_updates",
        "loads a vector update in the unrolled body of the innermost loop, where copies of the step share loads",
    ),
    _ratio("cut_tiles", "cut_tiles", "tiles", "share of the register tiles that are remainders"),
    _ratio("cut_updates", "cut_updates", "output_vectors", "share of the vector updates that remainder tiles execute"),
    _plain("variants", "count", "sizes of the register tile that occur"),
    _ratio("edge", "edge_points", "outputs", "share of the output in register tiles that ask of each element of a padded input whether it is there"),
    _plain("unroll", "copies", "steps in the body of the innermost loop"),
    _log("body_updates", "updates", "vector updates in the body of the innermost loop"),
    _log("code_updates", "updates", "vector updates in the text of the stage: copies, remainder loops and variants"),
    _log("innermost_extent", "iterations", "steps along the innermost reduce axis in a slice"),
    _ratio("innermost_left", "innermost_left", "innermost_extent", "share of the steps along the innermost reduce axis that unrolling leaves over"),
)

_PARALLEL = _in(
    "loops",
    _log("chunks", "count", "chunks, the iterations of the parallel loop"),
    _plain("busy_threads", "threads", "threads that get a chunk"),
    _log_ratio("chunks_per_thread", "count", "chunks", "threads", "chunks a thread on average"),
    _ratio("imbalance", "chunk_slots", "chunks", "time of the busiest thread against an even distribution, if all chunks are alike"),
    _ratio("imbalance_cut", "busiest_points", "looped_points", "time of the busiest thread against an even distribution, as chunks are cut short"),
    _log("chunk_points", "points", "points of the iteration space in a full chunk"),
)


def _band(band: str, what: str) -> tuple[Feature, ...]:
    return (
        _log(f"{band}.trips", "iterations", f"iterations of the loops {what} together, for one execution of them"),
        _log(f"{band}.executions", "iterations", f"iterations of the loops {what} in all"),
        _plain(f"{band}.n_loops", "loops", f"loops {what} of more than one iteration"),
        _log(f"{band}.innermost_trips", "iterations", f"iterations of the innermost loop {what} of more than one"),
    )


def _spatial_band(band: str, what: str) -> tuple[Feature, ...]:
    """Reduce axes need no word on what they move: every operand, never the output."""
    moved = {"a": "operand a", "b": "operand b", "output": "the output", "vector": "along the vector axis"}
    moves = (
        _plain(f"{band}.moves_{name}", "0 or 1", f"whether the innermost loop {what} of more than one iteration moves {text}") for name, text in moved.items()
    )
    return (*_band(band, what), *moves)


_LOOPS = _in(
    "loops",
    *_spatial_band("parallel", "over chunks"),
    *_spatial_band("outer", "over the blocks of a chunk"),
    *_band("slice", "over slices of the reduction"),
    *_spatial_band("block", "over the register tiles of a block"),
    *_band("inner", "over the steps of a slice"),
    _plain("n_loops", "loops", "loops of more than one iteration"),
    _log("n_slices", "count", "slices that the reduction is done in"),
)

_PLACE_TEXT = {
    "whole": "the whole stage",
    "parallel_1": "one iteration of the outermost axis of the chunks",
    "chunk": "a chunk",
    "outer_1": "one iteration of the outermost loop over blocks",
    "block": "a block",
    "slice": "a block for one slice of the reduction",
    "block_1": "one iteration of the outermost loop over register tiles",
    "tile": "a register tile for one slice",
    "inner_1": "one iteration of the outermost loop over steps",
    "step": "one step of a register tile",
}
_FOOTPRINTS = ("whole", "chunk", "block", "slice", "tile", "step")
_RUNS = ("chunk", "block", "tile")


def _access(role: str, what: str) -> tuple[Feature, ...]:
    reuse = f"the innermost loop that leaves {what} where it is"
    touched = [
        feature
        for place in _FOOTPRINTS
        for feature in (
            _log(f"{role}.{place}.bytes", "bytes", f"distinct bytes of {what} touched by {_PLACE_TEXT[place]}"),
            _log(f"{role}.{place}.lines", "lines", f"cache lines of {what} touched by {_PLACE_TEXT[place]}"),
        )
    ]
    reused = (
        _log(f"{role}.reuse_trips", "iterations", f"iterations of {reuse}"),
        _log(f"{role}.reuse_distance_bytes", "bytes", f"working set of one iteration of {reuse}"),
        _log_ratio(f"{role}.reuse_distance_steps", "steps", "inner.executions", f"{role}.reuse_executions", f"steps in one iteration of {reuse}"),
        _log_ratio(f"{role}.bytes_per_reuse", "bytes", f"{role}.loaded_bytes", f"{role}.reuse_trips", f"bytes of {what} loaded for each reuse"),
    )
    scattered = [_log(f"{role}.{place}.runs", "runs", f"pieces without gaps of {what} touched by {_PLACE_TEXT[place]}") for place in _RUNS]
    walked = (
        _log(f"{role}.loaded_bytes", "bytes", f"bytes of {what} loaded into registers, all times counted"),
        _log(f"{role}.vector_stride", "elements", f"distance in {what} between neighbours along the vector axis"),
        _plain(f"{role}.row_conflicts", "rows", f"rows of {what} that a register tile walks on one set of the first-level cache, if not packed"),
    )
    return (*_in("access", *touched, *scattered), *_in("reuse", *reused), *_in("access", *walked))


def _operand(role: str, what: str) -> tuple[Feature, ...]:
    return (
        *_in("packing", _plain(f"{role}.packed", "0 or 1", f"whether {what} is read from a packed copy")),
        *_in(
            "access",
            _plain(f"{role}.loads", "instructions", f"loads of {what} in a step of a full register tile"),
            _log(f"{role}.load_instructions", "instructions", f"loads of {what} in all"),
        ),
        *_access(role, what),
        *_in(
            "access",
            _log(f"{role}.reduce_stride", "elements", f"distance in {what} between steps along the innermost reduce axis"),
            _log(f"{role}.slice_conflicts", "rows", f"rows of {what} that a slice of the reduction walks on one set of the first-level cache, if not packed"),
        ),
    )


_ACCESSES = (
    *_operand("a", "operand a"),
    *_operand("b", "operand b"),
    *_access("output", "the output"),
    *_in(
        "access",
        _log("shared_lines", "lines", "cache lines of the output that two threads write, at the border in the middle"),
        _log("output.store_instructions", "instructions", "vectors of accumulators stored, one for every slice"),
        _log("output.load_instructions", "instructions", "vectors of accumulators loaded again for a further slice"),
        _plain("output.streamed", "0 or 1", "whether the output is stored past the caches"),
    ),
)


def _cache(cache: str, what: str) -> tuple[Feature, ...]:
    text = {"a": "of operand a", "b": "of operand b", "output": "of the output"}
    return (
        *(_log(f"{cache}.{role}_bytes", "bytes", f"estimated bytes {which} that move in or out of {what}") for role, which in text.items()),
        _log(f"{cache}.bytes", "bytes", f"estimated bytes that move in or out of {what}"),
        _log(f"{cache}.working_set", "bytes", f"largest working set in the loops that fits {what}"),
        _ratio(f"{cache}.use", f"{cache}.working_set", f"{cache}.capacity", f"share of {what} that the largest working set that fits takes"),
        _log(f"{cache}.executions", "count", f"how often the largest working set that fits {what} is exchanged for another"),
        _log_ratio(f"{cache}.intensity", "flops a byte", "flops", f"{cache}.bytes", f"operations for each byte moved in or out of {what}"),
    )


def _pressure(place: str, cache: str) -> Feature:
    return _log_ratio(f"{place}.{cache}_pressure", "1", f"{place}.working_set", f"{cache}.capacity", f"working set of {_PLACE_TEXT[place]} against {cache}")


_CACHES = _in(
    "reuse",
    *_cache("l1", "the first-level cache"),
    *_cache("l2", "the second-level cache"),
    *_cache("l3", "the last-level cache"),
    *(_pressure(place, cache) for place, cache in (("tile", "l1"), ("slice", "l1"), ("slice", "l2"), ("block", "l2"), ("chunk", "l2"), ("chunk", "l3"))),
)

_COST = _in(
    "cost",
    _log("half_cycles.updates", "half cycles", "estimated time of updates, accumulators and asking at edges, with all data in the first-level cache"),
    _log("half_cycles.l1", "half cycles", "estimated time to fill the first-level cache with what is not there from the run before"),
    _log("half_cycles.l2", "half cycles", "estimated time to fill the second-level cache with what is not there from the run before"),
    _log("half_cycles.l3", "half cycles", "estimated time to fill the last-level cache with what is not there from the run before"),
    _log("half_cycles.loops", "half cycles", "estimated time of counting loops and beginning register tiles"),
    _log("half_cycles.longest", "half cycles", "estimated time of the busiest thread if updates and moving data overlap, and of waiting for shared lines"),
    _log("half_cycles.sum", "half cycles", "estimated time of the busiest thread if nothing overlaps, and of waiting for shared lines"),
    _ratio("update_efficiency", "vector_updates", "half_cycles.updates", "vector updates against the time they are estimated to take"),
)

_INTENSITY = _in(
    "curve",
    *(
        _log_ratio(f"{place}.intensity", "flops a byte", f"{place}.flops", f"{place}.working_set", f"operations for each byte touched by {text}")
        for place, text in _PLACE_TEXT.items()
    ),
)

_STAGE = (*_ARITHMETIC, *_REGISTER_TILE, *_PARALLEL, *_LOOPS, *_ACCESSES, *_CACHES, *_COST, *_INTENSITY)

_STAGE_BY_NAME = {feature.name: feature for feature in _STAGE}

# The second stage is small: these say what it costs.
_FINAL = (
    "flops", "vector_updates", "vectors", "loads_per_update", "unroll", "code_updates", "chunks", "busy_threads", "imbalance_cut", "parallel.trips",
    "block.trips", "inner.trips", "a.whole.bytes", "a.reduce_stride", "a.tile.lines", "output.whole.bytes", "output.streamed", "shared_lines", "l1.bytes",
    "l2.bytes", "l3.bytes", "half_cycles.longest", "half_cycles.sum",
)  # fmt: skip

_PACK = (
    *_in(
        "packing",
        _plain("level", "index", "where the operand is packed: 0 nowhere, 1 before the parallel loop, 2 a chunk, 3 a block, 4 a slice"),
        _plain("layout", "index", "0 reduce dimensions outside of windows and register tiles, 1 inside"),
        _log("executions", "count", "how often the operand, or a part of it, is packed"),
        _log("buffer_bytes", "bytes", "size of the packed copy"),
        _log("stored_bytes", "bytes", "bytes written while packing, all times counted"),
        _log_ratio("redundancy", "1", "stored_bytes", "tensor_bytes", "how many times the tensor's size is packed"),
        _log("instructions", "instructions", "copies of a vector or, if the source is neither contiguous nor turned over in registers, of one element"),
        _ratio("elements_per_copy", "stores", "instructions", "elements moved by one copy"),
        _log("source_stride", "elements", "distance in the tensor between neighbours of the packed copy"),
        _log("run", "elements", "extent of the innermost packed dimension"),
    ),
    *_in("cost", _log("half_cycles", "half cycles", "estimated time of the copies, all threads together")),
)

_PACK_FIRST = (*_PACK, *_in("packing", _log("operations", "count", "operations of the prologue that makes the operand, all times counted")))

_EPILOGUE = (
    *_in(
        "arithmetic",
        _plain("at_block", "0 or 1", "whether the epilogue runs over each finished block; otherwise it runs in registers"),
        _log("elements", "elements", "elements it is applied to"),
        _log("add", "count", "additions and subtractions"),
        _log("multiply", "count", "multiplications"),
        _log("compare", "count", "minima, maxima, comparisons, choices and casts"),
        _log("special", "count", "divisions, roots and transcendental functions"),
        _log("read_bytes", "bytes", "bytes of the tensors that only the epilogue reads"),
        _log("output_bytes_again", "bytes", "bytes of the output that a block's epilogue reads and writes again"),
    ),
    *_in("cost", _log("half_cycles", "half cycles", "estimated time, all threads together")),
)

# What the time of a program is made of; against the task's ideal time it means the same for tasks of all sizes.
_TIMES = {
    "updates": "all updates on the busiest thread",
    "loops": "counting loops and beginning register tiles on the busiest thread",
    "l1": "filling the busiest thread's first-level cache",
    "l2": "filling the busiest thread's second-level cache",
    "l3": "filling the last-level cache",
    "pack": "packing",
    "epilogue": "the epilogue",
    "starting": "starting threads",
    "sharing": "waiting for cache lines that another thread writes",
}

_PROGRAM = (
    *_in("loops", _plain("n_stages", "stages", "tiled stages")),
    *_in(
        "packing",
        _log("prepared_bytes", "bytes", "size of constant operands packed beforehand"),
        _log("private_bytes", "bytes", "workspace of all threads for packed copies of their own"),
        _log("shared_bytes", "bytes", "workspace that the threads share: packed copies and intermediate results"),
    ),
    *_in("register tile", _log("code_updates", "updates", "vector updates in the text of the kernel")),
    *_in(
        "cost",
        _log("half_cycles.longest", "half cycles", "estimated time of all parts, where in each computing and moving data overlap"),
        _log("half_cycles.sum", "half cycles", "estimated time of all parts if nothing overlaps"),
        _ratio("peak_longest", "half_cycles.ideal", "half_cycles.longest", "share of the peak that is reached if computing and moving data overlap"),
        _ratio("peak_sum", "half_cycles.ideal", "half_cycles.sum", "share of the peak that is reached if nothing overlaps"),
        *(
            _log_ratio(f"time.{part}", "1", f"half_cycles.{part}", "half_cycles.ideal", f"estimated time of {what}, against that of the task at the peak")
            for part, what in _TIMES.items()
        ),
        _ratio("pack_share", "half_cycles.pack", "half_cycles.sum", "share of the estimated time that packing takes"),
        _ratio("epilogue_share", "half_cycles.epilogue", "half_cycles.sum", "share of the estimated time that the epilogue takes"),
    ),
)

_MACHINE = _in(
    "task",
    _plain("lanes", "elements", "fp32 elements in a vector register"),
    _plain("vector_registers", "registers", "vector registers"),
    _log("l1_bytes", "bytes", "first-level data cache of a core"),
    _log("l2_bytes", "bytes", "second-level cache of a core"),
    _log("l3_bytes", "bytes", "last-level cache of all cores"),
    _plain("threads", "threads", "threads"),
)

_TASK = _in(
    "task",
    _log("flops", "count", "floating-point operations of the task, computed directly; elements moved where it has none"),
    _log("bytes", "bytes", "tensors of the operands and the output, each once"),
    _log_ratio("intensity", "flops a byte", "flops", "bytes", "operations for each byte of the operands and the output"),
    _log("output_elements", "elements", "elements of the output of the tiled stage with the most operations"),
    _log("vector_extent", "elements", "extent of the axis that the sketch makes vectors of"),
    _log("row_extent", "elements", "extent of all other axes of the output together"),
    _log("longest_extent", "elements", "the longest extent of an axis of the output that is not made vectors of"),
    _log("reduce_length", "elements", "extent of all reduce axes together"),
    _log("longest_reduce", "elements", "the longest extent of a reduce axis"),
    _plain("n_spatial", "axes", "axes of the output"),
    _plain("n_reduce", "axes", "reduce axes"),
    _log("variable_bytes", "bytes", "tensors of the operands that are not constant"),
    _log("constant_bytes", "bytes", "tensors of the operands that are constant"),
    _log("output_bytes", "bytes", "the output"),
)


def _slot(slot: str, features: tuple[Feature, ...]) -> list[Feature]:
    return [
        replace(feature, name=f"{slot}.{feature.name}", meaning=f"{slot}: {feature.meaning}", of=tuple(f"{slot}.{name}" for name in feature.of))
        for feature in features
    ]


FEATURES: tuple[Feature, ...] = (
    *_slot("compute", _STAGE),
    *_slot("pack_a", _PACK_FIRST),
    *_slot("pack_b", _PACK),
    *_slot("epilogue", _EPILOGUE),
    *_slot("final", tuple(_STAGE_BY_NAME[name] for name in _FINAL)),
    *_slot("program", _PROGRAM),
    *_slot("machine", _MACHINE),
    *_slot("task", _TASK),
)
