"""Features of a whole population of candidates from their one symbolic sketch; `costmodel.feature_table` says what each of them is.

All quantities are expressions over the symbols of the sketch's space, made once and evaluated together for every row.

Notation: n rows (candidates), c columns, q quantities, f features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from costmodel.arithmetic import epilogue_quantities
from costmodel.feature_table import FEATURE_VERSION, FEATURES
from costmodel.packing import Packing, packed_elements
from costmodel.stage import ROLES, StageQuantities
from costmodel.times import StageTimes
from ir.errors import InternalError
from ir.expression import Evaluator, Expr, add, ceil_div, less, maximum, minimum, mul
from ir.program import Read
from schedule.sketch import Sketch, TiledStage, handed_on
from schedule.space import Population
from schedule.target import Target

Quantities = dict[str, Expr]

START_HALF_CYCLES = 8000  # a microsecond of a core at 4 GHz: what a parallel loop of two threads takes that does nothing

_DIVIDED = [i for i, feature in enumerate(FEATURES) if len(feature.of) == 2]
_LOGARITHMIC = [i for i, feature in enumerate(FEATURES) if feature.scale in ("log", "log ratio")]


class FeatureExtractor:
    """Describes candidates of one sketch for one machine. Making one takes as long as describing some ten thousand of them: keep it."""

    names: tuple[str, ...] = tuple(feature.name for feature in FEATURES)

    def __init__(self, sketch: Sketch, target: Target) -> None:
        slots = _slots(sketch, target)
        self._symbols = sketch.space.symbols
        self._quantities = {f"{slot}.{name}": quantity for slot, quantities in slots.items() for name, quantity in quantities.items()}
        first, second = [feature.of[0] for feature in FEATURES], [feature.of[1] for feature in FEATURES if len(feature.of) == 2]
        self._evaluator = Evaluator([self._quantity(name, slots) for name in (*first, *second)], self._symbols)

    def __call__(self, X: Population) -> NDArray[np.float32]:
        """(n, c) valid rows of the sketch's space -> (n, f) features, columns as `names`."""
        quantities = self._evaluator(X).T.astype(np.float32)
        features, divisors = quantities[: len(FEATURES)], quantities[len(FEATURES) :]
        features[_DIVIDED] /= np.maximum(divisors, 1)
        features[_LOGARITHMIC] = np.log2(features[_LOGARITHMIC] + 1)
        return np.ascontiguousarray(features.T)

    def raw(self, X: Population) -> dict[str, NDArray[np.float64]]:
        """Every quantity, also those that no feature uses, by name: (n,) whole numbers, exact below 2^53. For tests and for looking."""
        values = self._raw_evaluator(X)
        return {name: values[:, j] for j, name in enumerate(self._quantities)}

    @cached_property
    def _raw_evaluator(self) -> Evaluator:
        return Evaluator(list(self._quantities.values()), self._symbols)

    def _quantity(self, name: str, slots: dict[str, Quantities]) -> Expr:
        """0 where the sketch has not the slot of the name."""
        if name.split(".")[0] not in slots:
            return 0
        if name not in self._quantities:
            raise InternalError(f"the feature table names the quantity {name}, which nothing computes")
        return self._quantities[name]


def _slots(sketch: Sketch, target: Target) -> dict[str, Quantities]:
    """Quantities of the sketch by slot."""
    main = max(sketch.stages, key=lambda tiled: (tiled.stage.flops, tiled.stage.n_points))
    stages = [StageQuantities(tiled, target) for tiled in (main, *(tiled for tiled in sketch.stages if tiled is not main))]
    times = [StageTimes(stage) for stage in stages]
    described = [stages[0].all(), *(stage.outline() for stage in stages[1:])]
    of_each = [quantities | of_stage.quantities() for quantities, of_stage in zip(described, times, strict=True)]
    packs = [_packs(stage) for stage in stages]
    slots = {"compute": of_each[0], **{f"pack_{role}": packs[0][role] for role in ROLES if role in packs[0]}}
    if len(stages) > 1:
        slots["final"] = _sum(of_each[1:])
    with_epilogue = [(stage, stage.tiled.epilogue) for stage in stages if stage.tiled.epilogue is not None]
    epilogues = {stage: epilogue_quantities(stage.tiled, epilogue, stage.output_vectors) for stage, epilogue in with_epilogue}
    if epilogues:
        slots["epilogue"] = _sum(list(epilogues.values()))
    slots["program"] = _program(sketch, target, times, packs, of_each, epilogues)
    slots["machine"] = {
        "lanes": target.lanes, "vector_registers": target.vector_registers, "threads": target.threads,
        "l1_bytes": target.l1_bytes, "l2_bytes": target.l2_bytes, "l3_bytes": target.l3_bytes,
    }  # fmt: skip
    slots["task"] = _task(sketch, stages)
    return slots


def _sum(parts: list[Quantities]) -> Quantities:
    return {name: add(*(part[name] for part in parts)) for name in parts[0]}


