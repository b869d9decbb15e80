"""The operators worth tuning, Conv, Gemm and MatMul, as operator texts of `ir.operators`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnx import NodeProto, TensorProto, helper

from graph.model import Graph, attribute
from graph.shapes import Shape
from ir.errors import Unsupported

# Every convolution gets nhwc: channels are contiguous for vectors with no block size that depends on the machine, a 1x1 convolution is a
# matrix product, and nothing has to be repacked between layers.
LAYOUT = "nhwc"


@dataclass(frozen=True)
class Heavy:
    """What a node computes before anything is fused to it.

    `inputs`: tensors of the tensor program and which tensors of the network they are; constant ones are left out, they are made from
    `weights` (times `scale`, transposed first if so) and `bias` (times `bias_scale`). A bias varies along `channel_axis` of the node's
    output, if along any.
    """

    operator: str
    inputs: Mapping[str, str]
    channel_axis: int | None
    weights: str | None
    transposed: bool = False
    scale: float = 1.0
    bias: str | None = None
    bias_scale: float = 1.0


def heavy(graph: Graph, node: NodeProto) -> Heavy:
    """The node, an operator of `TUNABLE`, as operator text; `Unsupported` says why it cannot be expressed."""
    for name in filter(None, node.input):
        if graph.types.get(name) != TensorProto.FLOAT:
            found = helper.tensor_dtype_to_string(graph.types[name]) if name in graph.types else "an unknown type"
            raise Unsupported(f"{name!r} is {found.removeprefix('TensorProto.').lower()}, only float (fp32) can be tuned")
    return TUNABLE[node.op_type](graph, node)


def _conv(graph: Graph, node: NodeProto) -> Heavy:
    """Of two dimensions, or of one, which is a convolution of height 1."""
    x, weights, *bias = filter(None, node.input)
    x_shape, weights_shape, groups = graph.shape(x), graph.shape(weights), attribute(node, "group", 1)
    if len(x_shape) not in (3, 4):
        raise Unsupported(f"convolution of {len(x_shape) - 2} dimensions, only 1 and 2 can be tuned")
    for name in (weights, *bias):
        if name not in graph.constants:
            raise Unsupported(f"{name!r} is not constant")
    if len(weights_shape) != len(x_shape) or weights_shape[1] * groups != x_shape[1] or any(graph.shape(name) != weights_shape[:1] for name in bias):
        raise Unsupported(f"weights of shape {weights_shape}, or their bias, do not fit an input of shape {x_shape} in {groups} groups")
    (n, c, *size), (k, _, *kernel) = x_shape, weights_shape
    ones = [1] * len(size)
    stride, dilation = (list(attribute(node, name, ones)) for name in ("strides", "dilations"))
    before, after = _padding(node, size, kernel, stride, dilation)
    lead = 2 - len(size)
    (h, w), (r, s) = [1] * lead + size, [1] * lead + kernel
    pad = [0] * lead + before + [0] * lead + after
    text = (
        f"conv2d:n={n},c={c},h={h},w={w},k={k},r={r},s={s},stride={_sizes([1] * lead + stride)},pad={_sizes(pad)},"
        f"groups={groups},dilation={_sizes([1] * lead + dilation)},layout={LAYOUT}"
    )
    return Heavy(text, {"x": x}, 1, weights, bias=bias[0] if bias else None)


def _padding(node: NodeProto, size: list[int], kernel: list[int], stride: list[int], dilation: list[int]) -> tuple[list[int], list[int]]:
    """(before, after) along each dimension."""
    mode = attribute(node, "auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        pads = list(attribute(node, "pads", [0] * 2 * len(size))) if mode == "NOTSET" else [0] * 2 * len(size)
        return pads[: len(size)], pads[len(size) :]
    # SAME: ceil(size / stride) outputs; the odd one goes to the end (UPPER) or the start (LOWER).
    windows = [step * (extent - 1) + 1 for extent, step in zip(kernel, dilation, strict=True)]
    totals = [max((-(-extent // by) - 1) * by + window - extent, 0) for extent, by, window in zip(size, stride, windows, strict=True)]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def _sizes(numbers: list[int]) -> str:
    return "x".join(map(str, numbers))


def _gemm(graph: Graph, node: NodeProto) -> Heavy:
    a, b, *c = filter(None, node.input)
    alpha, beta, transposed = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), bool(attribute(node, "transB", 0))
    (m, k), n = graph.shape(a), graph.shape(b)[0 if transposed else 1]
    if attribute(node, "transA", 0):
        raise Unsupported("transA=1: the first operand lies transposed")
    operator, inputs, weights = _product(graph, f"matmul:m={m},n={n},k={k}", a, b)
    if weights is None and (transposed or alpha != 1.0):
        raise Unsupported(f"transB=1 or alpha={alpha:g} where the second operand is not constant")
    plain = Heavy(operator, inputs, 1, weights, transposed, alpha)
    if not c or beta == 0.0:
        return plain
    if is_per_channel(graph, c[0], (m, n), 1):
        return replace(plain, bias=c[0], bias_scale=beta)
    if graph.shape(c[0]) == (m, n) and beta == 1.0:
        return replace(plain, inputs=inputs | {"residual": c[0]})
    raise Unsupported(f"{c[0]!r} of shape {graph.shape(c[0])} is neither a constant for each column nor a whole matrix with beta=1")


def _product(graph: Graph, operator: str, a: str, b: str) -> tuple[str, dict[str, str], str | None]:
    """Operator text, inputs and weights of a times b."""
    if b in graph.constants:
        return f"{operator},b=constant", {"a": a}, b
    return f"{operator},b=variable", {"a": a, "b": b}, None


def _matmul(graph: Graph, node: NodeProto) -> Heavy:
    """Leading dimensions go into m when the second operand has none, or else are a batch; the dimension that a vector lacks is 1."""
    a, b = node.input
    a_shape, b_shape = graph.shape(a), graph.shape(b)
    *a_lead, m, k = a_shape if len(a_shape) > 1 else (1, *a_shape)
    *b_lead, _, n = b_shape if len(b_shape) > 1 else (*b_shape, 1)
    a_batch, b_batch = _without_leading_ones(a_lead), _without_leading_ones(b_lead)
    if b_batch and a_batch != b_batch:
        raise Unsupported(f"batches {tuple(a_lead)} and {tuple(b_lead)}: repeating the first operand is not built yet")
    text = f"batch_matmul:batch={math.prod(b_batch)},m={m}" if b_batch else f"matmul:m={math.prod(a_batch) * m}"
    operator, inputs, weights = _product(graph, f"{text},n={n},k={k}", a, b)
    return Heavy(operator, inputs, len(graph.shape(node.output[0])) - 1 if len(b_shape) > 1 else None, weights)


def _without_leading_ones(sizes: list[int]) -> list[int]:
    return sizes[next((i for i, size in enumerate(sizes) if size != 1), len(sizes)) :]


TUNABLE = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul}


def is_per_channel(graph: Graph, name: str, shape: Shape, axis: int | None) -> bool:
    """Whether tensor `name` is constant and, broadcast to `shape`, varies along `axis` at most."""
    if name not in graph.constants or name not in graph.shapes or len(graph.shapes[name]) > len(shape):
        return False
    given = (1,) * (len(shape) - len(graph.shapes[name])) + graph.shapes[name]
    return all(size == 1 or (i == axis and size == shape[i]) for i, size in enumerate(given))
