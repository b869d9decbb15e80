"""Split one reduction into partial ones and their sum: more independent work for outputs too small to feed threads and vectors."""

from __future__ import annotations

from dataclasses import replace

from ir.program import Affine, Axis, Program, Read, Stage, Tensor, affine, map_reads


def split_reduction(program: Program, axis: Axis, *, parts: int = 1, lanes: int = 1) -> Program:
    """`program` with the reduction over `axis` done in parts * lanes partial ones, of neighbours and of every lanes-th.

    Before: `c[n] = sum over k<K of f(k, n)`. After: `partial[p, n, l] = sum over i<R of f(p*R*lanes + i*lanes + l, n)` with R = K / (parts * lanes),
    then `c[n] = sum over p, l of partial`. A single part or lane is left out. parts * lanes must divide K.
    """
    if axis.extent % (parts * lanes):
        raise ValueError(f"{parts} parts of {lanes} lanes do not divide {axis.name}<{axis.extent}>")
    place = next(i for i, stage in enumerate(program.stages) if axis in stage.reduce)
    stage = program.stages[place]
    inner = Axis(f"{axis.name}_rest", axis.extent // (parts * lanes))
    part = (Axis(f"{axis.name}_part", parts),) if parts > 1 else ()
    lane = (Axis(f"{axis.name}_lane", lanes),) if lanes > 1 else ()
    digits = (*((each, inner.extent * lanes) for each in part), (inner, lanes), *((each, 1) for each in lane))

    def index(old: Affine) -> Affine:
        terms: list[tuple[Axis, int]] = []
        for other, factor in old.terms:
            terms += [(digit, factor * by) for digit, by in digits] if other == axis else [(other, factor)]
        return Affine(tuple(terms), old.constant)

    def moved(read: Read) -> Read:
        return replace(read, indices=tuple(index(old) for old in read.indices))

    reduce = tuple(inner if other == axis else other for other in stage.reduce)
    spatial = (*part, *stage.spatial, *lane)
    partial = Tensor("partial", tuple(a.extent for a in spatial))
    indices = tuple(affine(a) for a in spatial)
    first = Stage(partial, indices, spatial, reduce, map_reads(stage.body, moved), stage.reduction)
    final = replace(stage, reduce=(*part, *lane), body=Read(partial, indices))
    return Program(program.inputs, (*program.stages[:place], first, final, *program.stages[place + 1 :]))
