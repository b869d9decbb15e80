"""Random operator texts of small programs, and inputs for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from ir.convolution import KERNEL, LAYOUTS, SPATIAL
from ir.program import ELEMENT_BYTES, FUNCTIONS, Program, Tensor
from ir.reduction import FUNCTIONS as REDUCTIONS
from ir.types import integer_range
from schedule.target import Target

EPILOGUES = ["none", "bias", "relu", "bias+relu", "add", "clip-1:0.5", "bias+add+sigmoid", "sigmoid", "clip0:6+add"]
EPILOGUES += ["bias+gelu", "silu", "tanh+add", "bias+hardswish", "leaky0.1"]
PROLOGUES = ["relu", "scale+bias+relu", "bias", "gelu", "scale", "silu+bias", "leaky0.1+scale", "clip0.25:0.5", "sigmoid"]
BOOL_FUNCTIONS = ("max", "min", "less", "equal", "select")
INTEGER_FUNCTIONS = ("add", "sub", "mul", "abs", *BOOL_FUNCTIONS)
MACHINES = [(4, 16), (4, 32), (8, 16), (16, 32)]


@st.composite
def matmul_parameters(draw: st.DrawFn, most: int = 40) -> dict[str, str]:
    size = st.one_of(st.sampled_from([1, 2, 3, 16, 17]), st.integers(1, most))
    return {
        **{name: str(draw(size)) for name in "mnk"},
        "b": draw(st.sampled_from(["constant", "variable"])),
        "epilogue": draw(st.sampled_from(EPILOGUES)),
    }


@st.composite
def conv2d_parameters(draw: st.DrawFn, most: int = 12) -> dict[str, str]:
    """Every one of them fits; with groups, depthwise too."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 16, 17, 32]))
    channels = st.sampled_from([1, 1, 2, 3]) if groups > 1 else st.sampled_from([1, 2, 3, 16, 20, 32])
    layout = draw(st.sampled_from(["nhwc", "nchw", "nchwc"]))
    c, k = draw(channels), draw(channels)
    if layout == "nchwc" and groups > 1:
        c = k = draw(st.sampled_from([1, 16])) if groups < 4 else 1  # groupings that blocks of channels allow
    r, s = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dilation = draw(st.sampled_from([(1, 1), (2, 2), (1, 3)]))
    pad = draw(st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (3, 0, 3, 0), (1, 2, 0, 1)]))
    h = draw(st.integers(max(1, dilation[0] * (r - 1) + 1 - pad[0] - pad[2]), most + 12))
    w = draw(st.integers(max(1, dilation[1] * (s - 1) + 1 - pad[1] - pad[3]), most + 12))
    return {
        "n": str(draw(st.integers(1, 2))), "c": str(c * groups), "h": str(h), "w": str(w), "k": str(k * groups), "r": str(r), "s": str(s),
        "stride": draw(st.sampled_from(["1", "2", "1x2", "5"])), "pad": "x".join(map(str, pad)), "groups": str(groups),
        "dilation": "x".join(map(str, dilation)), "layout": layout, "epilogue": draw(st.sampled_from(EPILOGUES)),
    }  # fmt: skip


def written(name: str, parameters: dict[str, str]) -> str:
    return f"{name}:" + ",".join(f"{key}={value}" for key, value in parameters.items())


