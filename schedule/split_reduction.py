"""Split one reduction into partial ones and their sum: more independent work for outputs too small to feed the threads."""

from __future__ import annotations

from dataclasses import replace

from ir.program import Affine, Axis, Program, Read, Stage, Tensor, affine, map_reads


def split_reduction(program: Program, axis: Axis, parts: int) -> Program:
    """`program` with the reduction over `axis` done in partial ones, each of neighbours.

    Before: `c[n] = sum over k<K of f(k, n)`. After: `partial[p, n] = sum over i<R of f(p*R + i, n)` with R = K / parts, then
    `c[n] = sum over p of partial`. The parts must divide K.
    """
    if axis.extent % parts:
        raise ValueError(f"{parts} parts do not divide {axis.name}<{axis.extent}>")
    place = next(i for i, stage in enumerate(program.stages) if axis in stage.reduce)
    stage = program.stages[place]
    part, inner = Axis(f"{axis.name}_part", parts), Axis(f"{axis.name}_rest", axis.extent // parts)

    def index(old: Affine) -> Affine:
        terms: list[tuple[Axis, int]] = []
        for other, factor in old.terms:
            terms += [(part, factor * inner.extent), (inner, factor)] if other == axis else [(other, factor)]
        return Affine(tuple(terms), old.constant)

    def moved(read: Read) -> Read:
        return replace(read, indices=tuple(index(old) for old in read.indices))

    reduce = tuple(inner if other == axis else other for other in stage.reduce)
    spatial = (part, *stage.spatial)
    partial = Tensor("partial", tuple(a.extent for a in spatial))
    indices = tuple(affine(a) for a in spatial)
    first = Stage(partial, indices, spatial, reduce, map_reads(stage.body, moved), stage.reduction)
    final = replace(stage, reduce=(part,), body=Read(partial, indices))
    return Program(program.inputs, (*program.stages[:place], first, final, *program.stages[place + 1 :]))
