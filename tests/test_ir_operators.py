import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_samples import conv2d_parameters, matmul_parameters, operator_texts, pool_texts, row_texts, typed_texts, written

from ir.convolution import channel_block
from ir.errors import UserError
from ir.operators import OPERATORS, parse_operator
from ir.parameters import MAX_EXTENT
from ir.program import Tensor, program_text
from ir.task import task

settled = settings(deadline=None, max_examples=100)
CONV = "conv2d:c=4,h=9,w=9,k=8,r=3,s=3"
DECONV = "conv_transpose2d:c=4,h=9,w=9,k=8,r=3,s=3"
STEPS = "bias, add, relu, sigmoid, tanh, gelu, silu, hardswish, leaky<slope>, clip<low>:<high>"
KNOWN = (
    "matmul, batch_matmul, einsum, conv1d, conv2d, conv3d, conv_transpose2d, capsule_conv2d, reduce, "
    "softmax, log_softmax, layer_norm, rms_norm, batch_norm, instance_norm, "
    "max_pool2d, average_pool2d, global_average_pool, global_max_pool, attention, elementwise, transpose, pad, slice, concat, pack"
)


def shapes(text: str) -> dict[str, tuple[int, ...]]:
    program = parse_operator(text)[1]
    return {tensor.name: tensor.shape for tensor in (*program.inputs, program.output)}


@settled
@given(st.one_of(operator_texts(), row_texts(), pool_texts(), typed_texts()))
def test_a_key_is_its_own_key(text: str) -> None:
    key, program = parse_operator(text)
    assert parse_operator(key) == (key, program)


@settled
@given(st.data())
def test_the_order_of_parameters_is_free(data: st.DataObject) -> None:
    name, parameters = data.draw(
        st.one_of(st.tuples(st.just("matmul"), matmul_parameters()), st.tuples(st.just("conv2d"), conv2d_parameters())), label="operator"
    )
    shuffled = dict(data.draw(st.permutations(list(parameters.items())), label="order"))
    assert parse_operator(written(name, shuffled)) == parse_operator(written(name, parameters))


@pytest.mark.parametrize(
    "text",
    [
        "pad:shape=4,before=1,after=1,value=-3.4028234e38",
        "elementwise:shapes=4,value=min(a;3.4028234e38)",
        "matmul:m=2,n=2,k=2,epilogue=clip-340282346638528859811704183484516925440:340282346638528859811704183484516925440",
        "matmul:m=2,n=2,k=2,epilogue=leaky340282346638528859811704183484516925440",
        "layer_norm:shape=4x4,axes=1,epsilon=3.4028234e38",
    ],
)
def test_the_largest_number_is_written_so_that_it_can_be_read(text: str) -> None:
    key, program = parse_operator(text)
    assert parse_operator(key) == (key, program)


def test_flops_of_a_transposed_convolution_are_those_of_its_output() -> None:
    assert task("conv_transpose2d:c=4,h=7,w=7,k=8,r=4,s=4,stride=2,pad=1").flops == 2 * 14 * 14 * 8 * 4 * 4
    assert task("conv_transpose2d:c=4,h=7,w=7,k=8,r=4,s=4,stride=2,pad=1x1x2x2").flops == 2 * 13 * 13 * 8 * 4 * 4


