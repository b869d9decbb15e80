"""Pooling of images: the largest element or the mean of each window, or of the whole image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ir.convolution import Window, sliding_window
from ir.errors import UserError
from ir.normalization import image_axes
from ir.program import Affine, Apply, Axis, Constant, Program, Read, Stage, Tensor, affine
from ir.reduction import reduce


def max_pool2d(n: int, c: int, h: int, w: int, r: int, s: int, stride: Sequence[int], pad: Sequence[int], dilation: Sequence[int], layout: str) -> Program:
    """Nothing outside of the image is ever the largest."""
    windows = _windows("max_pool2d", (h, w), (r, s), stride, pad, dilation)
    x, taken = _pooled("y", n, c, h, w, layout, windows, "max", -math.inf)
    return Program((x,), (taken,))


def average_pool2d(n: int, c: int, h: int, w: int, r: int, s: int, stride: Sequence[int], pad: Sequence[int], layout: str, count_include_pad: str) -> Program:
    """Over the elements of a window, or over those alone that lie in the image: then the same sums over an image of ones are the divisors."""
    windows = _windows("average_pool2d", (h, w), (r, s), stride, pad, (1, 1))
    x, total = _pooled("total", n, c, h, w, layout, windows, "sum", 0.0)
    y = Tensor("y", total.output.shape)
    if count_include_pad == "1" or not any(pad):
        mean = Apply("mul", (total.write, Constant(1.0 / (r * s))))
        return Program((x,), (total, Stage(y, total.indices, total.spatial, (), mean)))
    axes = image_axes(n, c, h, w)
    one, image = Tensor("one", (h, w)), (axes["h"], axes["w"])
    ones = Stage(one, tuple(affine(axis) for axis in image), image, (), Constant(1.0))
    outputs = tuple(axis for window in windows for axis in window.output.axes)
    where = tuple(window.output for window in windows)
    inside = Read(one, tuple(window.input for window in windows))
    count = Stage(Tensor("count", tuple(window.extent for window in windows)), where, outputs, tuple(window.reduce for window in windows), inside, "sum")
    share = Stage(Tensor("share", count.output.shape), where, outputs, (), Apply("div", (Constant(1.0), count.write)))
    mean = Apply("mul", (total.write, share.write))
    return Program((x,), (ones, count, share, total, Stage(y, total.indices, total.spatial, (), mean)))


def global_average_pool(n: int, c: int, h: int, w: int, layout: str) -> Program:
    """(n, c) means."""
    return _global("mean", n, c, h, w, layout)


def global_max_pool(n: int, c: int, h: int, w: int, layout: str) -> Program:
    return _global("max", n, c, h, w, layout)


def _global(function: str, n: int, c: int, h: int, w: int, layout: str) -> Program:
    size = {"n": n, "c": c, "h": h, "w": w}
    return reduce(function, [size[letter] for letter in layout], [layout.index(letter) for letter in "hw"])


def _windows(name: str, sizes: tuple[int, ...], kernel: tuple[int, ...], stride: Sequence[int], pad: Sequence[int], dilation: Sequence[int]) -> list[Window]:
    """Each of them has an element of the image: the mean or the largest of none is no number."""
    given = zip("hw", "rs", sizes, kernel, stride, pad[:2], pad[2:], dilation, strict=True)
    windows = [sliding_window(*each) for each in given]
    for size, taps, by, step, before, window in zip(sizes, kernel, dilation, stride, pad[:2], windows, strict=True):
        if window.extent < 1:
            raise UserError(f"{name}: a window of {taps} elements {by} apart does not fit into {size} padded by {tuple(pad)}")
        starts = (step * position - before for position in range(window.extent if any(pad) else 0))
        if any(_is_empty(start, taps, by, size) for start in starts):
            raise UserError(f"{name}: padding {tuple(pad)} leaves windows without any element of the image")
    return windows


def _is_empty(start: int, taps: int, by: int, size: int) -> bool:
    """Whether none of start, start + by, ... (so many taps) lies in 0 <= position < size."""
    first = max(0, -(start // by))  # the first tap at or after 0
    return first >= taps or start + by * first >= size


def _pooled(name: str, n: int, c: int, h: int, w: int, layout: str, windows: Sequence[Window], reduction: str, outside: float) -> tuple[Tensor, Stage]:
    """The image and the reduction of its windows."""
    rows, columns = windows
    batch, channel = Axis("n", n), Axis("c", c)
    size = {"n": n, "c": c, "h": h, "w": w}
    read = {"n": affine(batch), "c": affine(channel), "h": rows.input, "w": columns.input}
    write: dict[str, Affine] = read | {"h": rows.output, "w": columns.output}
    extent = size | {"h": rows.extent, "w": columns.extent}
    x, y = Tensor("x", tuple(size[letter] for letter in layout)), Tensor(name, tuple(extent[letter] for letter in layout))
    body = Read(x, tuple(read[letter] for letter in layout), outside)
    indices = tuple(write[letter] for letter in layout)
    spatial = tuple(itertools.chain.from_iterable(index.axes for index in indices))
    return x, Stage(y, indices, spatial, (rows.reduce, columns.reduce), body, reduction)
