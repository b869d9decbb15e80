import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_models import save
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from graph.model import read_graph
from graph.network import find_tasks, read_network
from graph.onnx_file import load_model
from ir.errors import Unsupported, UserError

node = helper.make_node


def small(path: Path, **options: object) -> Path:
    """A valid network with a weight of 4x3."""
    nodes = [node("MatMul", ["x", "w"], ["y"], name="p"), node("Relu", ["y"], ["z"])]
    return save(path, nodes, {"x": (2, 4)}, {"z": 2}, {"w": np.arange(12, dtype=np.float32).reshape(4, 3)}, **options)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_network(path, {})
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def test_missing_files(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.onnx") == "no such file or directory"
    assert refusal(small(tmp_path / "net.onnx") / "inside") == "not a directory"
    assert refusal(tmp_path / ("x" * 300 + ".onnx")) == "file name too long"


def test_a_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "is a directory, not an ONNX file"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04 a zip archive", "not an ONNX file, or cut off"),
        (b'{"ir_version": 8}', "not an ONNX file, or cut off"),
        (b"\x08\x08", "not a valid network"),  # a version, and nothing else
    ],
)
def test_other_files(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    assert words in refusal(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole, path = small(tmp_path / "whole.onnx").read_bytes(), tmp_path / "net.onnx"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        refusal(path)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@settings(deadline=None, max_examples=200)
@given(damage=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_files_are_read_or_refused(directory: Path, damage: list[tuple[int, int]]) -> None:
    content = bytearray(small(directory / "whole.onnx").read_bytes())
    for position, byte in damage:
        content[position % len(content)] = byte
    path = directory / "net.onnx"
    path.write_bytes(content)
    with suppress(UserError):
        read_network(path, {})


def test_an_unknown_operator_of_onnx(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [node("Convolve", ["x"], ["y"])], {"x": (2, 4)}, {"y": 2}, {})
    assert re.search(r"not a valid network: .*Convolve", refusal(path))


@pytest.mark.parametrize("opset", [6, onnx.defs.onnx_opset_version() + 1])
def test_operator_sets_that_are_too_old_or_too_new(tmp_path: Path, opset: int) -> None:
    with pytest.raises(Unsupported, match=rf"net.onnx: operator set {opset} is not one of 7 to \d+; convert the network"):
        load_model(small(tmp_path / "net.onnx", opset=opset))


def test_external_data(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert read_network(path, {}).tasks[0].key == "matmul:m=2,n=3,k=4,b=constant,epilogue=relu"
    whole = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(whole[:5])
    assert re.search(r"the data of tensor '\w+' cannot be read", refusal(path))
    (tmp_path / "weights.bin").unlink()
    assert "weights.bin" in refusal(path)


def test_shapes_that_are_kept_in_other_files(tmp_path: Path) -> None:
    nodes = [node("Reshape", ["x", "wanted"], ["flat"]), node("MatMul", ["flat", "w"], ["y"])]
    constants = {"wanted": np.array([2, -1], np.int64), "w": np.ones((6, 5), np.float32)}
    path = save(
        tmp_path / "net.onnx", nodes, {"x": (2, 3, 2)}, {"y": 2}, constants, save_as_external_data=True, location="weights.bin", size_threshold=0
    )  # fmt: skip
    assert [task.key for task in read_network(path, {}).tasks] == ["matmul:m=2,n=5,k=6,b=constant,epilogue=none"]


@pytest.mark.parametrize("columns", [3, 3000])
def test_constants_of_nodes_that_are_kept_in_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Beside the network, whatever the current directory has under this name."""
    values = {"wanted": np.array([2, -1]), "w": np.ones((6, columns), np.float32), "b": np.arange(columns, dtype=np.float32)}
    nodes = [node("Constant", [], [name], value=numpy_helper.from_array(value)) for name, value in values.items()]
    nodes += [node("Reshape", ["x", "wanted"], ["flat"]), node("MatMul", ["flat", "w"], ["y"]), node("Add", ["y", "b"], ["z"])]
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0, "convert_attribute": True}
    path = save(tmp_path / "net.onnx", nodes, {"x": (2, 3, 2)}, {"z": 2}, {}, **options)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "weights.bin").write_bytes(bytes((tmp_path / "weights.bin").stat().st_size))
    monkeypatch.chdir(elsewhere)
    graph = read_graph(path, {})
    assert [task.key for task in find_tasks(graph).tasks] == [f"matmul:m=2,n={columns},k=6,b=constant,epilogue=bias"]
    for name, value in values.items():
        np.testing.assert_array_equal(graph.constants.value(name), value)


def test_a_path_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.onnx")
    shutil.copy(small(tmp_path / "net.onnx"), path)
    assert "onnx reads only files whose path is UTF-8" in refusal(path)


def test_both_names_of_the_set_of_operators(tmp_path: Path) -> None:
    """With the longer one in the file, small constants that nodes compute are still computed."""
    nodes = [node("Neg", ["v"], ["w"]), node("Conv", ["x", "w"], ["y"])]
    path = save(tmp_path / "net.onnx", nodes, {"x": (1, 2, 4, 4)}, {"y": 4}, {"v": np.ones((3, 2, 1, 1), np.float32)})
    model = onnx.load(path)
    model.opset_import[0].domain = "ai.onnx"
    onnx.save(model, path)
    (task,) = read_network(path, {}).tasks
    assert task.key.startswith("conv2d:n=1,c=2,h=4,w=4,k=3,r=1,s=1,")


def test_what_has_no_shape_is_named(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    assert refusal(path).endswith(f"(no shape: {model.graph.output[0].name})")


def test_a_network_without_operators_of_onnx(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [node("Binarizer", ["x"], ["y"], domain="ai.onnx.ml")], {"x": (2, 4)}, {"y": 2}, {})
    model = onnx.load(path)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    onnx.save(model, path)
    with pytest.raises(UserError, match=r"net\.onnx: "):
        read_network(path, {})


def test_nodes_get_different_names(tmp_path: Path) -> None:
    names = ["", "a", "a", "Relu_0", ""]
    nodes = [node("Relu", [f"x{i}"], [f"x{i + 1}"], name=name) for i, name in enumerate(names)]
    model = load_model(save(tmp_path / "net.onnx", nodes, {"x0": (1,)}, {"x5": 1}, {}))
    found = [entry.name for entry in model.graph.node]
    assert len(set(found)) == len(names)
    assert found[3] == "Relu_0"
    assert all(found)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    body = [node("MatMul", ["a", "b"], ["c"]), node("Relu", ["c"], ["d"])]
    dense = helper.make_function("mine", "Dense", ["a", "b"], ["d"], body, [helper.make_opsetid("", 17)])
    nodes = [node("Dense", ["x", "w"], ["y"], domain="mine"), node("Dense", ["y", "w"], ["z"], domain="mine")]
    path = save(tmp_path / "net.onnx", nodes, {"x": (2, 4)}, {"z": 2}, {"w": np.eye(4, dtype=np.float32)}, functions=[dense], domains=["mine"])
    (task,) = read_network(path, {}).tasks
    assert (task.count, task.key) == (2, "matmul:m=2,n=4,k=4,b=constant,epilogue=relu")


def test_a_function_for_another_set_of_operators_is_named(tmp_path: Path) -> None:
    dense = helper.make_function("mine", "Dense", ["a", "b"], ["c"], [node("MatMul", ["a", "b"], ["c"])], [helper.make_opsetid("", 18)])
    nodes = [node("Dense", ["x", "w"], ["y"], domain="mine"), node("Other", ["y"], ["z"], domain="mine"), node("MatMul", ["x", "w"], ["t"])]
    path = save(tmp_path / "net.onnx", nodes, {"x": (2, 4)}, {"z": 2, "t": 2}, {"w": np.eye(4, dtype=np.float32)}, functions=[dense], domains=["mine"])
    assert [(refusal.op_type, refusal.reason) for refusal in read_network(path, {}).unsupported] == [
        ("mine.Dense", "a function for another set of operators than the network's, which onnx does not inline"),
        ("mine.Other", "an operator that is not ONNX's own"),
    ]


def test_the_checked_model_is_the_file(tmp_path: Path) -> None:
    path = small(tmp_path / "net.onnx")
    assert load_model(path).graph.initializer == onnx.load(path).graph.initializer
