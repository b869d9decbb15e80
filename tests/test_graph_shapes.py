from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_models import save
from onnx import helper

from graph.model import read_graph
from graph.shapes import parse_shapes
from ir.errors import UserError

Sizes = tuple[int | str, ...]


def test_shapes_are_parsed() -> None:
    assert parse_shapes(["x=1,3,48,320", "input:0=7", "a=b=2,2"]) == {"x": (1, 3, 48, 320), "input:0": (7,), "a=b": (2, 2)}
    assert parse_shapes([]) == {}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["x"], r"--shape x: not of the form NAME=1,3,48,320"),
        (["=1,2"], "not of the form"),
        (["x="], "not of the form"),
        (["x=1,,2"], "not of the form"),
        (["x=1,a"], "not of the form"),
        (["x=1.5"], "not of the form"),
        (["x=" + "9" * 5000], "not of the form"),
        (["x=²"], "not of the form"),
        (["x=1, 2"], "not of the form"),
        (["x=0,3"], r"--shape x=0,3: every dimension must be between 1 and 16777216"),
        (["x=-1,3"], "between 1 and"),
        (["x=1,99999999999999999999"], "between 1 and"),
        (["x=1", "x=2"], r"--shape x=2: x is given twice"),
    ],
)
def test_malformed_shapes_are_refused(texts: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parse_shapes(texts)
    assert "\n" not in str(caught.value)


def product(path: Path, a: Sizes, b: Sizes) -> Path:
    return save(path / "net.onnx", [helper.make_node("MatMul", ["a", "b"], ["c"])], {"a": a, "b": b}, {"c": max(len(a), len(b))}, {})


def shapes_of(path: Path, given: dict[str, tuple[int, ...]]) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    graph = read_graph(path, given)
    return {name: graph.shapes[name] for name in "abc"}, graph.notes


def test_a_dynamic_batch_alone_is_one(tmp_path: Path) -> None:
    path = product(tmp_path, ("N", 3, 4), (4, 5))
    assert shapes_of(path, {}) == ({"a": (1, 3, 4), "b": (4, 5), "c": (1, 3, 5)}, ("input 'a': dynamic batch dimension N taken as 1",))
    assert shapes_of(path, {"a": (7, 3, 4)}) == ({"a": (7, 3, 4), "b": (4, 5), "c": (7, 3, 5)}, ())


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_that_are_not_positive_are_dynamic(tmp_path: Path, size: int) -> None:
    assert shapes_of(product(tmp_path, (size, 3, 4), (4, 5)), {})[1] == ("input 'a': dynamic batch dimension ? taken as 1",)


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_of_results_that_are_not_positive_are_not_taken_for_sizes(tmp_path: Path, size: int) -> None:
    path = product(tmp_path, ("N", 3, 4), (4, 5))
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = size
    onnx.save(model, path)
    assert shapes_of(path, {"a": (7, 3, 4)})[0]["c"] == (7, 3, 5)


def test_shapes_from_python_are_checked(tmp_path: Path) -> None:
    path = product(tmp_path, ("N", 3, 4), (4, 5))
    assert shapes_of(path, {"a": tuple(np.array([7, 3, 4]))})[0]["c"] == (7, 3, 5)
    with pytest.raises(UserError, match=r"shape of input 'a': \(7, 0, 4\) has a dimension that is not between 1 and"):
        shapes_of(path, {"a": (7, 0, 4)})
    with pytest.raises(UserError, match=r"shape of input 'a': \(7, 1.5, 4\) holds what is no whole number"):
        shapes_of(path, {"a": (7, 1.5, 4)})  # type: ignore[dict-item]


def test_a_named_dimension_is_the_same_everywhere(tmp_path: Path) -> None:
    path = product(tmp_path, ("N", "length", 4), ("N", 4, "length"))
    assert shapes_of(path, {"a": (2, 9, 4)}) == ({"a": (2, 9, 4), "b": (2, 4, 9), "c": (2, 9, 9)}, ())


def test_dimensions_without_a_name_differ(tmp_path: Path) -> None:
    path = product(tmp_path, (2, "?", 4), (2, 4, "?"))
    assert shapes_of(path, {"a": (2, 9, 4), "b": (2, 4, 3)})[0]["c"] == (2, 9, 3)


@pytest.mark.parametrize(
    ("a", "b", "given", "words"),
    [
        (("N", "T", 4), (4, 5), {}, r"net.onnx: input 'a' has dynamic dimensions \(N, T, 4\); give --shape a=1,\?,4$"),
        ((3, "T"), ("T", 5), {}, r"input 'a' has dynamic dimensions \(3, T\); give --shape a=3,\?$"),
        (("M", "T"), ("T", "N"), {}, r"input 'a' .*\(M, T\), input 'b' .*\(T, N\); give --shape a=1,\? --shape b=1,\?$"),
        ((3, 4), (4, 5), {"z": (1,)}, r"net.onnx: --shape z=1: the network has no such input \(inputs: a, b\)"),
        ((3, 4), (4, 5), {"c": (3, 5)}, "no such input"),
        (("N", 4), (4, 5), {"a": (1, 4, 1)}, r"--shape a=1,4,1 has 3 dimensions, the input has \(N, 4\)"),
        (("N", 4), (4, 5), {"a": (3, 5)}, r"--shape a=3,5 has 5 where 4 is fixed; the input has \(N, 4\)"),
        (("N", 4, 4), ("N", 4, 5), {"a": (2, 4, 4), "b": (3, 4, 5)}, r"--shape b=3,4,5 has 3 where 2 is fixed"),
        (("N", "K"), ("L", 5), {"a": (2, 3), "b": (4, 5)}, r"net.onnx: the shapes do not fit together: .*MatMul"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(tmp_path: Path, a: Sizes, b: Sizes, given: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read_graph(product(tmp_path, a, b), given)
    assert "\n" not in str(caught.value)
