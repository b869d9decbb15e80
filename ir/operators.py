"""Operators by name: what each takes, and the tensor program that it stands for. An operator text names one, with its parameters:

`conv2d:n=1,c=64,h=56,w=56,k=64,r=3,s=3,stride=1,pad=1,groups=1,dilation=1,layout=nhwc,epilogue=bias+relu`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ir.attention import LAYOUTS as HEAD_LAYOUTS
from ir.attention import attention
from ir.contraction import batch_matmul, einsum, matmul, parse_axis_sizes, parse_equation, write_axis_sizes, write_equation
from ir.convolution import KERNEL, LAYOUTS, SPATIAL, capsule_conv2d, conv1d, conv2d, conv3d, conv_transpose2d
from ir.elementwise import elementwise, parse_shapes, parse_types, parse_value, write_shapes, write_types, write_value
from ir.epilogue import EPILOGUE
from ir.errors import UserError
from ir.movement import PAD_MODES, any_real, concat, cut, image_layout, pack, pad, transpose, write_any_real
from ir.normalization import IMAGE_LAYOUTS, batch_norm, instance_norm, layer_norm, log_softmax, rms_norm, softmax
from ir.parameters import MAX_EXTENT, Parameter, any_sizes, index, one_of, positive_real, quoted, size, sizes, write_every_size, write_real, write_sizes
from ir.pooling import average_pool2d, global_average_pool, global_max_pool, max_pool2d
from ir.program import FLOAT, Program
from ir.prologue import PROLOGUE
from ir.reduction import FUNCTIONS, reduce

MAX_TENSOR_BYTES = 1 << 32


@dataclass(frozen=True)
class Operator:
    """An operator by name: its parameters in canonical order and the function that makes its tensor program."""

    name: str
    parameters: Mapping[str, Parameter]
    build: Callable[..., Program]


def _named_sizes(*names: str) -> dict[str, Parameter]:
    """A batch of one is what is mostly meant."""
    return {name: Parameter(size, "1" if name == "n" else None) for name in names}


def _attention_scale(text: str) -> float | None:
    return None if text == "default" else positive_real(text)


def _convolution(rank: int) -> dict[str, Parameter]:
    return {
        **_named_sizes("n", "c", *SPATIAL[rank], "k", *KERNEL[rank]),
        "stride": Parameter(sizes((1, rank), 1), "1", write_sizes),
        "pad": Parameter(sizes((1, rank, 2 * rank), 0), "0", write_sizes),
        "groups": Parameter(size, "1"),
        "dilation": Parameter(sizes((1, rank), 1), "1", write_sizes),
        "layout": Parameter(one_of(*LAYOUTS[rank]), LAYOUTS[rank][0]),
        "prologue": PROLOGUE,
        "epilogue": EPILOGUE,
    }


_MATRICES = {name: Parameter(size) for name in "mnk"}
_B = one_of("constant", "variable")
_PLANE = _convolution(2)
_SHAPE = Parameter(any_sizes(1, most=8), write=write_every_size)
_AXES = Parameter(any_sizes(0, most=8), write=write_every_size)
_POSITIONS = Parameter(any_sizes(-MAX_EXTENT, most=8), write=write_every_size)
_SHAPES = Parameter(parse_shapes, write=write_shapes)
_EPSILON = Parameter(positive_real, "1e-5", write_real)
_IMAGES = _named_sizes("n", "c", "h", "w")
_IMAGE_LAYOUT = Parameter(one_of(*IMAGE_LAYOUTS), IMAGE_LAYOUTS[0])
_WINDOWS = {**_named_sizes("n", "c", "h", "w", "r", "s"), "stride": _PLANE["stride"], "pad": _PLANE["pad"]}

OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("matmul", {**_MATRICES, "b": Parameter(_B, "constant"), "prologue": PROLOGUE, "epilogue": EPILOGUE}, matmul),
        Operator(
            "batch_matmul", {"batch": Parameter(size), **_MATRICES, "b": Parameter(_B, "variable"), "prologue": PROLOGUE, "epilogue": EPILOGUE}, batch_matmul
        ),
        Operator(
            "einsum",
            {
                "equation": Parameter(parse_equation, write=write_equation),
                "sizes": Parameter(parse_axis_sizes, write=write_axis_sizes),
                "b": Parameter(_B, "variable"),
                "prologue": PROLOGUE,
                "epilogue": EPILOGUE,
            },
            einsum,
        ),
        Operator("conv1d", _convolution(1), conv1d),
        Operator("conv2d", _convolution(2), conv2d),
        Operator("conv3d", _convolution(3), conv3d),
        Operator(
            "conv_transpose2d",
            {
                **_named_sizes("n", "c", "h", "w", "k", "r", "s"),
                "stride": _PLANE["stride"],
                "pad": _PLANE["pad"],
                "output_pad": Parameter(sizes((1, 2), 0), "0", write_sizes),
                **{name: _PLANE[name] for name in ("groups", "dilation", "layout", "prologue", "epilogue")},
            },
            conv_transpose2d,
        ),
        Operator(
            "capsule_conv2d",
            {
                **_named_sizes("n", "c", "h", "w", "k", "r", "s"),
                "stride": _PLANE["stride"],
                "pad": _PLANE["pad"],
                "capsule": Parameter(size, "4"),
                "prologue": PROLOGUE,
                "epilogue": EPILOGUE,
            },
            capsule_conv2d,
        ),
        Operator(
            "reduce",
            {
                "function": Parameter(one_of(*FUNCTIONS)),
                "shape": _SHAPE,
                "axes": _AXES,
            },
            reduce,
        ),
        Operator("softmax", {"shape": _SHAPE, "axis": Parameter(index)}, softmax),
        Operator("log_softmax", {"shape": _SHAPE, "axis": Parameter(index)}, log_softmax),
        Operator("layer_norm", {"shape": _SHAPE, "axes": _AXES, "epsilon": _EPSILON}, layer_norm),
        Operator("rms_norm", {"shape": _SHAPE, "axes": _AXES, "epsilon": _EPSILON}, rms_norm),
        Operator("batch_norm", {**_IMAGES, "layout": _IMAGE_LAYOUT, "epsilon": _EPSILON}, batch_norm),
        Operator("instance_norm", {**_IMAGES, "layout": _IMAGE_LAYOUT, "epsilon": _EPSILON}, instance_norm),
        Operator("max_pool2d", {**_WINDOWS, "dilation": _PLANE["dilation"], "layout": _IMAGE_LAYOUT}, max_pool2d),
        Operator("average_pool2d", {**_WINDOWS, "layout": _IMAGE_LAYOUT, "count_include_pad": Parameter(one_of("0", "1"), "0")}, average_pool2d),
        Operator("global_average_pool", {**_IMAGES, "layout": _IMAGE_LAYOUT}, global_average_pool),
        Operator("global_max_pool", {**_IMAGES, "layout": _IMAGE_LAYOUT}, global_max_pool),
        Operator(
            "attention",
            {
                "batch": Parameter(size, "1"),
                **{name: Parameter(size) for name in ("heads", "queries", "keys", "dim")},
                "scale": Parameter(_attention_scale, "default", lambda scale: "default" if scale is None else write_real(scale)),
                "layout": Parameter(one_of(*HEAD_LAYOUTS), HEAD_LAYOUTS[0]),
            },
            attention,
        ),
        Operator(
            "elementwise",
            {
                "shapes": _SHAPES,
                "types": Parameter(parse_types, FLOAT, write_types, silent=True),
                "value": Parameter(parse_value, write=write_value),
            },
            elementwise,
        ),
        Operator("transpose", {"shape": _SHAPE, "axes": _AXES}, transpose),
        Operator(
            "pad",
            {
                "shape": _SHAPE,
                "before": _AXES,
                "after": _AXES,
                "mode": Parameter(one_of(*PAD_MODES), "constant"),
                "value": Parameter(any_real, "0", write_any_real),
            },
            pad,
        ),
        Operator("slice", {"shape": _SHAPE, "starts": _POSITIONS, "stops": _POSITIONS, "steps": _POSITIONS}, cut),
        Operator("concat", {"shapes": _SHAPES, "axis": Parameter(index)}, concat),
        Operator(
            "pack",
            {"shape": _SHAPE, "from": Parameter(image_layout), "to": Parameter(image_layout)},
            lambda **given: pack(given["shape"], given["from"], given["to"]),
        ),
    )
}


def parse_operator(text: str) -> tuple[str, Program]:
    """Canonical operator text and tensor program of an operator text; `UserError` names what is wrong in one line."""
    name, _, rest = text.strip().partition(":")
    operator = OPERATORS.get(name)
    if operator is None:
        raise UserError(f"unknown operator {quoted(name)} in {quoted(text)} (known: {', '.join(OPERATORS)})")
    given: dict[str, str] = {}
    for part in rest.split(",") if rest else []:
        key, equals, value = part.partition("=")
        if key not in operator.parameters:
            raise UserError(f"{name}: unknown parameter {quoted(part)} in {quoted(text)} (known: {', '.join(operator.parameters)})")
        if not equals:
            raise UserError(f"{name}: {key} has no value in {quoted(text)}")
        if key in given:
            raise UserError(f"{name}: {key} is given twice in {quoted(text)}")
        given[key] = value
    values: dict[str, object] = {}
    for key, parameter in operator.parameters.items():
        written = given.get(key, parameter.default)
        if written is None:
            raise UserError(f"{name}: {key} is missing in {quoted(text)}")
        try:
            values[key] = parameter.parse(written)
        except ValueError as error:
            raise UserError(f"{name}: {key}={quoted(written)} {error}") from None
    program = operator.build(**values)
    tensors = (*program.inputs, *(stage.output for stage in program.stages))
    huge = next((tensor for tensor in tensors if tensor.n_bytes > MAX_TENSOR_BYTES), None)
    if huge is not None:
        gigabytes = f"{huge.n_bytes / 2**30:.1f} GiB, more than the {MAX_TENSOR_BYTES >> 30} GiB a tensor may take"
        raise UserError(f"{name}: tensor {huge.name} of shape {huge.shape} would take {gigabytes}")
    canonical = {key: parameter.write(values[key]) for key, parameter in operator.parameters.items()}
    told = (key for key, parameter in operator.parameters.items() if not parameter.silent or canonical[key] != parameter.default)
    return f"{name}:{','.join(f'{key}={canonical[key]}' for key in told)}", program
