from pathlib import Path

import numpy as np
import pytest
from graph_models import save
from onnx import helper

from graph.targets import resolve_target
from ir.errors import UserError


def test_an_operator_text_is_a_network_of_one_task() -> None:
    network = resolve_target("matmul:n=3,m=2,k=4", {})
    assert [task.key for task in network.tasks] == ["matmul:m=2,n=3,k=4,b=constant,epilogue=none"]
    assert (network.path, network.n_layers, network.unsupported) == (None, 1, ())


@pytest.mark.parametrize("name", ["net.onnx", "a network"])
def test_a_file_is_a_network(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ("N", "K")}, {"y": 2}, {"w": np.ones((4, 3), np.float32)})
    network = resolve_target(str(path), {"x": (2, 4)})
    assert (network.path, network.tasks[0].key) == (path, "matmul:m=2,n=3,k=4,b=constant,epilogue=none")


@pytest.mark.parametrize(
    ("text", "shapes", "words"),
    [
        ("nosuch", {}, r"'nosuch' is neither a file nor an operator text such as matmul:m=512,n=512,k=512 \(operators: matmul, .*elementwise, .*pack\)$"),
        ("", {}, r"'' is neither a file nor an operator text"),
        ("nosuch:m=1", {}, r"'nosuch:m=1' is neither"),
        ("x" * 5000, {}, "is neither"),
        ("nosuch.onnx", {}, r"nosuch.onnx: no such file or directory$"),
        ("matmul:m=0,n=1,k=1", {}, r"matmul: m=.* is not between 1 and"),
        ("matmul", {}, r"matmul: m is missing in 'matmul'"),
        ("matmul:m=1,n=1,k=1", {"x": (1,)}, r"--shape x: only a network has inputs to give shapes to"),
    ],
)
def test_other_texts_are_refused(text: str, shapes: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        resolve_target(text, shapes)
    assert "\n" not in str(caught.value)
