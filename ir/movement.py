"""Programs that only move data: transposition, padding, slices, concatenation, and packing of images into layouts. None of them has flops."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import accumulate

from ir.errors import UserError
from ir.parameters import as_fp32, write_every_size, write_real
from ir.program import Axis, Beyond, Program, Read, Stage, Tensor, affine

PAD_MODES: dict[str, Beyond] = {"constant": "value", "edge": "edge", "reflect": "reflect"}  # what a read beyond the tensor gives

_BLOCKED = re.compile(r"nchw([1-9]\d{0,3})c", re.ASCII)
_REAL = re.compile(r"-?(?:\d+(?:\.\d+)?(?:e[+-]?\d{1,3})?|inf)|nan", re.ASCII)


def transpose(shape: Sequence[int], axes: Sequence[int]) -> Program:
    """Dimension i of the result is dimension `axes[i]` of x."""
    if sorted(axes) != list(range(len(shape))):
        raise UserError(f"transpose: axes={write_every_size(axes)} are not the {len(shape)} dimensions of shape={write_every_size(shape)}, each once")
    walk = _axes([shape[place] for place in axes])
    return _moved(shape, walk, Read(Tensor("x", tuple(shape)), tuple(affine(walk[axes.index(place)]) for place in range(len(shape)))))


def pad(shape: Sequence[int], before: Sequence[int], after: Sequence[int], mode: str, value: float) -> Program:
    """So many elements more before and after each dimension, as numpy's pad has them: a constant, the last element, or the elements mirrored at it."""
    _same_length("pad", shape, before=before, after=after)
    if mode != "constant" and (value != 0 or math.copysign(1, value) < 0):
        raise UserError(f"pad: value={write_any_real(value)} is for mode=constant, not for mode={mode}")
    for place, (size, few, many) in enumerate(zip(shape, before, after, strict=True)):
        if mode == "reflect" and max(few, many) >= size:
            raise UserError(f"pad: mode={mode} takes less than the {size} elements of dimension {place}, not {max(few, many)}")
    walk = _axes([size + few + many for size, few, many in zip(shape, before, after, strict=True)])
    indices = tuple(affine(axis, constant=-few) for axis, few in zip(walk, before, strict=True))
    return _moved(shape, walk, Read(Tensor("x", tuple(shape)), indices, value, PAD_MODES[mode]))


def cut(shape: Sequence[int], starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]) -> Program:
    """x[start:stop:step] of each dimension, as Python has it: negative numbers count from the end, and what is too large means the end."""
    _same_length("slice", shape, starts=starts, stops=stops, steps=steps)
    if 0 in steps:
        raise UserError(f"slice: steps={write_every_size(steps)} has a step of 0")
    parts = [range(*slice(*part).indices(size)) for size, *part in zip(shape, starts, stops, steps, strict=True)]
    for place, part in enumerate(parts):
        if not part:
            raise UserError(f"slice: nothing lies from {starts[place]} to {stops[place]} in steps of {steps[place]} in the {shape[place]} of dimension {place}")
    walk = _axes([len(part) for part in parts])
    indices = tuple(affine((axis, part.step), constant=part.start) for axis, part in zip(walk, parts, strict=True))
    return _moved(shape, walk, Read(Tensor("x", tuple(shape)), indices))


