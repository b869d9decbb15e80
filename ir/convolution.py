"""Convolutions as tensor programs: over one, two or three dimensions, transposed, and of capsules.

Activations follow a layout: channels last, channels first, or blocked (channels split into an outer dimension and an innermost block). Weights are as
in ONNX, (k, c/groups, kernel) and for transposed ones (c, k/groups, kernel); what they look like in memory while a kernel runs is the schedule's
business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ir.epilogue import with_epilogue
from ir.errors import UserError
from ir.program import Affine, Apply, Axis, Program, Read, Tensor, affine
from ir.prologue import with_prologue

LAYOUTS = {1: ("nwc", "ncw", "ncwc"), 2: ("nhwc", "nchw", "nchwc"), 3: ("ndhwc", "ncdhw", "ncdhwc")}  # by rank: last, first, blocked
CHANNEL_BLOCK = 16  # channels in a block, or the largest divisor of the channels below it
RANKS = {"conv1d": 1, "conv2d": 2, "conv3d": 3, "conv_transpose2d": 2, "capsule_conv2d": 2}  # dimensions of an image, by operator
SPATIAL = {1: "w", 2: "hw", 3: "dhw"}  # names of the dimensions of an image, and those of a kernel
KERNEL = {1: "s", 2: "rs", 3: "trs"}


@dataclass(frozen=True)
class Window:
    """One dimension of a convolution: `output` and `input` are the indices of the activations, `kernel` that of the weights."""

    output: Affine
    input: Affine
    kernel: Affine
    reduce: Axis
    extent: int  # of the output


def conv1d(n: int, c: int, w: int, k: int, s: int, **options: object) -> Program:
    return _convolution("conv1d", n, c, k, (w,), (s,), **options)  # type: ignore[arg-type]  # as `_convolution` declares them


def conv2d(n: int, c: int, h: int, w: int, k: int, r: int, s: int, **options: object) -> Program:
    return _convolution("conv2d", n, c, k, (h, w), (r, s), **options)  # type: ignore[arg-type]


def conv3d(n: int, c: int, d: int, h: int, w: int, k: int, t: int, r: int, s: int, **options: object) -> Program:
    return _convolution("conv3d", n, c, k, (d, h, w), (t, r, s), **options)  # type: ignore[arg-type]


def _convolution(
    name: str, n: int, c: int, k: int, sizes: tuple[int, ...], kernel: tuple[int, ...], *,
    stride: Sequence[int], pad: Sequence[int], groups: int, dilation: Sequence[int], layout: str, prologue: Sequence[str], epilogue: Sequence[str],
) -> Program:  # fmt: skip
    """`stride` and `dilation` have a number a dimension, the outermost first; `pad` has those before each dimension, then those after."""
    rank = len(sizes)
    windows = [
        sliding_window(*given) for given in zip(SPATIAL[rank], KERNEL[rank], sizes, kernel, stride, pad[:rank], pad[rank:], dilation, strict=True)
    ]  # fmt: skip
    if any(window.extent < 1 for window in windows):
        sides = f"{_by(kernel)} kernel with dilation {_by(dilation)} does not fit into {_by(sizes)} padded by {tuple(pad)}"
        raise UserError(f"{name}: a {sides}")
    return _with_channels(name, n, c, k, sizes, kernel, windows, groups=groups, layout=layout, prologue=prologue, epilogue=epilogue, transposed=False)


def conv_transpose2d(
    n: int, c: int, h: int, w: int, k: int, r: int, s: int, *,
    stride: Sequence[int], pad: Sequence[int], output_pad: Sequence[int], groups: int,
    dilation: Sequence[int], layout: str, prologue: Sequence[str], epilogue: Sequence[str],
) -> Program:  # fmt: skip
    """Transposed convolution, ONNX's ConvTranspose: each input pixel is spread over a window of the output."""
    given = zip("hw", "rs", (h, w), (r, s), stride, pad[:2], pad[2:], dilation, output_pad, strict=True)
    windows = [_transposed_window(*each) for each in given]
    return _with_channels(
        "conv_transpose2d", n, c, k, (h, w), (r, s), windows, groups=groups, layout=layout, prologue=prologue, epilogue=epilogue, transposed=True
    )


