"""Names of programs: equal for what is the same under another name, different for what is not."""

import pytest

from ir.identity import program_id
from ir.task import task


def identity(text):
    return program_id(task(text).program)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("matmul:m=3136,n=256,k=64", "conv2d:n=1,c=64,h=56,w=56,k=256,r=1,s=1"),
        ("matmul:m=64,n=32,k=16,epilogue=bias+relu", "conv2d:n=4,c=16,h=4,w=4,k=32,r=1,s=1,epilogue=bias+relu"),
        ("conv2d:n=1,c=8,h=1,w=40,k=16,r=1,s=3", "conv1d:n=1,c=8,w=40,k=16,s=3"),
        ("batch_matmul:batch=1,m=8,n=16,k=32", "matmul:m=8,n=16,k=32,b=variable"),
        ("batch_matmul:batch=3,m=8,n=16,k=32", "einsum:equation=bmk.bkn.bmn,sizes=b3.m8.n16.k32"),
        ("elementwise:shapes=4,value=mul(a;16777217)", "elementwise:shapes=4,value=mul(a;16777216)"),
    ],
)
def test_other_names_of_one_program(one, other):
    assert identity(one) == identity(other)


@pytest.mark.parametrize(
    "other",
    [
        "matmul:m=64,n=32,k=17", "matmul:m=32,n=64,k=16", "matmul:m=64,n=32,k=16,b=variable", "matmul:m=64,n=32,k=16,epilogue=relu",
        "conv2d:c=16,h=8,w=8,k=32,r=3,s=3,pad=1", "batch_matmul:batch=2,m=32,n=32,k=16",
    ],
)  # fmt: skip
def test_other_programs(other):
    assert identity("matmul:m=64,n=32,k=16") != identity(other)


def test_padding_and_stride_are_part_of_it():
    shapes = ("pad=1", "pad=0", "pad=1,stride=2", "pad=1,dilation=2", "pad=2x2x0x0")
    assert len({identity(f"conv2d:c=4,h=9,w=9,k=4,r=3,s=3,{shape}") for shape in shapes}) == len(shapes)


def test_the_same_in_every_version():
    """Model files name the programs that they learned from."""
    assert identity("matmul:m=3136,n=256,k=64") == "d969c25f1388a1be"