@st.composite
def window_texts(draw: st.DrawFn, most: int = 14) -> str:
    """Windows that Winograd's algorithm takes: of two, three and five taps in one to three dimensions, dilated, in groups, transposed."""
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    transposed = rank == 2 and draw(st.integers(0, 3)) == 0
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = [draw(st.sampled_from([2, 3, 3, 3, 4] if transposed else [2, 3, 3, 3, 5])) for _ in range(rank)]
    stride = [draw(st.integers(1, 2)) if transposed else 1 for _ in range(rank)]
    dilation = [1 if transposed else draw(st.sampled_from([1, 1, 1, 2, 3])) for _ in range(rank)]
    pad = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
    reach = [by * (size - 1) + 1 - before - after for by, size, before, after in zip(dilation, kernel, pad[:rank], pad[rank:], strict=True)]
    outside = [1 + before + after for before, after in zip(pad[:rank], pad[rank:], strict=True)]  # a transposed window of so many has an output
    least = outside if transposed else [max(1, needed) for needed in reach]
    sizes = [draw(st.integers(low, max(low, most if rank < 3 else most // 3))) for low in least]
    c, k = (groups * draw(st.sampled_from([4, 16, 20, 32])) for _ in "ck")
    name = "conv_transpose2d" if transposed else f"conv{rank}d"
    layout = draw(st.sampled_from(LAYOUTS[rank][: 2 if transposed or groups > 1 else 3]))
    given = {"n": draw(st.integers(1, 3)), "c": c, **dict(zip(SPATIAL[rank], sizes, strict=True)), "k": k, **dict(zip(KERNEL[rank], kernel, strict=True))}
    options = {"stride": _by(stride), "dilation": _by(dilation), "pad": _by(pad), "groups": groups, "layout": layout}
    return written(name, {key: str(value) for key, value in (given | options).items()} | {"epilogue": draw(st.sampled_from(EPILOGUES))})


@st.composite
def convolution_texts(draw: st.DrawFn, rank: int, most: int = 8) -> str:
    """Over one or three dimensions."""
    groups = draw(st.sampled_from([1, 1, 2, 16]))
    c, k = (groups * draw(st.sampled_from([1, 2, 3, 16, 20])) for _ in "ck")
    kernel, dilation, stride = ([draw(st.integers(1, 3)) for _ in range(rank)] for _ in range(3))
    pad = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
    reach = [by * (size - 1) + 1 - before - after for by, size, before, after in zip(dilation, kernel, pad[:rank], pad[rank:], strict=True)]
    sizes = [draw(st.integers(max(1, least), max(1, least) + most)) for least in reach]
    given = {"n": draw(st.integers(1, 2)), "c": c, **dict(zip(SPATIAL[rank], sizes, strict=True)), "k": k, **dict(zip(KERNEL[rank], kernel, strict=True))}
    layout = draw(st.sampled_from(LAYOUTS[rank][:2] if groups > 1 else LAYOUTS[rank]))
    options = {"stride": _by(stride), "pad": _by(pad), "groups": groups, "dilation": _by(dilation), "layout": layout}
    return written(f"conv{rank}d", {name: str(value) for name, value in (given | options).items()} | {"epilogue": draw(st.sampled_from(EPILOGUES))})


@st.composite
def transposed_texts(draw: st.DrawFn) -> str:
    groups = draw(st.sampled_from([1, 1, 2, 16]))
    kernel, stride = ([draw(st.integers(1, 5)) for _ in "hw"] for _ in range(2))
    stride = [(by + 1) // 2 for by in stride]
    dilation = [draw(st.integers(1, 2)) if by == 1 else 1 for by in stride]
    pad = [draw(st.integers(0, 2)) for _ in range(4)]
    output_pad = [draw(st.integers(0, by - 1)) for by in stride]
    # With one pixel the output has so many elements.
    least = [by * (size - 1) + 1 - before - after for by, size, before, after in zip(dilation, kernel, pad[:2], pad[2:], strict=True)]
    sizes = [draw(st.integers(max(1, 2 - few), max(1, 2 - few) + 4)) for few in least]
    given = {
        **{"n": draw(st.integers(1, 2)), "c": groups * draw(st.sampled_from([1, 3, 16])), "k": groups * draw(st.sampled_from([1, 3, 20]))},
        **dict(zip("hwrs", (*sizes, *kernel), strict=True)), "stride": _by(stride), "pad": _by(pad), "output_pad": _by(output_pad),
        "dilation": _by(dilation), "groups": groups, "layout": draw(st.sampled_from(["nhwc", "nchw"])), "epilogue": draw(st.sampled_from(EPILOGUES)),
    }  # fmt: skip
    return written("conv_transpose2d", {name: str(value) for name, value in given.items()})


@st.composite
def capsule_texts(draw: st.DrawFn) -> str:
    given = {name: draw(st.integers(1, most)) for name, most in (("n", 2), ("c", 5), ("h", 6), ("w", 6), ("k", 20), ("r", 3), ("s", 3))}
    more = {"stride": draw(st.integers(1, 2)), "pad": draw(st.integers(1, 2)), "capsule": draw(st.integers(1, 4))}
    return written("capsule_conv2d", {name: str(value) for name, value in (given | more).items()} | {"epilogue": draw(st.sampled_from(EPILOGUES))})


@st.composite
def einsum_texts(draw: st.DrawFn, most: int = 20) -> str:
    """Up to two axes of each kind: of both operands, of one alone, and summed over; in any order."""
    kinds = {"both": draw(st.integers(0, 2)), "first": draw(st.integers(0, 2)), "second": draw(st.integers(1, 2)), "sum": draw(st.integers(1, 2))}
    letters = iter(draw(st.permutations("abcdefgh")))
    of = {kind: [next(letters) for _ in range(n)] for kind, n in kinds.items()}
    parts = [of["both"] + of["first"] + of["sum"], of["both"] + of["second"] + of["sum"], of["both"] + of["first"] + of["second"]]
    equation = ".".join("".join(draw(st.permutations(part))) for part in parts)
    used = sorted(letter for some in of.values() for letter in some)
    sizes = ".".join(f"{letter}{draw(st.integers(1, most // 2 if len(used) > 4 else most))}" for letter in used)
    b, epilogue = draw(st.sampled_from(["constant", "variable"])), draw(st.sampled_from(EPILOGUES))
    return written("einsum", {"equation": equation, "sizes": sizes, "b": b, "epilogue": epilogue})


@st.composite
def reduce_texts(draw: st.DrawFn, most: int = 40) -> str:
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 16, 17, most]), min_size=1, max_size=4))
    axes = draw(st.permutations(range(len(shape))))[: draw(st.integers(1, len(shape)))]
    return written("reduce", {"function": draw(st.sampled_from(REDUCTIONS)), "shape": _by(shape), "axes": _by(axes)})


@st.composite
def row_texts(draw: st.DrawFn, most: int = 40) -> str:
    """Softmax, normalizations, attention."""
    size = st.one_of(st.sampled_from([1, 2, 3, 16, 17]), st.integers(1, most))
    name = draw(st.sampled_from(["softmax", "log_softmax", "layer_norm", "rms_norm", "batch_norm", "instance_norm", "attention"]))
    shape = draw(st.lists(size, min_size=1, max_size=3))
    epsilon = draw(st.sampled_from(["1e-5", "0.001"]))
    if name in ("softmax", "log_softmax"):
        return written(name, {"shape": _by(shape), "axis": str(draw(st.integers(0, len(shape) - 1)))})
    if name in ("layer_norm", "rms_norm"):
        return written(name, {"shape": _by(shape), "axes": _by(range(draw(st.integers(0, len(shape) - 1)), len(shape))), "epsilon": epsilon})
    if name != "attention":
        return written(name, image_parameters(draw, most) | {"epsilon": epsilon})
    given = {"batch": draw(st.integers(1, 3)), "heads": draw(st.integers(1, 5)), **{each: draw(size) for each in ("queries", "keys", "dim")}}
    more = {"scale": draw(st.sampled_from(["default", "0.5"])), "layout": draw(st.sampled_from(["bhid", "bihd"]))}
    return written(name, {each: str(value) for each, value in given.items()} | more)


@st.composite
def pool_texts(draw: st.DrawFn, most: int = 20) -> str:
    """Every window has an element of the image."""
    name = draw(st.sampled_from(["max_pool2d", "average_pool2d", "global_average_pool", "global_max_pool"]))
    given = image_parameters(draw, most)
    if name.startswith("global"):
        return written(name, given)
    kernel, dilation = ([draw(st.integers(1, 3)) for _ in "hw"] for _ in range(2))
    dilation = dilation if name == "max_pool2d" else [1, 1]
    reach = [by * (taps - 1) + 1 for taps, by in zip(kernel, dilation, strict=True)]
    pad = [draw(st.integers(0, taps // 2)) for taps in kernel * 2]
    sizes = {each: str(max(int(given[each]), least)) for each, least in zip("hw", reach, strict=True)}
    stride = [draw(st.integers(1, 3)) for _ in "hw"]
    window = given | sizes | dict(zip("rs", map(str, kernel), strict=True)) | {"stride": _by(stride), "pad": _by(pad)}
    return written(name, window | ({"dilation": _by(dilation)} if name == "max_pool2d" else {"count_include_pad": draw(st.sampled_from("01"))}))


def image_parameters(draw: st.DrawFn, most: int) -> dict[str, str]:
    """(n, c, h, w) and layout of images."""
    sizes = {"n": draw(st.integers(1, 2)), "c": draw(st.sampled_from([1, 3, 16, 20])), "h": draw(st.integers(1, most)), "w": draw(st.integers(1, most))}
    return {name: str(size) for name, size in sizes.items()} | {"layout": draw(st.sampled_from(["nhwc", "nchw"]))}


@st.composite
def elementwise_texts(draw: st.DrawFn, most: int = 40) -> str:
    """Values are finite: what is not defined everywhere, or grows too fast, has its arguments cut."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 16, 17, most]), min_size=1, max_size=4))
    n_inputs = draw(st.integers(1, 3))
    names = "abc"[:n_inputs]
    shapes = [shape]
    for _ in names[1:]:
        kept = shape[draw(st.integers(0, len(shape) - 1)) :]
        shapes.append([size if draw(st.booleans()) else 1 for size in kept])
    leaves = st.one_of(st.sampled_from(names), st.sampled_from(names), st.sampled_from(["0", "1", "2", "-0.5", "1.5"]))
    value = draw(st.recursive(leaves, _calls, max_leaves=6))
    for name in names:  # all are used
        value = f"{draw(st.sampled_from(['add', 'mul', 'max']))}({name};{value})"
    return written("elementwise", {"shapes": ".".join(map(_by, draw(st.permutations(shapes)))), "value": value})


@st.composite
def typed_texts(draw: st.DrawFn, most: int = 40) -> str:
    """Chains with inputs and an output of any type. What is a float in between is finite."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 16, 17, most]), min_size=1, max_size=3))
    types = draw(st.lists(st.sampled_from(list(ELEMENT_BYTES)), min_size=1, max_size=3))
    shapes = [[size if draw(st.integers(0, 3)) else 1 for size in shape] for _ in types[1:]]
    leaves = list(zip("abc", types, strict=False))
    value, dtype = draw(st.sampled_from(leaves))
    for name, own in draw(st.permutations(leaves)):  # all are used
        value, dtype = draw(_changed(value, dtype, leaves))
        other = draw(_changed(name, own, leaves))
        value = f"{draw(st.sampled_from(['max', 'min', 'equal', 'less']))}({_cast(*other, dtype)};{value})"
    value, dtype = draw(_changed(value, dtype, leaves))
    return written("elementwise", {"shapes": ".".join(map(_by, [shape, *shapes])), "types": ".".join(types), "value": value})


def _cast(value: str, dtype: str, wanted: str) -> str:
    return value if dtype == wanted else f"cast_{wanted}({value})"


@st.composite
def _changed(draw: st.DrawFn, value: str, dtype: str, leaves: list[tuple[str, str]]) -> tuple[str, str]:
    """A value with its type after up to three functions, the last of them often a cast."""
    for _ in range(draw(st.integers(0, 2))):
        other, more = (_cast(*draw(st.sampled_from(leaves)), dtype) for _ in range(2))
        numbers = {"float32": ["0", "1.5"], "bool": ["0", "1"], "uint8": ["0", "200"], "int64": ["-1", "9007199254740993"]}.get(dtype, ["-1", "100"])
        args = [value, draw(st.sampled_from([other, *numbers])), more]
        if dtype == "float32":
            value = f"{draw(st.sampled_from(['add', 'max']))}({value};{draw(_calls(st.sampled_from(args[1:])))})"
        else:
            known = {name: n for name, n in FUNCTIONS.items() if name in INTEGER_FUNCTIONS and (dtype != "bool" or name in BOOL_FUNCTIONS)}
            name = draw(st.sampled_from(list(known)))
            if name == "select":
                args = [draw(st.sampled_from([name for name, _ in leaves])), *args]
            value = f"{name}({';'.join(args[: known[name]])})"
    wanted = draw(st.sampled_from([dtype, *ELEMENT_BYTES]))
    return _cast(value, dtype, wanted), wanted


def _calls(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    cut = values.map(lambda x: f"max(min({x};3);-3)")
    positive = values.map(lambda x: f"add(min(abs({x});9);0.5)")
    two = st.tuples(values, values)
    return st.one_of(
        st.builds("{}({};{})".format, st.sampled_from(["add", "sub", "max", "min", "less", "equal"]), values, values),
        st.builds("{}({})".format, st.sampled_from(["tanh", "erf", "sigmoid", "abs"]), values),
        st.builds("mul({};{})".format, cut, values),
        st.builds("div({};{})".format, values, positive),
        st.builds("select({};{};{})".format, values, values, values),
        st.builds("exp({})".format, cut),
        st.builds("{}({})".format, st.sampled_from(["log", "sqrt"]), positive),
        st.builds("pow({};{})".format, positive, cut),
        st.builds("pow({};{})".format, cut, st.sampled_from("0123")),
        two.map(lambda pair: f"add(mul({pair[0]};0.5);{pair[1]})"),  # what becomes a fused multiply-add
    )


@st.composite
def movement_texts(draw: st.DrawFn, most: int = 40) -> str:
    """Data that are only moved."""
    name = draw(st.sampled_from(["transpose", "pad", "slice", "concat", "pack"]))
    if name == "pack":
        layouts = draw(st.permutations([draw(st.sampled_from(["nchw4c", "nchw16c", "nchw3c", "nhwc"])), draw(st.sampled_from(["nchw", "nhwc"]))]))
        layouts = ["nhwc", "nchw"] if layouts[0] == layouts[1] else layouts
        n, c, h, w = draw(st.integers(1, 2)), draw(st.sampled_from([1, 3, 16, 20])), draw(st.integers(1, most // 2)), draw(st.integers(1, most // 2))
        return written(name, {"shape": _by((n, h, w, c) if layouts[0] == "nhwc" else (n, c, h, w)), "from": layouts[0], "to": layouts[1]})
    shape = draw(st.lists(st.one_of(st.sampled_from([1, 2, 3, 16, 17]), st.integers(1, most)), min_size=1, max_size=4))
    places = range(len(shape))
    if name == "transpose":
        return written(name, {"shape": _by(shape), "axes": _by(draw(st.permutations(places)))})
    if name == "concat":
        axis = draw(st.sampled_from(places))
        sizes = [shape[axis], *draw(st.lists(st.sampled_from([1, 2, 16, 19]), min_size=1, max_size=3))]
        return written(name, {"shapes": ".".join(_by((*shape[:axis], size, *shape[axis + 1 :])) for size in sizes), "axis": str(axis)})
    if name == "pad":
        mode = draw(st.sampled_from(["constant", "reflect", "edge"]))
        before, after = ([draw(st.integers(0, min(7, size - 1 if mode == "reflect" else 7))) for size in shape] for _ in range(2))
        value = draw(st.sampled_from(["0", "-inf", "nan", "-0", "1.5e-7"])) if mode == "constant" else "0"
        return written(name, {"shape": _by(shape), "before": _by(before), "after": _by(after), "mode": mode, "value": value})
    steps = [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in shape]
    starts = [draw(st.integers(-size, size - 1)) for size in shape]
    firsts = [start % size for start, size in zip(starts, shape, strict=True)]
    # Beyond the first by one element at least; what lies before element 0 is written as -size - 1.
    few = [draw(st.integers(1, size)) for size in shape]
    stops = [first + n if step > 0 else first - n if first >= n else -size - 1 for first, n, step, size in zip(firsts, few, steps, shape, strict=True)]
    return written(name, {"shape": _by(shape), "starts": _by(starts), "stops": _by(stops), "steps": _by(steps)})


def _by(numbers: Iterable[int]) -> str:
    return "x".join(map(str, numbers))


def product_texts(most: int = 40) -> st.SearchStrategy[str]:
    """Operators that sum products, each with an epilogue and some with a prologue."""
    matmul = matmul_parameters(most)
    batched = st.tuples(st.integers(1, 4), matmul).map(lambda given: {"batch": str(given[0]), **given[1]})
    texts = st.one_of(
        matmul.map(lambda given: written("matmul", given)),
        batched.map(lambda given: written("batch_matmul", given)),
        conv2d_parameters().map(lambda given: written("conv2d", given)),
        conv2d_parameters().map(lambda given: written("conv2d", given)),
        window_texts(),
        convolution_texts(1),
        convolution_texts(3, most=3),
        transposed_texts(),
        capsule_texts(),
        einsum_texts(),
    )
    prologues = st.one_of(st.just(""), st.just(""), st.sampled_from(PROLOGUES).map(",prologue={}".format))
    return st.builds("{}{}".format, texts, prologues)


def operator_texts(most: int = 40) -> st.SearchStrategy[str]:
    rest = (reduce_texts(most), row_texts(most), pool_texts(), elementwise_texts(most), typed_texts(most), movement_texts(most))
    return st.one_of(product_texts(most), product_texts(most), *rest)


@st.composite
def targets(draw: st.DrawFn) -> Target:
    return target(*draw(st.sampled_from(MACHINES)), threads=draw(st.sampled_from([1, 2, 7, 64])))


def target(lanes: int = 16, vector_registers: int = 32, threads: int = 2) -> Target:
    return Target("generic", "", lanes, vector_registers, 1 << 15, 1 << 20, 1 << 25, threads)


def random_inputs(program: Program, seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    drawn = {tensor: _drawn(tensor, rng) for tensor in program.inputs}
    return {tensor.name: np.abs(array) if tensor.positive else array for tensor, array in drawn.items()}


def _drawn(tensor: Tensor, rng: np.random.Generator) -> NDArray[Any]:
    """Of integers half anywhere in their range, half near 0."""
    if tensor.dtype == "float32":
        return rng.standard_normal(tensor.shape, dtype=np.float32)
    low, high = integer_range(tensor.dtype)
    anywhere, near = (rng.integers(max(low, -most), min(high, most), tensor.shape, tensor.dtype, endpoint=True) for most in (1 << 63, 100))
    return np.where(rng.random(tensor.shape) < 0.5, anywhere, near)


def extremes(dtype: str) -> NDArray[Any]:
    """Numbers of a type at which casts from it to another one may go wrong."""
    if dtype == "float32":
        ends = [float(end) for name in ELEMENT_BYTES if name != dtype for end in integer_range(name)]
        near = [np.nextafter(np.float32(end), np.float32(by)) for end in ends for by in (-np.inf, np.inf)]
        return np.array([*ends, *near, 0.5, -0.5, -0.0, 1.5, -1.5, 127.5, -128.5, 255.5, 1e30, -1e30, 1e-45, np.inf, -np.inf, np.nan], np.float32)
    low, high = integer_range(dtype)
    ends = {end + by for name in ELEMENT_BYTES if name != "float32" for end in integer_range(name) for by in (-1, 0, 1)}
    halfway = {sign * (number + by) for number in (1 << 24, 1 << 53, (1 << 62) + (1 << 38)) for by in (1, 3) for sign in (-1, 1)}  # between two floats
    return np.array(sorted(number for number in ends | halfway if low <= number <= high), dtype)
