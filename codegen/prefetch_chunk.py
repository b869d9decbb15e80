"""What the next chunk reads is asked for while a thread computes, where a chunk reads the same data twice.

The stages of a softmax or a normalization each go over the rows of a chunk. The first one waits for memory and computes little, later ones find all that
they read in a cache: a core does not look so far ahead that one would hide the other. So the first stage that reads something again asks, element by
element, for the same place one chunk ahead. It does so

- where L1 has room for the chunk and the next one, if a thread reads more in a run than it has;
- where L2 has, if a thread reads more than L2 keeps for the next run, and the stage computes a transcendental function of what it reads: otherwise the
  way from memory is busy with what the stage itself asks for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from codegen.addresses import linear
from ir.expression import Symbol, add, substitute, symbols_of
from ir.nest import Buffer, Call, For, If, Load, NestValue, Prefetch, Statement, Store, loads
from ir.program import TRANSCENDENTAL
from schedule.target import Target

Stage = Sequence[Statement]  # what a stage does in a chunk


def with_prefetches(stages: Sequence[Stage], chunk: Symbol, n_chunks: int, target: Target) -> list[Statement]:
    """All stages of a chunk in order; `chunk` is the variable of the loop over `n_chunks` of them."""
    if len(stages) == 1:  # nothing is read again
        return list(stages[0])
    seen: set[Buffer] = set()
    asked: set[Buffer] = set()
    result: list[Statement] = []
    for stage in stages:
        values = list(_values(stage))
        read = {load.buffer for value in values for load in loads(value) if load.buffer.scope == "input"}
        computes = any(map(_is_transcendental, values))
        again = {buffer: level for buffer in (read & seen) - asked if (level := _level(buffer, n_chunks, computes, target))}
        result += [_asking(statement, again, chunk) for statement in stage] if again else stage
        seen |= read
        asked |= again.keys()
    return result


def _level(buffer: Buffer, n_chunks: int, computes: bool, target: Target) -> int:
    """The cache into which the next chunk is to be brought, 0 for none. Half of it is for what else the stages read and write."""
    n_bytes = math.prod(buffer.shape) * buffer.element_bytes
    two_chunks = 2 * n_bytes / n_chunks
    if two_chunks <= target.l1_bytes / 2:
        return 1 if n_bytes / target.threads > target.l1_bytes / 2 else 0
    return 2 if computes and two_chunks <= target.l2_bytes / 2 and not target.keeps(n_bytes) else 0


def _values(body: Sequence[Statement]) -> Iterator[NestValue]:
    for statement in body:
        match statement:
            case Store(value=value):
                yield value
            case For(body=inner):
                yield from _values(inner)
            case If(then=then, otherwise=otherwise):
                yield from _values((*then, *otherwise))


def _is_transcendental(value: NestValue) -> bool:
    return isinstance(value, Call) and (value.function in TRANSCENDENTAL or any(map(_is_transcendental, value.args)))


def _asking(statement: Statement, again: Mapping[Buffer, int], chunk: Symbol) -> Statement:
    """The statement with a prefetch in its vector loops for each load of these buffers that moves with the chunk."""
    match statement:
        case For(variable, _, body, "vector"):
            found = dict.fromkeys(load for value in _values(body) for load in loads(value) if load.buffer in again)
            ahead = [load for load in found if chunk in symbols_of(*load.indices) and _is_contiguous(load, variable)]
            return replace(statement, body=(*(_one_ahead(load, chunk, again[load.buffer]) for load in ahead), *body))
        case For(body=body):
            return replace(statement, body=tuple(_asking(each, again, chunk) for each in body))
        case If(condition, then, otherwise):
            parts = (tuple(_asking(each, again, chunk) for each in part) for part in (then, otherwise))
            return If(condition, *parts)
    return statement


def _one_ahead(load: Load, chunk: Symbol, level: int) -> Prefetch:
    return Prefetch(load.buffer, tuple(substitute(index, {chunk: add(chunk, 1)}) for index in load.indices), level)


def _is_contiguous(load: Load, variable: Symbol) -> bool:
    """Whether neighbouring lanes read neighbouring elements."""
    *outer, last = load.indices
    return variable not in symbols_of(*outer) and linear(last)[1].get(variable) == 1
