"""The operators that take most of the time, Conv, ConvTranspose, Gemm and MatMul, as operator texts of `ir.operators`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnx import NodeProto

from graph.model import Graph, attribute
from graph.shapes import Shape
from ir.convolution import KERNEL, LAYOUTS, SPATIAL
from ir.errors import Unsupported

# Every convolution has its channels last: they are contiguous for vectors with no block size that depends on the machine, a 1x1 convolution is a
# matrix product, and nothing has to be repacked between layers.
LAYOUT = {rank: names[0] for rank, names in LAYOUTS.items()}
AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class Heavy:
    """What a node computes before anything is fused to it.

    `inputs`: tensors of the tensor program and which tensors of the network they are; constant ones are left out, they are made from
    `weights` and `bias`, and what the node multiplies them by. A bias varies along `channel_axis` of the node's output, if along any.
    The first input may have a prologue, whose constants vary along its `source_axis`, where there is one.
    """

    operator: str
    inputs: Mapping[str, str]
    channel_axis: int | None
    weights: str | None
    bias: str | None = None
    source_axis: int | None = None

    @property
    def source(self) -> str:
        """The network's tensor that is the first input."""
        return next(iter(self.inputs.values()))


def _conv(graph: Graph, node: NodeProto) -> Heavy:
    x, weights, bias = _convolution_inputs(graph, node)
    groups = _groups(node)
    (n, c, *size), (k, in_group, *kernel) = graph.shape(x), graph.shape(weights)
    if in_group * groups != c:
        raise _misfit(graph, x, weights, groups)
    stride, dilation = steps(node, len(size))
    before, after = padding(node, size, kernel, stride, dilation)
    rank = len(size)
    sizes = [f"n={n},c={c}", *_named(SPATIAL[rank], size), f"k={k}", *_named(KERNEL[rank], kernel)]
    options = f"stride={by_x(stride)},pad={by_x(before + after)},groups={groups},dilation={by_x(dilation)},layout={LAYOUT[rank]}"
    return Heavy(f"conv{rank}d:{','.join(sizes)},{options}", {"x": x}, 1, weights, bias=_bias(graph, bias, k), source_axis=1)


def _conv_transpose(graph: Graph, node: NodeProto) -> Heavy:
    """Of two dimensions, or of one, which is a transposed convolution of height 1."""
    x, weights, bias = _convolution_inputs(graph, node)
    groups = _groups(node)
    (n, c, *size), (in_channels, out_group, *kernel) = graph.shape(x), graph.shape(weights)
    if len(size) > 2:
        raise Unsupported(f"transposed convolution of {len(size)} dimensions, only 1 and 2 can be tuned")
    mode = attribute(node, "auto_pad", "NOTSET") or "NOTSET"
    if mode not in ("NOTSET", "VALID") or attribute(node, "output_shape", None) is not None:
        raise Unsupported("auto_pad and output_shape of a transposed convolution are not supported, only pads and output_padding")
    if in_channels != c or c % groups:
        raise _misfit(graph, x, weights, groups)
    stride, dilation = steps(node, len(size))
    before, after = padding(node, size, kernel, stride, dilation)
    output_pad = _each(node, "output_padding", len(size), 0)
    lead = 2 - len(size)
    (h, w), (r, s) = [1] * lead + size, [1] * lead + kernel
    text = (
        f"conv_transpose2d:n={n},c={c},h={h},w={w},k={out_group * groups},r={r},s={s},stride={by_x([1] * lead + stride)},"
        f"pad={by_x([0] * lead + before + [0] * lead + after)},output_pad={by_x([0] * lead + output_pad)},groups={groups},"
        f"dilation={by_x([1] * lead + dilation)},layout={LAYOUT[2]}"
    )
    return Heavy(text, {"x": x}, 1, weights, bias=_bias(graph, bias, out_group * groups), source_axis=1)