def _packs(stage: StageQuantities) -> dict[str, Quantities]:
    """Quantities of the packing of each variable operand of a stage, by role."""
    variable = {role: operand for role, operand in stage.operands.items() if not operand.prepared}
    return {role: Packing(stage.tiled, operand, stage.target.lanes, stage.target.threads).quantities() for role, operand in variable.items()}


def _program(
    sketch: Sketch, target: Target, times: list[StageTimes], packs: list[dict[str, Quantities]], of_each: list[Quantities],
    epilogues: Mapping[StageQuantities, Quantities],
) -> Quantities:  # fmt: skip
    """Memory, text and time of all stages together; times are those of the busiest thread."""
    stages = [of_stage.stage for of_stage in times]
    all_packs = [pack for of_stage in packs for pack in of_stage.values()]
    private = add(*(stage.shares.of_busiest(pack["private_half_cycles"]) for stage, of in zip(stages, packs, strict=True) for pack in of.values()))
    shared = add(*(ceil_div(pack["shared_half_cycles"], minimum(maximum(pack["shared_parts"], 1), target.threads)) for pack in all_packs))
    epilogue = add(*(stage.shares.of_busiest(quantities["half_cycles"]) for stage, quantities in epilogues.items()))
    starting = _starting(sketch, target, stages, all_packs)
    others = add(private, shared, epilogue, starting)
    parts = {part: add(*(of_stage.of_busiest[part] for of_stage in times)) for part in times[0].of_busiest}
    between = add(*(_own_bytes(tiled, access) for tiled, access in handed_on(sketch.stages)))
    own, common = (mul(target.threads, between), 0) if sketch.fused else (0, between)
    prepared = [(stage.tiled, operand) for stage in stages for operand in stage.operands.values() if operand.prepared]
    return {
        "n_stages": len(stages),
        "prepared_bytes": add(*(mul(operand.read.tensor.element_bytes, packed_elements(tiled, operand)) for tiled, operand in prepared)),
        "private_bytes": add(own, *(pack["private_bytes"] for pack in all_packs)),
        "shared_bytes": add(common, *(pack["shared_bytes"] for pack in all_packs)),
        "code_updates": add(*(stage["code_updates"] for stage in of_each)),
        "half_cycles.pack": add(private, shared),
        "half_cycles.epilogue": epilogue,
        "half_cycles.starting": starting,
        **{f"half_cycles.{part}": half_cycles for part, half_cycles in parts.items()},
        "half_cycles.sharing": add(*(of_stage.sharing for of_stage in times)),
        "half_cycles.longest": add(others, *(stage["half_cycles.longest"] for stage in of_each)),
        "half_cycles.sum": add(others, *(stage["half_cycles.sum"] for stage in of_each)),
        "half_cycles.ideal": -(-sketch.work // (2 * target.lanes * target.threads)),
    }


def _own_bytes(tiled: TiledStage, access: Read) -> Expr:
    """Of the memory of what a stage hands on, which has none where it lies in the result."""
    return mul(tiled.between.get(access.tensor.name, 1), access.tensor.element_bytes, *tiled.memory_shape(access))


def _starting(sketch: Sketch, target: Target, stages: list[StageQuantities], packs: list[Quantities]) -> Expr:
    """Half cycles that starting the threads of all parallel loops takes; a loop with a single chunk, or part to pack, starts none."""
    loops = [less(1, stage.chunks) for stage in (stages[:1] if sketch.fused else stages)]
    loops += [less(1, pack["shared_parts"]) for pack in packs]
    return mul(START_HALF_CYCLES, add(*loops)) if target.threads > 1 else 0


def _task(sketch: Sketch, stages: list[StageQuantities]) -> Quantities:
    """What the sketch works on, the same for all its candidates."""
    stage, vector = stages[0].stage, stages[0].tiled.vector
    between = {access.tensor for _, access in handed_on(sketch.stages)}
    tensors = dict.fromkeys(operand.read.tensor for stage in stages for operand in stage.operands.values() if operand.read.tensor not in between)
    variable = sum(tensor.n_bytes for tensor in tensors if not tensor.constant)
    constant = sum(tensor.n_bytes for tensor in tensors if tensor.constant)
    output = sketch.stages[-1].result.n_bytes
    spatial = [axis.extent for axis in stage.spatial]
    reduce = [axis.extent for axis in stage.reduce]
    return {
        "flops": sketch.work,
        "bytes": variable + constant + output,
        "output_elements": math.prod(spatial),
        "vector_extent": vector.extent,
        "row_extent": math.prod(axis.extent for axis in stage.spatial if axis != vector),
        "longest_extent": max((axis.extent for axis in stage.spatial if axis != vector), default=1),
        "reduce_length": math.prod(reduce),
        "longest_reduce": max(reduce, default=1),
        "n_spatial": len(spatial),
        "n_reduce": len(reduce),
        "variable_bytes": variable,
        "constant_bytes": constant,
        "output_bytes": output,
    }


__all__ = ["FEATURES", "FEATURE_VERSION", "FeatureExtractor"]
