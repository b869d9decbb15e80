"""Attention: two matrix products with a softmax between them, for each head of each sequence."""

from __future__ import annotations

import math

from ir.program import Apply, Axis, Constant, Program, Read, Stage, Tensor, Value, affine

LAYOUTS = ("bhid", "bihd")  # batch, heads, positions, numbers of a head


def attention(batch: int, heads: int, queries: int, keys: int, dim: int, scale: float | None, layout: str) -> Program:
    """softmax(q kᵀ · scale) v. The weights are divided by their sum after the second product, where there are fewer numbers to divide.

    What the keys are is called j. All stages have the batch, the heads and the queries first, in the order of `layout`."""
    axis = {"b": Axis("batch", batch), "h": Axis("head", heads), "i": Axis("i", queries), "j": Axis("j", keys), "d": Axis("d", dim)}
    rows = layout.removesuffix("d")

    def read(name: str, letters: str) -> Read:
        axes = [axis[letter] for letter in letters]
        return Read(Tensor(name, tuple(each.extent for each in axes)), tuple(affine(each) for each in axes))

    def stage(name: str, letters: str, body: Value, over: str = "", reduction: str | None = None) -> Stage:
        write = read(name, letters)
        return Stage(write.tensor, write.indices, tuple(axis[letter] for letter in letters), tuple(axis[letter] for letter in over), body, reduction)

    q, k, v = read("q", layout), read("k", layout.replace("i", "j")), read("v", layout.replace("i", "j"))
    # So that what is a power of e by the definition is one of 2, which takes less time.
    factor = Constant((1.0 / math.sqrt(dim) if scale is None else scale) / math.log(2))
    product = stage("product", rows + "j", Apply("mul", (q, k)), "d", "sum")
    score = stage("score", rows + "j", Apply("mul", (product.write, factor)))
    top = stage("top", rows, score.write, "j", "max")
    power = stage("power", rows + "j", Apply("exp2", (Apply("sub", (score.write, top.write)),)))
    total = stage("total", rows, power.write, "j", "sum")
    inverse = stage("inverse", rows, Apply("div", (Constant(1.0), total.write)))
    mixed = stage("mixed", rows + "d", Apply("mul", (power.write, v)), "j", "sum")
    y = stage("y", rows + "d", Apply("mul", (mixed.write, inverse.write)))
    return Program((q.tensor, k.tensor, v.tensor), (product, score, top, power, total, inverse, mixed, y))