def _convolution_inputs(graph: Graph, node: NodeProto) -> tuple[str, str, str | None]:
    """x, weights and, if there is one, bias; the last two constant."""
    x, weights, *bias = filter(None, node.input)
    rank = len(graph.shape(x)) - 2
    if rank not in LAYOUTS:
        raise Unsupported(f"convolution of {rank} dimensions, only 1, 2 and 3 can be tuned")
    for name in (weights, *bias):
        if name not in graph.constants:
            raise Unsupported(f"{name!r} is not constant")
    if len(graph.shape(weights)) != rank + 2:
        raise _misfit(graph, x, weights, _groups(node))
    kernel = attribute(node, "kernel_shape", None)
    if kernel is not None and tuple(kernel) != graph.shape(weights)[2:]:
        raise Unsupported(f"kernel_shape={by_x(kernel)} is not the kernel of weights of shape {graph.shape(weights)}")
    return x, weights, bias[0] if bias else None


def _groups(node: NodeProto) -> int:
    groups: int = attribute(node, "group", 1)
    if groups < 1:
        raise Unsupported(f"group={groups}, not 1 or more")
    return groups


def _bias(graph: Graph, bias: str | None, k: int) -> str | None:
    if bias is not None and graph.shape(bias) != (k,):
        raise Unsupported(f"a bias of shape {graph.shape(bias)} does not fit {k} channels")
    return bias


def _misfit(graph: Graph, x: str, weights: str, groups: int) -> Unsupported:
    return Unsupported(f"weights of shape {graph.shape(weights)} do not fit an input of shape {graph.shape(x)} in {groups} groups")


def steps(node: NodeProto, rank: int) -> tuple[list[int], list[int]]:
    """Stride and dilation along each dimension."""
    return _each(node, "strides", rank, 1), _each(node, "dilations", rank, 1)


def _each(node: NodeProto, name: str, rank: int, least: int) -> list[int]:
    """An attribute that has a number of `least` or more for each dimension; the least where there is none. Behind a foreign operator onnx checks nothing."""
    found = list(attribute(node, name, [least] * rank))
    if len(found) != rank or min(found) < least:
        raise Unsupported(f"{name}={by_x(found)}, not {rank} numbers of {least} or more")
    return found


def _named(names: str, sizes: list[int]) -> list[str]:
    return [f"{name}={size}" for name, size in zip(names, sizes, strict=True)]