@pytest.mark.parametrize(
    ("text", "other"),
    [
        (CONV, CONV + ",n=1,stride=1x1,pad=0x0x0x0,groups=1,dilation=1,layout=nhwc,epilogue=none"),
        (CONV + ",pad=1x2", CONV + ",pad=1x2x1x2"),
        (CONV + ",stride=2", CONV + ",stride=02x2"),
        ("matmul:m=1,n=2,k=3", " matmul:k=3,n=2,m=001,b=constant,epilogue=\n"),
        ("matmul:m=1,n=2,k=3,epilogue=clip0:6", "matmul:m=1,n=2,k=3,epilogue=clip-0.0:6.00"),
        ("layer_norm:shape=2x3,axes=1", "layer_norm:axes=1,shape=2x3,epsilon=0.00001"),
        ("layer_norm:shape=2x3,axes=1,epsilon=0.000009999999747378752", "layer_norm:shape=2x3,axes=1,epsilon=1e-05"),
        ("attention:heads=1,queries=2,keys=3,dim=4,scale=0.25", "attention:heads=1,queries=2,keys=3,dim=4,scale=2.5e-1,layout=bhid,batch=1"),
        ("matmul:m=1,n=2,k=3,epilogue=leaky0.01", "matmul:m=1,n=2,k=3,epilogue=leaky0.010"),
        ("matmul:m=1,n=2,k=3,epilogue=clip0.1:0.5", "matmul:m=1,n=2,k=3,epilogue=clip0.100000001:0.5"),
    ],
)
def test_the_same_task_has_the_same_key(text: str, other: str) -> None:
    assert parse_operator(text) == parse_operator(other)


def test_the_same_chain_has_the_same_key() -> None:
    assert parse_operator("elementwise:shapes=02x3.3,value=max(add(a;mul(b;2.0));-0)")[0] == "elementwise:shapes=2x3.3,value=max(add(a;mul(b;2));0)"
    assert parse_operator("elementwise:value=add(a;0.100000001),shapes=3")[0] == "elementwise:shapes=3,value=add(a;0.1)"
    assert parse_operator("elementwise:shapes=3.3,types=float32.float32,value=add(a;b)")[0] == "elementwise:shapes=3.3,value=add(a;b)"
    assert parse_operator("elementwise:value=add(a;02),types=int8,shapes=3")[0] == "elementwise:shapes=3,types=int8,value=add(a;2)"
    assert parse_operator("elementwise:shapes=3.3,types=int8.int8,value=add(a;b)") == parse_operator("elementwise:shapes=3.3,types=int8,value=add(a;b)")


@pytest.mark.parametrize(
    ("types", "value", "dtype"),
    [
        ("float32", "less(a;b)", "float32"),
        ("int8", "less(a;b)", "int8"),
        ("bool", "max(a;b)", "bool"),
        ("int32.float32", "cast_bool(add(cast_float32(a);b))", "bool"),
        ("bool.int64", "select(a;b;-1)", "int64"),
        ("int64.bool", "select(b;a;9223372036854775807)", "int64"),
        ("bool.bool", "select(a;select(b;1;2);3)", "float32"),
        ("uint8.float32", "cast_uint8(mul(b;cast_float32(add(a;add(1;2)))))", "uint8"),
    ],
)
def test_the_type_of_a_chain(types: str, value: str, dtype: str) -> None:
    program = parse_operator(f"elementwise:shapes=2x3.3,types={types},value={value}")[1]
    assert program.output.dtype == dtype
    assert program.n_bytes == sum(tensor.n_bytes for tensor in program.inputs) + 6 * np.dtype(dtype).itemsize
    assert [tensor.dtype for tensor in program.inputs] == (types.split(".") * 2)[:2]


def test_numbers_of_integers_lose_no_digit() -> None:
    text = "elementwise:shapes=2,types=int64,value=add(a;9007199254740993)"
    key, program = parse_operator(text)
    assert key == text
    assert program_text(program) == "y[d0] = (a[d0] + 9007199254740993)  for d0<2"


def test_keys_are_written_out_in_full() -> None:
    assert parse_operator("matmul:k=3,m=1,n=2")[0] == "matmul:m=1,n=2,k=3,b=constant,epilogue=none"
    assert parse_operator(CONV + ",stride=2,pad=1x0,epilogue=bias+clip0:6")[0] == (
        "conv2d:n=1,c=4,h=9,w=9,k=8,r=3,s=3,stride=2,pad=1x0x1x0,groups=1,dilation=1,layout=nhwc,epilogue=bias+clip0:6"
    )


def test_a_task_is_named_by_its_key_unless_told_otherwise() -> None:
    assert task("matmul:m=1,n=2,k=3").name == task("matmul:m=1,n=2,k=3").key
    assert task("matmul:m=5,n=2,k=3", count=4, name="classifier").name == "classifier"
    assert task("matmul:m=5,n=2,k=3", count=4).flops == 2 * 5 * 2 * 3


