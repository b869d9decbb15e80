"""Counted loops and calls into other libraries, in LLVM IR: what every emitter needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir


def counted_loop(
    builder: ir.IRBuilder,
    low: ir.Value,
    high: ir.Value,
    step: ir.Value,
    carried: Sequence[ir.Value],
    body: Callable[[ir.Value, list[ir.Value]], list[ir.Value]],
) -> list[ir.Value]:
    """`for i in range(low, high, step): carried = body(i, carried)`, run at least once; the last `carried`."""
    before, head, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(head)
    builder.position_at_end(head)
    index, *inside = (builder.phi(value.type) for value in (low, *carried))
    for phi, value in zip((index, *inside), (low, *carried), strict=True):
        phi.add_incoming(value, before)
    last = body(index, inside)
    following = builder.add(index, step)
    for phi, value in zip((index, *inside), (following, *last), strict=True):
        phi.add_incoming(value, builder.block)
    builder.cbranch(builder.icmp_unsigned("<", following, high), head, after)
    builder.position_at_end(after)
    return last


def declare(module: ir.Module, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    """The function of that name, declared where it was not."""
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)