def capsule_conv2d(
    n: int, c: int, h: int, w: int, k: int, r: int, s: int, *,
    stride: Sequence[int], pad: Sequence[int], capsule: int, prologue: Sequence[str], epilogue: Sequence[str],
) -> Program:  # fmt: skip
    """Convolution whose elements are square matrices: x is (n, h, w, capsule, capsule, c), weights (r, s, capsule, capsule, c, k)."""
    rows, columns = (sliding_window(*each) for each in zip("hw", "rs", (h, w), (r, s), stride, pad[:2], pad[2:], (1, 1), strict=True))
    if min(rows.extent, columns.extent) < 1:
        raise UserError(f"capsule_conv2d: a {r}x{s} kernel does not fit into {h}x{w} padded by {tuple(pad)}")
    batch, i, j, inner, cc, kk = Axis("n", n), Axis("i", capsule), Axis("j", capsule), Axis("a", capsule), Axis("c", c), Axis("k", k)
    x = Tensor("x", (n, h, w, capsule, capsule, c))
    weights = Tensor("weights", (r, s, capsule, capsule, c, k), constant=True)
    x_index = (affine(batch), rows.input, columns.input, affine(i), affine(inner), affine(cc))
    product = Apply("mul", (Read(x, x_index), Read(weights, (rows.kernel, columns.kernel, affine(inner), affine(j), affine(cc), affine(kk)))))
    y_index = (affine(batch), rows.output, columns.output, affine(i), affine(j), affine(kk))
    y_shape = (n, rows.extent, columns.extent, capsule, capsule, k)
    reduce = (inner, cc, rows.reduce, columns.reduce)
    program = with_epilogue("y", y_shape, y_index, _in_order(y_index), reduce, product, (x, weights), affine(kk), k, epilogue)
    return with_prologue(program, {len(x.shape) - 1: 1}, prologue)


# --- one dimension --------------------------------------------------------------------------------------------------


