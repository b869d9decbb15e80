"""Vectors by lanes: masks, shuffles, and loads and stores of some lanes or of lanes that lie apart."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from codegen.control import declare
from codegen.vectors import I32, I64, mangled, splat

POINTER = ir.PointerType()


def lane_mask(active: int, lanes: int) -> ir.Value:
    """The first lanes alone."""
    return ir.Constant(ir.VectorType(ir.IntType(1), lanes), [int(lane < active) for lane in range(lanes)])


def broadcast(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return builder.shuffle_vector(builder.insert_element(undefined, scalar, I32(0)), undefined, zeros)


def shuffled(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """Lanes of both in the order of `lanes`, those of b after those of a."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def lane_pointers(builder: ir.IRBuilder, pointer: ir.Value, step_bytes: int, lanes: int) -> ir.Value:
    """The address of every lane, `step_bytes` apart."""
    first = broadcast(builder, builder.ptrtoint(pointer, I64), lanes)
    steps = ir.Constant(ir.VectorType(I64, lanes), [lane * step_bytes for lane in range(lanes)])
    return builder.inttoptr(builder.add(first, steps), ir.VectorType(POINTER, lanes))


def masked_load(builder: ir.IRBuilder, kind: ir.Type, pointer: ir.Value, mask: ir.Value, align: int, otherwise: float = 0.0) -> ir.Value:
    function = declare(builder.module, f"llvm.masked.load.{mangled(kind)}.p0", kind, [POINTER, I32, mask.type, kind])
    return builder.call(function, [pointer, I32(align), mask, splat(kind, otherwise)])


def masked_store(builder: ir.IRBuilder, value: ir.Value, pointer: ir.Value, mask: ir.Value, align: int) -> None:
    function = declare(builder.module, f"llvm.masked.store.{mangled(value.type)}.p0", ir.VoidType(), [value.type, POINTER, I32, mask.type])
    builder.call(function, [value, pointer, I32(align), mask])


def gather(builder: ir.IRBuilder, kind: ir.Type, pointers: ir.Value, mask: ir.Value, align: int, otherwise: float) -> ir.Value:
    function = declare(builder.module, f"llvm.masked.gather.{mangled(kind)}.v{kind.count}p0", kind, [pointers.type, I32, mask.type, kind])
    return builder.call(function, [pointers, I32(align), mask, splat(kind, otherwise)])


def scatter(builder: ir.IRBuilder, value: ir.Value, pointers: ir.Value, mask: ir.Value, align: int) -> None:
    name = f"llvm.masked.scatter.{mangled(value.type)}.v{value.type.count}p0"
    function = declare(builder.module, name, ir.VoidType(), [value.type, pointers.type, I32, mask.type])
    builder.call(function, [value, pointers, I32(align), mask])
