"""Rows set in relation to themselves: softmax, and normalization by mean and variance, in several passes so that nothing overflows or cancels.

A row is what lies along some axes of x. What is known of a row (its largest element, the inverse of its sum) is a tensor over the other axes, and
a stage of its own right after the reduction that it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ir.errors import UserError
from ir.program import Apply, Axis, Constant, Program, Read, Stage, Tensor, Value, affine

IMAGE_LAYOUTS = ("nhwc", "nchw")


@dataclass(frozen=True)
class Rows:
    """The tensor x by its axes; `along` are those of a row."""

    axes: tuple[Axis, ...]
    along: tuple[Axis, ...]

    @property
    def others(self) -> tuple[Axis, ...]:
        return tuple(axis for axis in self.axes if axis not in self.along)

    @property
    def length(self) -> int:
        return math.prod(axis.extent for axis in self.along)

    @property
    def x(self) -> Read:
        return self._whole("x")

    def reduce(self, name: str, body: Value, reduction: str) -> Stage:
        """A number for each row."""
        return self._row(name, self.along, body, reduction)

    def follow(self, name: str, body: Value) -> Stage:
        """A number for each row from others such."""
        return self._row(name, (), body, None)

    def each(self, name: str, body: Value) -> Stage:
        """A number for each element."""
        write = self._whole(name)
        return Stage(write.tensor, write.indices, self.axes, (), body)

    def at(self, row: Stage) -> Read:
        """What a stage found for the row that an element is in."""
        return Read(row.output, tuple(affine(axis) for axis in self.others) or (affine(),))

    def _whole(self, name: str) -> Read:
        return Read(Tensor(name, tuple(axis.extent for axis in self.axes)), tuple(affine(axis) for axis in self.axes))

    def _row(self, name: str, reduce: tuple[Axis, ...], body: Value, reduction: str | None) -> Stage:
        spatial = self.others or (Axis("one", 1),)
        shape = tuple(axis.extent for axis in spatial)
        return Stage(Tensor(name, shape), tuple(affine(axis) for axis in spatial), spatial, reduce, body, reduction)


# --- softmax --------------------------------------------------------------------------------------------------------


def softmax(shape: Sequence[int], axis: int) -> Program:
    """exp(x) over its sum along an axis."""
    rows = _rows("softmax", shape, (axis,))
    top = rows.reduce("top", rows.x, "max")
    power = rows.each("power", _exponential(Apply("sub", (rows.x, rows.at(top)))))
    total = rows.reduce("total", power.write, "sum")
    inverse = rows.follow("inverse", Apply("div", (Constant(1.0), total.write)))
    y = rows.each("y", Apply("mul", (power.write, rows.at(inverse))))
    return Program((rows.x.tensor,), (top, power, total, inverse, y))


def log_softmax(shape: Sequence[int], axis: int) -> Program:
    """Two differences, because one with the largest element and the logarithm in a sum would round as the largest element does."""
    rows = _rows("log_softmax", shape, (axis,))
    top = rows.reduce("top", rows.x, "max")
    below = Apply("sub", (rows.x, rows.at(top)))
    total = rows.reduce("total", _exponential(below), "sum")
    logarithm = rows.follow("logarithm", Apply("log", (total.write,)))
    y = rows.each("y", Apply("sub", (below, rows.at(logarithm))))
    return Program((rows.x.tensor,), (top, total, logarithm, y))


def _exponential(value: Value) -> Value:
    """exp of a difference, as a power of two: it is off by as much as rounding the difference puts it off, and takes three quarters of the time."""
    return Apply("exp2", (Apply("mul", (value, Constant(1 / math.log(2)))),))


# --- mean and variance ----------------------------------------------------------------------------------------------


def layer_norm(shape: Sequence[int], axes: Sequence[int], epsilon: float) -> Program:
    """By mean and variance over the last dimensions, with a scale and a bias for each element of a row."""
    rows = _rows("layer_norm", shape, axes, last=True)
    return _standardized(rows, rows.along, epsilon)


def instance_norm(n: int, c: int, h: int, w: int, layout: str, epsilon: float) -> Program:
    """Each channel of each image by its mean and variance, with a scale and a bias a channel."""
    axes = image_axes(n, c, h, w)
    rows = Rows(tuple(axes[letter] for letter in layout), (axes["h"], axes["w"]))
    return _standardized(rows, (axes["c"],), epsilon)


def rms_norm(shape: Sequence[int], axes: Sequence[int], epsilon: float) -> Program:
    """By the root of the mean square over the last dimensions, with a scale for each element of a row."""
    rows = _rows("rms_norm", shape, axes, last=True)
    squares = rows.reduce("squares", Apply("mul", (rows.x, rows.x)), "sum")
    inverse = rows.follow("inverse", _inverse_root(Apply("mul", (squares.write, Constant(1.0 / rows.length))), epsilon))
    scale = _constant("scale", rows.along)
    y = rows.each("y", Apply("mul", (Apply("mul", (rows.x, rows.at(inverse))), scale)))
    return Program((rows.x.tensor, scale.tensor), (squares, inverse, y))


def batch_norm(n: int, c: int, h: int, w: int, layout: str, epsilon: float) -> Program:
    """Each channel by a mean and a variance that are known beforehand: a factor and a summand a channel."""
    axes = image_axes(n, c, h, w)
    rows, channel = Rows(tuple(axes[letter] for letter in layout), ()), (axes["c"],)
    scale, bias, mean = (_constant(name, channel) for name in ("scale", "bias", "mean"))
    variance = _constant("variance", channel, positive=True)
    factor = Stage(Tensor("factor", (c,)), mean.indices, channel, (), Apply("mul", (scale, _inverse_root(variance, epsilon))))
    shift = Stage(Tensor("shift", (c,)), mean.indices, channel, (), Apply("sub", (bias, Apply("mul", (mean, factor.write)))))
    y = rows.each("y", Apply("add", (Apply("mul", (rows.x, factor.write)), shift.write)))
    return Program((rows.x.tensor, scale.tensor, bias.tensor, mean.tensor, variance.tensor), (factor, shift, y))


def image_axes(n: int, c: int, h: int, w: int) -> dict[str, Axis]:
    """By their letters in a layout."""
    return {name: Axis(name, size) for name, size in zip("nchw", (n, c, h, w), strict=True)}


def _standardized(rows: Rows, channels: tuple[Axis, ...], epsilon: float) -> Program:
    """Scale and bias vary along `channels`."""
    share = Constant(1.0 / rows.length)
    total = rows.reduce("total", rows.x, "sum")
    mean = rows.follow("mean", Apply("mul", (total.write, share)))
    offset = Apply("sub", (rows.x, rows.at(mean)))
    squares = rows.reduce("squares", Apply("mul", (offset, offset)), "sum")
    inverse = rows.follow("inverse", _inverse_root(Apply("mul", (squares.write, share)), epsilon))
    scale, bias = _constant("scale", channels), _constant("bias", channels)
    y = rows.each("y", Apply("add", (Apply("mul", (Apply("mul", (offset, rows.at(inverse))), scale)), bias)))
    return Program((rows.x.tensor, scale.tensor, bias.tensor), (total, mean, squares, inverse, y))


def _inverse_root(value: Value, epsilon: float) -> Value:
    return Apply("div", (Constant(1.0), Apply("sqrt", (Apply("add", (value, Constant(epsilon))),))))


def _constant(name: str, axes: Sequence[Axis], *, positive: bool = False) -> Read:
    tensor = Tensor(name, tuple(axis.extent for axis in axes), constant=True, positive=positive)
    return Read(tensor, tuple(affine(axis) for axis in axes))


def _rows(name: str, shape: Sequence[int], axes: Sequence[int], *, last: bool = False) -> Rows:
    """`last`: the axes have to be the last ones."""
    if max(axes) >= len(shape):
        raise UserError(f"{name}: there is no axis {max(axes)} in a tensor of {len(shape)} dimensions")
    if last and list(axes) != list(range(len(shape) - len(axes), len(shape))):
        raise UserError(f"{name}: axes={'x'.join(map(str, axes))} are not the last ones of a tensor of {len(shape)} dimensions in their order")
    every = tuple(Axis(f"d{i}", size) for i, size in enumerate(shape))
    return Rows(every, tuple(every[i] for i in axes))
