"""Which tasks are the same under different names: a 1×1 convolution and the matrix product that it is.

Two programs are the same where they differ in the names of axes and tensors alone, in unit axes, in axes that can be fused, and in the order of the
dimensions of constants, which are packed before they are used.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from ir.program import Affine, Apply, Axis, Constant, Program, Read, Stage, Table, Value
from ir.simplify import simplify


def program_id(program: Program) -> str:
    """16 hexadecimal digits, equal for programs that are the same, in every process."""
    names = _Names()
    text = "\n".join(_stage_text(stage, names) for stage in simplify(program).stages)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class _Names:
    """Numbers in the order of first appearance: of tensors in the whole program, of axes in one stage."""

    tensors: dict[str, int] = field(default_factory=dict)
    axes: dict[Axis, int] = field(default_factory=dict)

    def tensor(self, name: str) -> int:
        return self.tensors.setdefault(name, len(self.tensors))


def _stage_text(stage: Stage, names: _Names) -> str:
    names.axes = {axis: number for number, axis in enumerate((*stage.spatial, *stage.reduce))}
    extents = [[axis.extent for axis in axes] for axes in (stage.spatial, stage.reduce)]
    return f"{stage.reduction} {extents} {_value_text(stage.body, names)} -> {_value_text(stage.write, names)}"


def _value_text(value: Value, names: _Names) -> str:
    match value:
        case Constant(number, dtype):
            return f"{dtype} {number!r}"
        case Table(row, column, numbers):
            return f"table {names.axes[row]} {names.axes[column]} {numbers}"
        case Read():
            return _read_text(value, names)
        case Apply(function, args):
            return f"{function}({', '.join(_value_text(arg, names) for arg in args)})"
    raise TypeError(f"not a value: {value!r}")


def _read_text(read: Read, names: _Names) -> str:
    dimensions = [f"{size}:{_index_text(index, names)}" for size, index in zip(read.tensor.shape, read.indices, strict=True)]
    if read.tensor.constant:
        dimensions.sort()
    kind = "constant" if read.tensor.constant else "tensor"
    outside = f"outside {read.outside!r}" if read.beyond == "value" else read.beyond
    return f"{kind} {read.tensor.dtype} {names.tensor(read.tensor.name)}[{', '.join(dimensions)}] {outside}"


def _index_text(index: Affine, names: _Names) -> str:
    terms = sorted((names.axes[axis], factor) for axis, factor in index.terms)
    return f"{terms}+{index.constant}"
