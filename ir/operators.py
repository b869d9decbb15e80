"""Operators as tensor programs: each is a few lines of indices, and an operator text names it.

`conv2d:n=1,c=64,h=56,w=56,k=64,r=3,s=3,stride=1,pad=1,groups=1,dilation=1,layout=nhwc,epilogue=bias+relu`

Activations follow `layout`: nhwc, nchw, or nchwc (channels split into an outer dimension and an innermost block). Weights are
always (k, c/groups, r, s), as in ONNX; what they look like in memory while a kernel runs is the schedule's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ir.errors import UserError
from ir.program import (
    Affine,
    Apply,
    Axis,
    Constant,
    Program,
    Read,
    Stage,
    Tensor,
    Value,
    affine,
)

LAYOUTS = ("nhwc", "nchw", "nchwc")
EPILOGUES = "bias, add, relu, sigmoid, clip<low>:<high>"
CHANNEL_BLOCK = 16  # channels in an nchwc block, or the largest divisor of the channels below it
MAX_EXTENT = 1 << 24
MAX_TENSOR_BYTES = 1 << 32

_CLIP = re.compile(r"clip(-?\d+(?:\.\d+)?):(-?\d+(?:\.\d+)?)", re.ASCII)


def conv2d(
    n: int, c: int, h: int, w: int, k: int, r: int, s: int, *,
    stride: Sequence[int], pad: Sequence[int], groups: int, dilation: Sequence[int], layout: str, epilogue: Sequence[str],
) -> Program:  # fmt: skip
    """2-D convolution. `stride` and `dilation` are (vertical, horizontal), `pad` is (top, left, bottom, right)."""
    high, wide = ((size + before + after - step * (kernel - 1) - 1) // by + 1
                  for size, before, after, step, kernel, by in zip((h, w), pad[:2], pad[2:], dilation, (r, s), stride, strict=True))  # fmt: skip
    if high < 1 or wide < 1:
        raise UserError(f"conv2d: a {r}x{s} kernel with dilation {dilation[0]}x{dilation[1]} does not fit into {h}x{w} padded by {tuple(pad)}")
    if c % groups or k % groups:
        raise UserError(f"conv2d: groups={groups} divides not both c={c} and k={k}")
    batch, oh, ow, rr, ss = Axis("n", n), Axis("oh", high), Axis("ow", wide), Axis("r", r), Axis("s", s)
    row = affine((oh, stride[0]), (rr, dilation[0]), constant=-pad[0])
    column = affine((ow, stride[1]), (ss, dilation[1]), constant=-pad[1])
    in_group, out_group = c // groups, k // groups
    # Channels as axes: a group axis where there are several groups, and a block axis where the layout has one (of groups, if depthwise).
    depthwise = in_group == out_group == 1
    group_axes = () if groups == 1 else _channels("g", groups, c, layout if depthwise else "")
    in_axes, out_axes = _channels("c", in_group, c, layout), _channels("k", out_group, k, layout)
    in_index = affine(*((axis, factor * in_group) for axis, factor in group_axes), *in_axes)
    out_index = affine(*((axis, factor * out_group) for axis, factor in group_axes), *out_axes)
    x_shape, x_index = _activation(layout, n, c, h, w, batch, row, column, in_index)
    y_shape, y_index = _activation(layout, n, k, high, wide, batch, affine(oh), affine(ow), out_index)
    x, weights = Tensor("x", x_shape), Tensor("weights", (k, in_group, r, s), constant=True)
    in_weights = affine(*in_axes)
    product = Apply("mul", (Read(x, x_index), Read(weights, (out_index, in_weights, affine(rr), affine(ss)))))
    spatial = _in_order(y_index)
    reduce = (*(axis for axis, _ in in_axes), rr, ss)
    return _with_epilogue("y", y_shape, y_index, spatial, reduce, product, (x, weights), out_index, k, epilogue)


def matmul(m: int, n: int, k: int, *, b: str, epilogue: Sequence[str]) -> Program:
    """(m, k) times (k, n). `b`: whether the second operand is "constant" or "variable"."""
    return _matmul((), m, n, k, b == "constant", epilogue)


def batch_matmul(batch: int, m: int, n: int, k: int, *, b: str, epilogue: Sequence[str]) -> Program:
    """(batch, m, k) times (batch, k, n)."""
    return _matmul((Axis("batch", batch),), m, n, k, b == "constant", epilogue)


def _matmul(batch: tuple[Axis, ...], m: int, n: int, k: int, constant: bool, epilogue: Sequence[str]) -> Program:
    mm, nn, kk = Axis("m", m), Axis("n", n), Axis("k", k)
    lead, sizes = tuple(affine(axis) for axis in batch), tuple(axis.extent for axis in batch)
    a, b = Tensor("a", (*sizes, m, k)), Tensor("b", (*sizes, k, n), constant)
    product = Apply("mul", (Read(a, (*lead, affine(mm), affine(kk))), Read(b, (*lead, affine(kk), affine(nn)))))
    indices = (*lead, affine(mm), affine(nn))
    return _with_epilogue("c", (*sizes, m, n), indices, (*batch, mm, nn), (kk,), product, (a, b), affine(nn), n, epilogue)


def _channels(name: str, size: int, total: int, layout: str) -> tuple[tuple[Axis, int], ...]:
    """The axes of `size` channels with their factors: one, or (block count, block) where the layout is blocked."""
    block = channel_block(total) if layout == "nchwc" else 1
    if size % block or layout != "nchwc" or size == 1:
        return ((Axis(name, size), 1),)
    return (Axis(name, size // block), block), (Axis(name + "b", block), 1)


def channel_block(channels: int) -> int:
    """Channels in a block of the nchwc layout: the largest divisor up to `CHANNEL_BLOCK`."""
    return next(size for size in range(CHANNEL_BLOCK, 0, -1) if channels % size == 0)


def _activation(
    layout: str, n: int, channels: int, h: int, w: int, batch: Axis, row: Affine, column: Affine, channel: Affine
) -> tuple[tuple[int, ...], tuple[Affine, ...]]:
    """Shape and indices of an activation tensor in `layout`."""
    if layout == "nhwc":
        return (n, h, w, channels), (affine(batch), row, column, channel)
    if layout == "nchw":
        return (n, channels, h, w), (affine(batch), channel, row, column)
    block = channel_block(channels)
    inner = [(axis, factor) for axis, factor in channel.terms if factor < block]
    outer = [(axis, factor // block) for axis, factor in channel.terms if factor >= block]
    if any(factor % block for _, factor in channel.terms if factor >= block) or sum(f * (a.extent - 1) for a, f in inner) >= block:
        raise UserError(f"conv2d: layout nchwc cannot block {channels} channels by {block} with these groups; use nhwc or nchw")
    return (n, channels // block, h, w, block), (affine(batch), affine(*outer), row, column, affine(*inner))


def _in_order(indices: Sequence[Affine]) -> tuple[Axis, ...]:
    return tuple(axis for index in indices for axis in index.axes)


def _with_epilogue(
    name: str, shape: tuple[int, ...], indices: tuple[Affine, ...], spatial: tuple[Axis, ...], reduce: tuple[Axis, ...],
    body: Value, inputs: tuple[Tensor, ...], channel: Affine, n_channels: int, epilogue: Sequence[str],
) -> Program:  # fmt: skip
    """The reduction, then one elementwise stage for the whole epilogue."""
    result = Tensor(name, shape)
    total = Tensor("sum", shape) if epilogue else result
    heavy = Stage(total, indices, spatial, reduce, body, "sum")
    if not epilogue:
        return Program(inputs, (heavy,))
    value: Value = Read(total, indices)
    extra: list[Tensor] = []
    for step in epilogue:
        if step == "bias":
            extra.append(Tensor("bias", (n_channels,), constant=True))
            value = Apply("add", (value, Read(extra[-1], (channel,))))
        elif step == "add":
            extra.append(Tensor("residual", shape))
            value = Apply("add", (value, Read(extra[-1], indices)))
        elif step == "relu":
            value = Apply("max", (value, Constant(0.0)))
        elif step == "sigmoid":
            value = Apply("sigmoid", (value,))
        elif match := _CLIP.fullmatch(step):
            low, high = float(match[1]), float(match[2])
            value = Apply("min", (Apply("max", (value, Constant(low))), Constant(high)))
    return Program((*inputs, *extra), (heavy, Stage(result, indices, spatial, (), value)))


# --- operator text --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """How a parameter of an operator is written: `parse` text to value, `write` value back to its one canonical text."""

    parse: Callable[[str], object]
    default: str | None = None
    write: Callable[[object], str] = str


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "…")


def _number(text: str, least: int) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("is no whole number")
    if len(digits) > len(str(MAX_EXTENT)) or not least <= int(text) <= MAX_EXTENT:
        raise ValueError(f"is not between {least} and {MAX_EXTENT}")
    return int(text)


def _size(text: str) -> int:
    return _number(text, 1)


def _sizes(counts: tuple[int, ...], least: int) -> Callable[[str], object]:
    def parse(text: str) -> tuple[int, ...]:
        numbers = tuple(_number(part, least) for part in text.split("x"))
        if len(numbers) not in counts:
            raise ValueError(f"has {len(numbers)} numbers, not {' or '.join(map(str, counts))}")
        return numbers * (max(counts) // len(numbers))

    return parse


def _write_sizes(value: object) -> str:
    numbers: tuple[int, ...] = tuple(value)  # type: ignore[arg-type]  # a tuple by construction
    return str(numbers[0]) if len(set(numbers)) == 1 else "x".join(map(str, numbers))


def _one_of(*names: str) -> Callable[[str], object]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"is none of {', '.join(names)}")
        return text

    return parse


def _step(text: str) -> str:
    """One step of an epilogue in its canonical text."""
    if text in ("bias", "add", "relu", "sigmoid"):
        return text
    clip = _CLIP.fullmatch(text)
    if clip is None:
        raise ValueError(f"has an unknown step {_quoted(text)} (known: {EPILOGUES})")
    low, high = float(clip[1]), float(clip[2])
    if low > high:
        raise ValueError(f"has a clip with low above high: {_quoted(text)}")
    if max(abs(low), abs(high)) > float(np.finfo(np.float32).max):
        raise ValueError(f"has a clip beyond the range of fp32: {_quoted(text)}")
    return f"clip{_float_text(low)}:{_float_text(high)}"


def _float_text(number: float) -> str:
    """The shortest decimal that is this number in fp32."""
    return np.format_float_positional(np.float32(number) + np.float32(0), trim="-")  # + 0: there is one zero


def _epilogue(text: str) -> tuple[str, ...]:
    steps = tuple(_step(step) for step in text.split("+")) if text not in ("", "none") else ()
    for step in ("bias", "add"):
        if steps.count(step) > 1:
            raise ValueError(f"has {step} twice")
    return steps


def _write_epilogue(value: object) -> str:
    return "+".join(value) or "none"  # type: ignore[arg-type]  # a tuple of names by construction


_EPILOGUE = Parameter(_epilogue, "none", _write_epilogue)
_CONSTANT = Parameter(_one_of("constant", "variable"), "constant")


@dataclass(frozen=True)
class Operator:
    """An operator by name: its parameters in canonical order and the function that makes its tensor program."""

    name: str
    parameters: Mapping[str, Parameter]
    build: Callable[..., Program]


OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("matmul", {**{name: Parameter(_size) for name in "mnk"}, "b": _CONSTANT, "epilogue": _EPILOGUE}, matmul),
        Operator(
            "batch_matmul",
            {**{name: Parameter(_size) for name in ("batch", "m", "n", "k")}, "b": Parameter(_CONSTANT.parse, "variable"), "epilogue": _EPILOGUE},
            batch_matmul,
        ),
        Operator(
            "conv2d",
            {
                **{name: Parameter(_size, "1" if name == "n" else None) for name in ("n", "c", "h", "w", "k", "r", "s")},
                "stride": Parameter(_sizes((1, 2), 1), "1", _write_sizes),
                "pad": Parameter(_sizes((1, 2, 4), 0), "0", _write_sizes),
                "groups": Parameter(_size, "1"),
                "dilation": Parameter(_sizes((1, 2), 1), "1", _write_sizes),
                "layout": Parameter(_one_of(*LAYOUTS), "nhwc"),
                "epilogue": _EPILOGUE,
            },
            conv2d,
        ),
    )
}


def parse_operator(text: str) -> tuple[str, Program]:
    """Canonical operator text and tensor program of an operator text; `UserError` names what is wrong in one line."""
    name, _, rest = text.strip().partition(":")
    operator = OPERATORS.get(name)
    if operator is None:
        raise UserError(f"unknown operator {_quoted(name)} in {_quoted(text)} (known: {', '.join(OPERATORS)})")
    given: dict[str, str] = {}
    for part in rest.split(",") if rest else []:
        key, equals, value = part.partition("=")
        if key not in operator.parameters:
            raise UserError(f"{name}: unknown parameter {_quoted(part)} in {_quoted(text)} (known: {', '.join(operator.parameters)})")
        if not equals:
            raise UserError(f"{name}: {key} has no value in {_quoted(text)}")
        if key in given:
            raise UserError(f"{name}: {key} is given twice in {_quoted(text)}")
        given[key] = value
    values: dict[str, object] = {}
    for key, parameter in operator.parameters.items():
        written = given.get(key, parameter.default)
        if written is None:
            raise UserError(f"{name}: {key} is missing in {_quoted(text)}")
        try:
            values[key] = parameter.parse(written)
        except ValueError as error:
            raise UserError(f"{name}: {key}={_quoted(written)} {error}") from None
    program = operator.build(**values)
    tensors = (*program.inputs, program.output)
    huge = next((tensor for tensor in tensors if tensor.n_bytes > MAX_TENSOR_BYTES), None)
    if huge is not None:
        gigabytes = f"{huge.n_bytes / 2**30:.1f} GiB, more than the {MAX_TENSOR_BYTES >> 30} GiB a tensor may take"
        raise UserError(f"{name}: tensor {huge.name} of shape {huge.shape} would take {gigabytes}")
    canonical = ",".join(f"{key}={parameter.write(values[key])}" for key, parameter in operator.parameters.items())
    return f"{name}:{canonical}", program