@settled
@given(conv2d_parameters())
def test_the_size_of_a_convolution(given_parameters: dict[str, str]) -> None:
    n, c, h, w, k, r, s = (int(given_parameters[name]) for name in "nchwkrs")
    layout, groups = given_parameters["layout"], int(given_parameters["groups"])
    pad = [int(number) for number in given_parameters["pad"].split("x")]
    down, across = (int(number) for number in (given_parameters["stride"].split("x") * 2)[:2])
    tall, broad = (int(number) for number in given_parameters["dilation"].split("x"))
    # A position of the window is one where all of it lies inside the padded image.
    high = sum(top + tall * (r - 1) < h + pad[0] + pad[2] for top in range(0, h + 16, down))
    wide = sum(left + broad * (s - 1) < w + pad[1] + pad[3] for left in range(0, w + 16, across))
    program = parse_operator(written("conv2d", given_parameters))[1]
    found = {tensor.name: tensor.shape for tensor in (*program.inputs, program.output)}
    blocks = channel_block(c), channel_block(k)
    assert found["weights"] == (k, c // groups, r, s)
    assert found["x"] == {"nhwc": (n, h, w, c), "nchw": (n, c, h, w), "nchwc": (n, c // blocks[0], h, w, blocks[0])}[layout]
    assert found["y"] == {"nhwc": (n, high, wide, k), "nchw": (n, k, high, wide), "nchwc": (n, k // blocks[1], high, wide, blocks[1])}[layout]
    assert program.flops == 2 * n * k * high * wide * (c // groups) * r * s
    assert all(not any(low < 0 or top >= size for (low, top), size in zip((i.range for i in stage.indices), stage.output.shape, strict=True))
               for stage in program.stages)  # fmt: skip


@pytest.mark.parametrize(("channels", "block"), [(1, 1), (3, 3), (7, 7), (16, 16), (17, 1), (24, 12), (34, 2), (96, 16)])
def test_channel_blocks_divide(channels: int, block: int) -> None:
    assert channel_block(channels) == block


def test_operands_of_matmul() -> None:
    assert shapes("matmul:m=3,n=5,k=7,epilogue=bias+add") == {"a": (3, 7), "b": (7, 5), "bias": (5,), "residual": (3, 5), "c": (3, 5)}
    assert shapes("batch_matmul:batch=2,m=3,n=5,k=7") == {"a": (2, 3, 7), "b": (2, 7, 5), "c": (2, 3, 5)}


@pytest.mark.parametrize(
    ("text", "constant"),
    [
        ("matmul:m=3,n=5,k=7", ["b"]),
        ("matmul:m=3,n=5,k=7,b=variable,epilogue=bias", ["bias"]),
        ("batch_matmul:batch=2,m=3,n=5,k=7", []),
        ("batch_matmul:batch=2,m=3,n=5,k=7,b=constant", ["b"]),
        (CONV + ",epilogue=bias+add", ["weights", "bias"]),
    ],
)
def test_what_is_constant(text: str, constant: list[str]) -> None:
    assert [tensor.name for tensor in parse_operator(text)[1].inputs if tensor.constant] == constant


def test_programs_are_readable() -> None:
    assert program_text(parse_operator("conv2d:c=4,h=9,w=9,k=8,r=3,s=3,pad=1,stride=2,epilogue=relu")[1]) == (
        "sum[n, oh, ow, k] = sum over c<4, r<3, s<3 of (x[n, oh*2 + r - 1, ow*2 + s - 1, c] * weights[k, c, r, s])  for n<1, oh<5, ow<5, k<8\n"
        "y[n, oh, ow, k] = max(sum[n, oh, ow, k], 0)  for n<1, oh<5, ow<5, k<8"
    )


def test_depthwise_channels_are_blocked_as_their_layout() -> None:
    text = program_text(parse_operator("conv2d:c=96,h=9,w=9,k=96,groups=96,r=3,s=3,layout=nchwc")[1])
    assert text.startswith("y[n, g, oh, ow, gb + k] = sum over c<1, r<3, s<3 of (x[n, g, oh + r, ow + s, gb + c] * weights[g*16 + gb + k, c, r, s])")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"unknown operator '' in '' (known: {KNOWN})"),
        ("maxout:m=3", "unknown operator 'maxout' in 'maxout:m=3'"),
        ("Matmul:m=1,n=1,k=1", "unknown operator 'Matmul'"),
        ("matmul", "matmul: m is missing in 'matmul'"),
        ("matmul:", "matmul: m is missing"),
        ("matmul:m=1,n=2", "matmul: k is missing in 'matmul:m=1,n=2'"),
        ("matmul:m=1,n=2,k=3,", "matmul: unknown parameter '' in"),
        ("matmul:m=1,n=2,k=3,q=4", "matmul: unknown parameter 'q=4' in 'matmul:m=1,n=2,k=3,q=4' (known: m, n, k, b, prologue, epilogue)"),
        ("matmul:m=1,n=2,k", "matmul: k has no value in 'matmul:m=1,n=2,k'"),
        ("matmul:m=1,n=2,k=3,m=1", "matmul: m is given twice"),
        ("matmul:m=,n=2,k=3", "matmul: m='' is no whole number"),
        ("matmul:m=1.5,n=2,k=3", "matmul: m='1.5' is no whole number"),
        ("matmul:m=1\n7,n=2,k=3", r"matmul: m='1\n7' is no whole number"),
        ("matmul:m=٣,n=2,k=3", "matmul: m='٣' is no whole number"),
        ("matmul:m=0,n=2,k=3", f"matmul: m='0' is not between 1 and {MAX_EXTENT}"),
        ("matmul:m=-2,n=2,k=3", f"matmul: m='-2' is not between 1 and {MAX_EXTENT}"),
        (f"matmul:m={10**30},n=2,k=3", f"matmul: m='{10**30}' is not between 1 and {MAX_EXTENT}"),
        (f"matmul:m={'9' * 9999},n=2,k=3", "9…' is not between 1 and"),
        (f"matmul:m={MAX_EXTENT},n={MAX_EXTENT},k=1", "matmul: tensor c of shape (16777216, 16777216) would take 1048576.0 GiB, more than the 4 GiB"),
        ("matmul:m=1,n=2,k=3,b=maybe", "matmul: b='maybe' is none of constant, variable"),
        ("matmul:m=1,n=2,k=3,epilogue=elu", f"matmul: epilogue='elu' has an unknown step 'elu' (known: {STEPS})"),
        ("matmul:m=1,n=2,k=3,epilogue=leaky", "has an unknown step 'leaky'"),
        (f"matmul:m=1,n=2,k=3,epilogue=leaky{'9' * 40}", "has a number beyond the range of fp32"),
        ("matmul:m=1,n=2,k=3,epilogue=relu+", "has an unknown step ''"),
        ("matmul:m=1,n=2,k=3,epilogue=bias+relu+bias", "has bias twice"),
        ("matmul:m=1,n=2,k=3,epilogue=clip6:0", "has a clip with low above high: 'clip6:0'"),
        (f"matmul:m=1,n=2,k=3,epilogue=clip0:{'9' * 40}", "has a number beyond the range of fp32"),
        (CONV + ",stride=0", f"conv2d: stride='0' is not between 1 and {MAX_EXTENT}"),
        (CONV + ",stride=1x2x3", "conv2d: stride='1x2x3' has 3 numbers, not 1 or 2"),
        (CONV + ",pad=-1", f"conv2d: pad='-1' is not between 0 and {MAX_EXTENT}"),
        (CONV + ",pad=1x", "conv2d: pad='1x' is no whole number"),
        (CONV + ",groups=3", "conv2d: groups=3 divides not both c=4 and k=8"),
        (CONV + ",dilation=5", "conv2d: a 3x3 kernel with dilation 5x5 does not fit into 9x9 padded by (0, 0, 0, 0)"),
        (CONV + ",layout=nwhc", "conv2d: layout='nwhc' is none of nhwc, nchw, nchwc"),
        ("conv1d:c=4,w=9,k=8,s=3,layout=nhwc", "conv1d: layout='nhwc' is none of nwc, ncw, ncwc"),
        ("conv3d:c=4,d=9,h=9,w=9,k=8,t=3,r=3,s=3,stride=1x2", "conv3d: stride='1x2' has 2 numbers, not 1 or 3"),
        (DECONV + ",stride=2,dilation=2", "conv_transpose2d: along h dilation 2 with stride 2 is not supported"),
        (DECONV + ",stride=2,output_pad=2", "conv_transpose2d: along h output_pad=2 is not below stride and dilation"),
        (DECONV + ",pad=9", "conv_transpose2d: along h the output would have -7 elements"),
        ("capsule_conv2d:c=4,h=1,w=1,k=4,r=3,s=3,stride=1,pad=0", "capsule_conv2d: a 3x3 kernel does not fit into 1x1 padded by (0, 0, 0, 0)"),
        ("einsum:equation=ik.kj,sizes=i2.j3.k4", "einsum: equation='ik.kj' is not two operands and a result with dots between them, such as bik.bkj.bij"),
        ("einsum:equation=ik.kj.iJ,sizes=i2.j3.k4", "has 'iJ', which is not made of the letters a to z"),
        ("einsum:equation=iik.kj.ij,sizes=i2.j3.k4", "has a letter twice in 'iik'"),
        ("einsum:equation=ij.ij.ij,sizes=i2.j3", "has nothing to sum over"),
        ("einsum:equation=ik.kj.iz,sizes=i2.j3.k4", "einsum: the result has z, which no operand has"),
        ("einsum:equation=ik.kj.ij,sizes=i2.j3", "einsum: sizes are given for i, j, the operands have i, j, k"),
        ("einsum:equation=ik.kj.ij,sizes=i2.j3.k0", f"einsum: sizes='i2.j3.k0' has 'k0', which is not between 1 and {MAX_EXTENT}"),
        ("einsum:equation=ik.kj.ij,sizes=i2.j3.3", "has '3', which is no letter with its size, or one given before"),
        ("reduce:function=median,shape=2x3,axes=1", "reduce: function='median' is none of sum, mean, max, min, prod, l2"),
        ("reduce:function=sum,shape=2x3,axes=2", "reduce: axes=2 are not different axes of a tensor of 2 dimensions"),
        ("reduce:function=sum,shape=2x3,axes=1x1", "reduce: axes=1x1 are not different axes of a tensor of 2 dimensions"),
        ("softmax:shape=2x3,axis=2", "softmax: there is no axis 2 in a tensor of 2 dimensions"),
        ("softmax:shape=2x3,axis=-1", f"softmax: axis='-1' is not between 0 and {MAX_EXTENT}"),
        ("layer_norm:shape=2x3x4,axes=1", "layer_norm: axes=1 are not the last ones of a tensor of 3 dimensions in their order"),
        ("rms_norm:shape=2x3x4,axes=2x1", "rms_norm: axes=2x1 are not the last ones of a tensor of 3 dimensions in their order"),
        ("rms_norm:shape=2x3x4,axes=2x3", "rms_norm: there is no axis 3 in a tensor of 3 dimensions"),
        ("layer_norm:shape=2x3,axes=1,epsilon=0", "layer_norm: epsilon='0' is 0, or beyond the normal numbers of fp32"),
        ("layer_norm:shape=2x3,axes=1,epsilon=1e40", "layer_norm: epsilon='1e40' is 0, or beyond the normal numbers of fp32"),
        ("layer_norm:shape=2x3,axes=1,epsilon=-1", "layer_norm: epsilon='-1' is no decimal number above 0, such as 1e-5"),
        ("batch_norm:c=3,h=4,w=5,layout=nchwc", "batch_norm: layout='nchwc' is none of nhwc, nchw"),
        ("max_pool2d:c=3,h=4,w=5,r=5,s=2", "max_pool2d: a window of 5 elements 1 apart does not fit into 4 padded by (0, 0, 0, 0)"),
        ("max_pool2d:c=3,h=4,w=5,r=2,s=2,pad=2", "max_pool2d: padding (2, 2, 2, 2) leaves windows without any element of the image"),
        ("average_pool2d:c=3,h=4,w=5,r=2,s=2,pad=0x0x0x2", "average_pool2d: padding (0, 0, 0, 2) leaves windows without any element of the image"),
        ("max_pool2d:c=3,h=1,w=5,r=2,s=2,dilation=2,pad=1", "max_pool2d: padding (1, 1, 1, 1) leaves windows without any element of the image"),
        ("average_pool2d:c=3,h=4,w=5,r=2,s=2,ceil_mode=1", "average_pool2d: unknown parameter 'ceil_mode=1'"),
        ("attention:heads=1,queries=2,keys=3,dim=4,layout=ihbd", "attention: layout='ihbd' is none of bhid, bihd"),
        ("attention:heads=1,queries=2,keys=3,dim=4,scale=half", "attention: scale='half' is no decimal number above 0, such as 1e-5"),
        (
            "attention:heads=16,queries=16384,keys=16384,dim=4",
            "attention: tensor product of shape (1, 16, 16384, 16384) would take 16.0 GiB, more than the 4 GiB",
        ),
        ("elementwise:shapes=2x3.4,value=add(a;b)", "elementwise: shapes 2x3.4 do not broadcast"),
        ("elementwise:shapes=2x0,value=abs(a)", f"elementwise: shapes='2x0' is not between 1 and {MAX_EXTENT}"),
        ("elementwise:shapes=2,value=add(a;b)", "elementwise: b has no shape"),
        ("elementwise:shapes=2.3,value=abs(a)", "elementwise: b has a shape, and the value does not use it"),
        ("elementwise:shapes=2,value=cos(a)", "elementwise: value='cos(a)' has an unknown function 'cos' (known: add, sub, mul, div, max, min, pow,"),
        ("elementwise:shapes=2,value=add(a)", "elementwise: value='add(a)' gives add 1 arguments, not 2"),
        ("elementwise:shapes=2,value=abs(a", "elementwise: value='abs(a' has its end where abs should go on with ; or )"),
        ("elementwise:shapes=2,value=abs(a))", "elementwise: value='abs(a))' goes on with ')' where it should end"),
        ("elementwise:shapes=2,value=add(1(a)", "elementwise: value='add(1(a)' has '(' where add should go on with ; or )"),
        ("elementwise:shapes=2,value=add(a;;)", "elementwise: value='add(a;;)' has ';' where a value should be"),
        ("elementwise:shapes=2,value=add(a;xy)", "elementwise: value='add(a;xy)' has 'xy', which is no input (they are called a, b, c, ...)"),
        ("elementwise:shapes=2,value=a+1", "elementwise: value='a+1' is not made of functions, letters, numbers, ( ; and ) alone"),
        ("elementwise:shapes=2,value=abs(1)", "elementwise: value='abs(1)' applies no function to an input"),
        ("elementwise:shapes=2,value=a", "elementwise: value='a' applies no function to an input"),
        ("elementwise:shapes=2,value=add(a;1e39)", "elementwise: value='add(a;1e39)' has a number beyond the range of fp32: '1e39'"),
        ("elementwise:shapes=2,value=" + "abs(" * 65, "has more than 64 functions"),
        ("elementwise:shapes=" + "1." * 27 + "1,value=abs(a)", "elementwise: 28 shapes, more than the letters from a to x, which name the inputs"),
        ("elementwise:shapes=2,types=int16,value=abs(a)", "types='int16' has an unknown type 'int16' (known: float32, int32, int64, bool, int8, uint8)"),
        ("elementwise:shapes=2,types=,value=abs(a)", "elementwise: types='' has an unknown type ''"),
        ("elementwise:shapes=2.2.2,types=int8.int8,value=add(a;add(b;c))", "elementwise: 2 types for 3 shapes"),
        (
            "elementwise:shapes=2.2,types=int32.float32,value=mul(2;add(a;b))",
            "elementwise: add takes arguments of one type, not int32 and float32: cast them, as in cast_float32(a) in 'mul(2;add(a;b))'",
        ),
        ("elementwise:shapes=2.2,types=int32.bool,value=select(b;a;b)", "select takes arguments of one type, not int32 and bool"),
        ("elementwise:shapes=2,types=int32,value=exp(a)", "there is no exp of int32: cast its arguments, as in cast_float32(a) in 'exp(a)'"),
        ("elementwise:shapes=2,types=uint8,value=div(a;2)", "there is no div of uint8"),
        ("elementwise:shapes=2,types=bool,value=add(a;1)", "there is no add of bool"),
        ("elementwise:shapes=2,types=uint8,value=max(a;-1)", "the number -1 is no uint8, which what stands beside it is in 'max(a;-1)'"),
        ("elementwise:shapes=2,types=int32,value=max(a;0.5)", "the number 0.5 is no int32"),
        ("elementwise:shapes=2,types=int64,value=max(a;9223372036854775808)", "the number 9223372036854775808 is no int64"),
        ("elementwise:shapes=2,value=cast_float64(a)", "has an unknown function 'cast_float64'"),
        ("elementwise:shapes=2,value=cast_int8(a;a)", "gives cast_int8 2 arguments, not 1"),
        ("conv2d:c=64,h=9,w=9,k=64,groups=32,r=3,s=3,layout=nchwc", "layout nchwc cannot block 64 channels by 16 with these groups; use nhwc or nchw"),
    ],
)
def test_bad_input_gets_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        parse_operator(text)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 700


@settled
@given(st.one_of(st.text(max_size=30), st.text(max_size=12).map("matmul:m=1,n=2,k=".__add__), st.text(max_size=12).map((CONV + ",").__add__)))
def test_garbage_gets_one_line(text: str) -> None:
    try:
        key, _ = parse_operator(text)
    except UserError as error:
        line = str(error)
    else:
        line = key
    assert len(line.splitlines()) == 1


@settled
@given(st.data())
def test_a_damaged_text_gets_one_line_or_means_something(data: st.DataObject) -> None:
    text = data.draw(st.one_of(operator_texts(), row_texts(), pool_texts()))
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.text(max_size=2)) + text[at + 1 :]
    try:
        line, program = parse_operator(damaged)
    except UserError as error:
        line = str(error)
    else:
        assert parse_operator(line) == (line, program)
    assert len(line.splitlines()) == 1


def test_every_operator_is_tried_above() -> None:
    assert ", ".join(OPERATORS) == KNOWN
    seen = set[str]()

    @settings(settled, max_examples=600)
    @given(operator_texts())
    def note(text: str) -> None:
        seen.add(text.partition(":")[0])

    note()
    assert seen == set(OPERATORS)


def test_strides_are_in_elements() -> None:
    assert Tensor("x", (2, 3, 4)).strides == (12, 4, 1)
    assert Tensor("x", (2, 3, 4)).n_bytes == 96


def test_a_prologue_is_left_out_of_the_text_where_there_is_none() -> None:
    assert task("matmul:m=2,n=3,k=4,prologue=none").key == "matmul:m=2,n=3,k=4,b=constant,epilogue=none"
    assert task("matmul:m=2,n=3,k=4,prologue=scale+bias+relu").key == "matmul:m=2,n=3,k=4,b=constant,prologue=scale+bias+relu,epilogue=none"


@pytest.mark.parametrize(
    ("prologue", "words"),
    [
        ("add", "has an unknown step 'add' (known: scale, bias, relu, sigmoid, tanh, gelu, silu, hardswish, leaky<slope>, clip<low>:<high>)"),
        ("scale+relu+scale", "has scale twice"),
        ("clip1:0", "has a clip with low above high: 'clip1:0'"),
    ],
)
def test_prologues_that_there_are_not(prologue: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(f'matmul: prologue={prologue!r} {words}')}$"):
        task(f"matmul:m=2,n=3,k=4,prologue={prologue}")