def padding(node: NodeProto, size: list[int], kernel: list[int], stride: list[int], dilation: list[int]) -> tuple[list[int], list[int]]:
    """(before, after) along each dimension."""
    mode = attribute(node, "auto_pad", "NOTSET") or "NOTSET"
    if mode not in AUTO_PADS:
        raise Unsupported(f"auto_pad={mode}, which is none of {', '.join(AUTO_PADS)}")
    if mode in ("NOTSET", "VALID"):
        pads = list(attribute(node, "pads", [0] * 2 * len(size))) if mode == "NOTSET" else [0] * 2 * len(size)
        if len(pads) != 2 * len(size):
            raise Unsupported(f"pads={by_x(pads)}, not two numbers for each of {len(size)} dimensions")
        return pads[: len(size)], pads[len(size) :]
    # SAME: ceil(size / stride) outputs; the odd one goes to the end (UPPER) or the start (LOWER).
    windows = [step * (extent - 1) + 1 for extent, step in zip(kernel, dilation, strict=True)]
    totals = [max((-(-extent // by) - 1) * by + window - extent, 0) for extent, by, window in zip(size, stride, windows, strict=True)]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def axis_from_start(axis: int, rank: int) -> int:
    """An axis that may be counted from the end, counted from 0 on."""
    if not -rank <= axis < rank:
        raise Unsupported(f"axis={axis} of a tensor of {rank} dimensions")
    return axis % rank


def by_x(numbers: list[int]) -> str:
    return "x".join(map(str, numbers))


def _gemm(graph: Graph, node: NodeProto) -> Heavy:
    a, b, *c = filter(None, node.input)
    alpha, beta, transposed = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), bool(attribute(node, "transB", 0))
    if not len(graph.shape(a)) == len(graph.shape(b)) == 2:
        raise Unsupported(f"operands of shapes {graph.shape(a)} and {graph.shape(b)} are no matrices")
    (m, k), (n, inner) = graph.shape(a), graph.shape(b) if transposed else graph.shape(b)[::-1]
    _check_fit(graph, a, b, k == inner)
    if attribute(node, "transA", 0):
        raise Unsupported("transA=1: the first operand lies transposed")
    operator, inputs, weights = _product(graph, f"matmul:m={m},n={n},k={k}", a, b)
    if weights is None and (transposed or alpha != 1.0):
        raise Unsupported(f"transB=1 or alpha={alpha:g} where the second operand is not constant")
    plain = Heavy(operator, inputs, 1, weights, source_axis=1)
    if not c or beta == 0.0:
        return plain
    if is_per_channel(graph, c[0], (m, n), 1):
        return replace(plain, bias=c[0])
    if graph.shape(c[0]) == (m, n) and beta == 1.0:
        return replace(plain, inputs=inputs | {"residual": c[0]})
    raise Unsupported(f"{c[0]!r} of shape {graph.shape(c[0])} is neither a constant for each column nor a whole matrix with beta=1")


def _check_fit(graph: Graph, a: str, b: str, fit: bool) -> None:
    if not fit:
        raise Unsupported(f"operands of shapes {graph.shape(a)} and {graph.shape(b)} do not fit together")


def _product(graph: Graph, operator: str, a: str, b: str) -> tuple[str, dict[str, str], str | None]:
    """Operator text, inputs and weights of a times b."""
    if b in graph.constants:
        return f"{operator},b=constant", {"a": a}, b
    return f"{operator},b=variable", {"a": a, "b": b}, None


def _matmul(graph: Graph, node: NodeProto) -> Heavy:
    """Leading dimensions go into m when the second operand has none, or else are a batch; the dimension that a vector lacks is 1."""
    a, b = node.input
    a_shape, b_shape = graph.shape(a), graph.shape(b)
    _check_fit(graph, a, b, bool(a_shape) and bool(b_shape))
    *a_lead, m, k = a_shape if len(a_shape) > 1 else (1, *a_shape)
    *b_lead, inner, n = b_shape if len(b_shape) > 1 else (*b_shape, 1)
    _check_fit(graph, a, b, k == inner)
    a_batch, b_batch = _without_leading_ones(a_lead), _without_leading_ones(b_lead)
    if b_batch and a_batch != b_batch:
        raise Unsupported(f"batches {tuple(a_lead)} and {tuple(b_lead)}: they are not equal, and repeating an operand is not built yet")
    text = f"batch_matmul:batch={math.prod(b_batch)},m={m}" if b_batch else f"matmul:m={math.prod(a_batch) * m}"
    operator, inputs, weights = _product(graph, f"{text},n={n},k={k}", a, b)
    channel_axis = len(graph.shape(node.output[0])) - 1 if len(b_shape) > 1 else None
    return Heavy(operator, inputs, channel_axis, weights, source_axis=len(a_shape) - 1)


def _without_leading_ones(sizes: list[int]) -> list[int]:
    return sizes[next((i for i, size in enumerate(sizes) if size != 1), len(sizes)) :]


HEAVY = {"Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _matmul}


def is_per_channel(graph: Graph, name: str, shape: Shape, axis: int | None) -> bool:
    """Whether tensor `name` is constant and, broadcast to `shape`, varies along `axis` at most."""
    if name not in graph.constants or name not in graph.shapes or len(graph.shapes[name]) > len(shape):
        return False
    given = (1,) * (len(shape) - len(graph.shapes[name])) + graph.shapes[name]
    return all(size == 1 or (i == axis and size == shape[i]) for i, size in enumerate(given))
