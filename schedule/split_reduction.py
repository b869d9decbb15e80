"""Split one reduction into partial ones and their sum: more independent work for outputs too small to feed threads and vectors."""

from __future__ import annotations

from dataclasses import replace

from ir.program import Affine, Apply, Axis, Program, Read, Stage, Tensor, Value, affine


def split_reduction(program: Program, axis: Axis, parts: int, *, lanes: bool) -> Program:
    """`program` with the reduction over `axis` done in `parts` partial sums.

    Before: `c[n] = sum over k<K of f(k, n)`. After, with `lanes` false: `partial[p, n] = sum over i<K/parts of f(p*(K/parts) + i, n)`,
    with `lanes` true: `partial[n, p] = sum over i<K/parts of f(i*parts + p, n)`; then `c[n] = sum over p of partial`.
    `parts` must divide the axis' extent.
    """
    if axis.extent % parts:
        raise ValueError(f"{parts} parts do not divide {axis.name}<{axis.extent}>")
    place = next(i for i, stage in enumerate(program.stages) if axis in stage.reduce)
    stage = program.stages[place]
    part, inner = Axis(f"{axis.name}_part", parts), Axis(f"{axis.name}_rest", axis.extent // parts)
    part_factor, inner_factor = (1, parts) if lanes else (inner.extent, 1)

    def index(old: Affine) -> Affine:
        terms: list[tuple[Axis, int]] = []
        for other, factor in old.terms:
            terms += [(part, factor * part_factor), (inner, factor * inner_factor)] if other == axis else [(other, factor)]
        return Affine(tuple(terms), old.constant)

    def value(node: Value) -> Value:
        match node:
            case Read(tensor, indices):
                return Read(tensor, tuple(index(old) for old in indices))
            case Apply(function, args):
                return Apply(function, tuple(value(arg) for arg in args))
        return node

    reduce = tuple(inner if other == axis else other for other in stage.reduce)
    if lanes:
        partial = Tensor("partial", (*(a.extent for a in stage.spatial), parts))
        spatial = (*stage.spatial, part)
    else:
        partial = Tensor("partial", (parts, *(a.extent for a in stage.spatial)))
        spatial = (part, *stage.spatial)
    indices = tuple(affine(a) for a in spatial)
    first = Stage(partial, indices, spatial, reduce, value(stage.body), stage.reduction)
    final = replace(stage, reduce=(part,), body=Read(partial, indices))
    return Program(program.inputs, (*program.stages[:place], first, final, *program.stages[place + 1 :]))