def sliding_window(name: str, kernel_name: str, size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> Window:
    """One that visits the input every `stride` elements. `name`: of the dimension; without room for a window the extent is below 1."""
    extent = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
    out, reduce = Axis(f"o{name}", extent), Axis(kernel_name, kernel)
    return Window(affine(out), affine((out, stride), (reduce, dilation), constant=-before), affine(reduce), reduce, extent)


def _transposed_window(
    name: str, kernel_name: str, size: int, kernel: int, stride: int, before: int, after: int, dilation: int, output_pad: int
) -> Window:  # fmt: skip
    """The output at o is the sum over r of input at (o + before - dilation*r) / stride where that is a whole number.

    With o = stride*q + p only every stride-th r counts, r = first(p) + stride*t: each phase p is a convolution of its own over t. The indices stay
    affine in q, p and t, and t runs backwards so that the input index grows with it. Of the last q some phases may lie outside.
    """
    extent = (size - 1) * stride + dilation * (kernel - 1) + 1 + output_pad - before - after
    label = f"conv_transpose2d: along {name}"
    if extent < 1:
        raise UserError(f"{label} the output would have {extent} elements")
    if output_pad >= max(stride, dilation):
        raise UserError(f"{label} output_pad={output_pad} is not below stride and dilation")
    if stride == 1:
        out, reduce = Axis(f"o{name}", extent), Axis(kernel_name, kernel)
        index = affine(out, (reduce, dilation), constant=before - dilation * (kernel - 1))
        return Window(affine(out), index, affine((reduce, -1), constant=kernel - 1), reduce, extent)
    if dilation != 1:
        raise UserError(f"{label} dilation {dilation} with stride {stride} is not supported")
    tile, phase = Axis(f"o{name}", -(-extent // stride)), Axis(f"{name}_phase", stride)
    missing = 0 if stride == 2 else -before % stride  # taps of zero before the kernel, so that the phases begin in order
    swapped = before % 2 if stride == 2 else 0  # with stride 2 they may begin the other way round
    n_taps = -(-(kernel + missing) // stride)
    taps = Axis(kernel_name, n_taps)
    r = affine((phase, -1 if swapped else 1), (taps, -stride), constant=swapped - missing + stride * (n_taps - 1))
    index = affine(tile, (phase, swapped), taps, constant=(before + missing - swapped) // stride - (n_taps - 1))
    return Window(affine((tile, stride), phase), index, r, taps, extent)


# --- channels -------------------------------------------------------------------------------------------------------


def _with_channels(
    name: str, n: int, c: int, k: int, sizes: tuple[int, ...], kernel: tuple[int, ...], windows: Sequence[Window], *,
    groups: int, layout: str, prologue: Sequence[str], epilogue: Sequence[str], transposed: bool,
) -> Program:  # fmt: skip
    """Channels as axes: a group axis where there are several groups, and a block axis where the layout has one (of groups, if depthwise)."""
    if c % groups or k % groups:
        raise UserError(f"{name}: groups={groups} divides not both c={c} and k={k}")
    in_group, out_group = c // groups, k // groups
    blocked = layout == LAYOUTS[len(sizes)][2]
    depthwise = in_group == out_group == 1
    group_axes = () if groups == 1 else _channels("g", groups, c, blocked and depthwise)
    in_axes, out_axes = _channels("c", in_group, c, blocked), _channels("k", out_group, k, blocked)
    in_index = affine(*((axis, factor * in_group) for axis, factor in group_axes), *in_axes)
    out_index = affine(*((axis, factor * out_group) for axis, factor in group_axes), *out_axes)
    batch = Axis("n", n)
    x_shape, x_index = _activation(name, layout, n, c, sizes, batch, [window.input for window in windows], in_index)
    high = tuple(window.extent for window in windows)
    y_shape, y_index = _activation(name, layout, n, k, high, batch, [window.output for window in windows], out_index)
    taps = [window.kernel for window in windows]
    if transposed:
        weights, at = (c, out_group, *kernel), (in_index, affine(*out_axes), *taps)
    else:
        weights, at = (k, in_group, *kernel), (out_index, affine(*in_axes), *taps)
    x, w = Tensor("x", x_shape), Tensor("weights", weights, constant=True)
    product = Apply("mul", (Read(x, x_index), Read(w, at)))
    reduce = (*(axis for axis, _ in in_axes), *(window.reduce for window in windows))
    program = with_epilogue("y", y_shape, y_index, _in_order(y_index), reduce, product, (x, w), out_index, k, epilogue)
    return with_prologue(program, _channel_dimensions(layout, len(sizes), x_shape), prologue)


def _channels(name: str, size: int, total: int, blocked: bool) -> tuple[tuple[Axis, int], ...]:
    """The axes of `size` channels with their factors: one, or (block count, block)."""
    block = channel_block(total) if blocked else 1
    if size % block or not blocked or size == 1:
        return ((Axis(name, size), 1),)
    return (Axis(name, size // block), block), (Axis(name + "b", block), 1)


def channel_block(channels: int) -> int:
    """Channels in a block of a blocked layout: the largest divisor up to `CHANNEL_BLOCK`."""
    return next(size for size in range(CHANNEL_BLOCK, 0, -1) if channels % size == 0)


def _activation(
    name: str, layout: str, n: int, channels: int, sizes: tuple[int, ...], batch: Axis, positions: Sequence[Affine], channel: Affine
) -> tuple[tuple[int, ...], tuple[Affine, ...]]:
    """Shape and indices of an activation tensor in `layout`."""
    last, first, _ = LAYOUTS[len(sizes)]
    if layout == last:
        return (n, *sizes, channels), (affine(batch), *positions, channel)
    if layout == first:
        return (n, channels, *sizes), (affine(batch), channel, *positions)
    block = channel_block(channels)
    inner = [(axis, factor) for axis, factor in channel.terms if factor < block]
    outer = [(axis, factor // block) for axis, factor in channel.terms if factor >= block]
    if any(factor % block for _, factor in channel.terms if factor >= block) or sum(f * (a.extent - 1) for a, f in inner) >= block:
        raise UserError(f"{name}: layout {layout} cannot block {channels} channels by {block} with these groups; use {last} or {first}")
    return (n, channels // block, *sizes, block), (affine(batch), affine(*outer), *positions, affine(*inner))


def _channel_dimensions(layout: str, rank: int, shape: tuple[int, ...]) -> dict[int, int]:
    """The dimensions of an activation that its channels are made of, with their factors."""
    last, first, _ = LAYOUTS[rank]
    end = len(shape) - 1
    return {end: 1} if layout == last else {1: 1} if layout == first else {1: shape[end], end: 1}


def _in_order(indices: Sequence[Affine]) -> tuple[Axis, ...]:
    return tuple(axis for index in indices for axis in index.axes)


def _by(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))