def concat(shapes: Sequence[Sequence[int]], axis: int) -> Program:
    """x0, x1, ... one after the other along the axis: a stage for each input, which fills its part of the result."""
    first = shapes[0]
    if len(shapes) < 2:
        raise UserError("concat: shapes has one shape, and there is nothing to join it with")
    if axis >= len(first):
        raise UserError(f"concat: axis={axis} of shapes with {len(first)} dimensions")
    others = {(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    if len(others) > 1:
        raise UserError(f"concat: shapes={'.'.join(map(write_every_size, shapes))} differ in more than dimension {axis}")
    sizes = [shape[axis] for shape in shapes]
    output = Tensor("y", (*first[:axis], sum(sizes), *first[axis + 1 :]))
    walk, inputs, stages = _axes(first), list[Tensor](), list[Stage]()
    for number, (shape, start) in enumerate(zip(shapes, accumulate(sizes, initial=0), strict=False)):
        mine = (*walk[:axis], Axis(f"d{axis}x{number}", sizes[number]), *walk[axis + 1 :])
        write = [affine(each, constant=start if place == axis else 0) for place, each in enumerate(mine)]
        inputs.append(Tensor(f"x{number}", tuple(shape)))
        stages.append(Stage(output, tuple(write), mine, (), Read(inputs[-1], tuple(map(affine, mine)))))
    return Program(tuple(inputs), tuple(stages))


def pack(shape: Sequence[int], source: str, target: str) -> Program:
    """An image from one layout to another. `shape` has the sizes of n, c, h and w in the order in which the source has them (blocks of channels do not
    change it: nchw16c is n, c, h, w). In a last block that is not full there are zeros, or what is dropped."""
    if len(shape) != 4:
        raise UserError(f"pack: shape={write_every_size(shape)} has {len(shape)} numbers, an image has n, c, h and w")
    if source == target:
        raise UserError(f"pack: from and to are the same layout, {source}")
    if block_of(source) and block_of(target):
        raise UserError(f"pack: from={source} and to={target} are both in blocks of channels, one must be nchw or nhwc")
    sizes = dict(zip("nhwc" if source == "nhwc" else "nchw", shape, strict=True))
    block = block_of(source) or block_of(target)
    walk = {name: Axis(name, sizes[name]) for name in "nhw"}
    walk |= {"o": Axis("o", -(-sizes["c"] // block)), "i": Axis("i", block)} if block else {"c": Axis("c", sizes["c"])}
    channel = affine((walk["o"], block), walk["i"]) if block else affine(walk["c"])
    index = {"c": channel, **{name: affine(axis) for name, axis in walk.items()}}

    def access(name: str, layout: str) -> Read:
        letters = "nohwi" if block_of(layout) else layout
        return Read(Tensor(name, tuple(sizes.get(letter) or walk[letter].extent for letter in letters)), tuple(index[letter] for letter in letters))

    x, y = access("x", source), access("y", target)
    order = [axis for part in y.indices for axis in part.axes]
    return Program((x.tensor,), (Stage(y.tensor, y.indices, tuple(order), (), x),))


def block_of(layout: str) -> int:
    """Channels in a block of the layout, 0 where there are no blocks."""
    found = _BLOCKED.fullmatch(layout)
    return int(found[1]) if found else 0


def image_layout(text: str) -> str:
    if text not in ("nchw", "nhwc") and not block_of(text):
        raise ValueError("is neither nchw, nor nhwc, nor nchw<N>c such as nchw16c")
    return text


def any_real(text: str) -> float:
    """As fp32 has it; the infinities and NaN too."""
    if not _REAL.fullmatch(text):
        raise ValueError("is no decimal number such as -1.5, nor inf, -inf or nan")
    number = as_fp32(float(text))
    if math.isinf(number) and "inf" not in text:
        raise ValueError("is beyond the range of fp32")
    return math.nan if math.isnan(number) else number  # the same object each time: programs that have it are equal


def write_any_real(value: object) -> str:
    return write_real(value) if math.isfinite(value) else str(value)  # type: ignore[arg-type]  # a float by construction


def _axes(sizes: Sequence[int]) -> tuple[Axis, ...]:
    return tuple(Axis(f"d{place}", size) for place, size in enumerate(sizes))


def _moved(shape: Sequence[int], walk: tuple[Axis, ...], read: Read) -> Program:
    return Program((read.tensor,), (Stage(Tensor("y", tuple(axis.extent for axis in walk)), tuple(map(affine, walk)), walk, (), read),))


def _same_length(operator: str, shape: Sequence[int], **given: Sequence[int]) -> None:
    for name, numbers in given.items():
        if len(numbers) != len(shape):
            raise UserError(f"{operator}: {name}={write_every_size(numbers)} has {len(numbers)} numbers for the {len(shape)} dimensions of the shape")
