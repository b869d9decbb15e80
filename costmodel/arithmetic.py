"""Scalar operations of a body by kind, and those of an epilogue."""

from __future__ import annotations

import math

from ir.expression import Expr, add, equal, mul, where
from ir.program import CASTS, TRANSCENDENTAL, Apply, Stage, Value, reads
from schedule.sketch import EPILOGUE_LEVELS, TiledStage

FUNCTION_KINDS = {
    "add": "add", "sub": "add", "mul": "multiply",
    **dict.fromkeys(("max", "min", "less", "equal", "select", "abs", *CASTS), "compare"),
    **dict.fromkeys(("div", "sqrt", *TRANSCENDENTAL), "special"),
}  # fmt: skip
SPECIAL_HALF_CYCLES = 16
STORE_HALF_CYCLES = 3
KINDS = ("add", "multiply", "compare", "special")


def count_functions(value: Value) -> dict[str, int]:
    """Scalar operations in one evaluation of `value` by kind."""
    counts = dict.fromkeys(KINDS, 0)
    if isinstance(value, Apply):
        counts[FUNCTION_KINDS[value.function]] += 1
        for arg in value.args:
            for kind, count in count_functions(arg).items():
                counts[kind] += count
    return counts


def is_fused_product(stage: Stage) -> bool:
    """Whether an evaluation of the body is one multiply-add."""
    return stage.reduction == "sum" and isinstance(stage.body, Apply) and stage.body.function == "mul"


def value_half_cycles(value: Value) -> int:
    """Of one evaluation in vectors: an operation each, and a round number for those that are made of many."""
    counts = count_functions(value)
    return sum(counts.values()) + (SPECIAL_HALF_CYCLES - 1) * counts["special"]


def update_half_cycles(stage: Stage) -> int:
    """Of one evaluation of the body in vectors."""
    return max(1, value_half_cycles(stage.body) - is_fused_product(stage) + (stage.reduction is not None))


def epilogue_quantities(tiled: TiledStage, epilogue: Stage, output_vectors: int) -> dict[str, Expr]:
    """Of the elementwise stage that ends a tiled one of so many vectors of output."""
    n_outputs = math.prod(axis.extent for axis in tiled.stage.spatial)
    others = [read for read in reads(epilogue.body) if read.tensor != tiled.stage.output]
    at_block = equal(tiled.epilogue_level, EPILOGUE_LEVELS.index("block")) if tiled.stage.reduce else 0
    instructions = value_half_cycles(epilogue.body) + len(others)
    return {
        "at_block": at_block,
        "elements": n_outputs,
        **{kind: n_outputs * count for kind, count in count_functions(epilogue.body).items()},
        "read_bytes": sum(read.tensor.element_bytes * math.prod(axis.extent for axis in read.axes) for read in others),
        "output_bytes_again": where(at_block, 2 * n_outputs * tiled.stage.output.element_bytes, 0),
        "half_cycles": mul(output_vectors, add(mul(at_block, STORE_HALF_CYCLES + 1), instructions)),  # a store and a load if the output comes again
    }
