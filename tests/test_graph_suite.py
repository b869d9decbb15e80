"""Suites: each program once, with all that use it; what is left out is named."""

import numpy as np
import pytest
from graph_models import save
from onnx import helper

from graph import suite
from graph.examples import LIGHT_NETWORKS, light_network
from graph.network import Network
from graph.operator_suite import BATCHES, FAMILIES
from graph.suite import collect, named_suite, target_suite
from graph.targets import resolve_target
from ir.errors import UserError
from ir.identity import program_id
from ir.task import task


def network(*texts):
    return Network(None, tuple(task(text, count) for count, text in texts), ())


def test_a_program_stands_there_once_with_all_its_uses():
    found = collect([
        ("one", network((3, "matmul:m=16,n=8,k=4"), (1, "softmax:shape=4x4,axis=1"))),
        ("two", network((2, "conv2d:c=4,h=4,w=4,k=8,r=1,s=1"), (1, "matmul:m=16,n=8,k=4"))),
    ])  # fmt: skip
    assert [of.key.partition(":")[0] for of in found.tasks] == ["matmul", "softmax"]
    assert found.sources == {found.tasks[0].key: {"one": 3, "two": 3}, found.tasks[1].key: {"one": 1}}


def test_what_is_too_large_is_named():
    found = collect([("one", network((1, "matmul:m=16,n=8,k=4"), (1, "matmul:m=4096,n=4096,k=4096"), (1, "reduce:function=sum,shape=16x4096x2048,axes=1x2")))])
    assert len(found.tasks) == 1
    assert "one: matmul:m=4096" in found.notes[0]
    assert "1.4e+11 flops, more than 1.5e+10" in found.notes[0]
    assert "512 MiB of tensors, more than 256" in found.notes[1]


def test_nothing_left_is_one_line():
    with pytest.raises(UserError, match=r"there is no task to measure: one: matmul:.* flops, more than"):
        collect([("one", network((1, "matmul:m=4096,n=4096,k=4096")))])
    with pytest.raises(UserError, match="record needs targets, or --suite with one of standard, networks, operators"):
        target_suite([], {})
    with pytest.raises(UserError, match="unknown suite 'all'"):
        named_suite("all")


def test_the_operator_suite():
    found = named_suite("operators")
    cases = {program_id(of.program) for family in FAMILIES.values() for batch in BATCHES for of in family.tasks(batch)}
    assert len(found.tasks) + len(found.notes) == len(cases)
    assert len(found.tasks) > 96
    assert {name for uses in found.sources.values() for name in uses} == {f"operator {name}" for name in FAMILIES}


def test_the_standard_suite_without_the_networks_that_are_fetched(monkeypatch):
    """Those of the onnx package alone give more than the 120 tasks that a data set needs."""
    monkeypatch.setattr(suite, "EXAMPLES", {})
    found = named_suite("standard")
    assert len(found.tasks) >= 120
    assert len({program_id(of.program) for of in found.tasks}) == len(found.tasks)
    assert {f"light_{name}" for name in LIGHT_NETWORKS} <= {name for uses in found.sources.values() for name in uses}


def test_targets_are_named_after_files_and_operators():
    path = light_network("squeezenet")
    found = target_suite([str(path), "matmul:m=16,n=8,k=4"], {})
    names = {name for uses in found.sources.values() for name in uses}
    assert names == {"light_squeezenet", "operator matmul"}
    assert len(found.tasks) == len(resolve_target(str(path), {}).tasks) + 1


def test_shapes_go_to_the_networks_that_have_such_inputs(tmp_path):
    one, other = (tmp_path / f"{name}.onnx" for name in ("my_net", "other"))
    save(one, [helper.make_node("Softmax", ["x"], ["y"])], {"x": ("n", "m")}, {"y": 2}, {})
    save(other, [helper.make_node("Softmax", ["z"], ["y"])], {"z": ("batch", 64)}, {"y": 2}, {})
    found = target_suite([str(one), str(other), "matmul:m=16,n=8,k=4"], {"x": (3, 64)})
    assert {name for uses in found.sources.values() for name in uses} == {"my_net", "other", "operator matmul"}
    assert found.notes == ("other: input 'z': dynamic batch dimension batch taken as 1",)
    with pytest.raises(UserError, match="--shape w: none of the targets has an input of this name"):
        target_suite([str(one), "matmul:m=16,n=8,k=4"], {"x": (3, 64), "w": (1, 2)})


def test_two_files_of_one_name_would_be_one_network(tmp_path):
    paths = [tmp_path / part / "net.onnx" for part in "ab"]
    for path in paths:
        path.parent.mkdir()
        save(path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (4, 8)}, {"y": 2}, {"w": np.ones((8, 4), np.float32)})
    with pytest.raises(UserError, match="2 of the targets are files of the name net,"):
        target_suite(list(map(str, paths)), {})


def test_networks_are_called_after_the_links_that_lead_to_them(tmp_path):
    for number, directory in enumerate("ab"):
        (tmp_path / directory).mkdir()
        blob = save(tmp_path / f"blob{number}", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (4, 8)}, {"y": 2}, {"w": np.ones((8, 4), np.float32)})
        (tmp_path / directory / "net.onnx").symlink_to(blob)
        (tmp_path / f"{directory}.onnx").symlink_to(tmp_path / directory / "net.onnx")
    with pytest.raises(UserError, match="2 of the targets are files of the name net,"):
        target_suite([str(tmp_path / name / "net.onnx") for name in "ab"], {})
    found = target_suite([str(tmp_path / f"{name}.onnx") for name in "ab"], {})
    assert found.sources == {found.tasks[0].key: {"a": 1, "b": 1}}


def test_what_is_given_twice_counts_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "net.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (4, 8)}, {"y": 2}, {"w": np.ones((8, 4), np.float32)})
    found = target_suite(["net.onnx", str(tmp_path / "net.onnx"), *["softmax:shape=4x4,axis=1"] * 2], {})
    assert found.sources == {found.tasks[0].key: {"net": 1}, found.tasks[1].key: {"operator softmax": 1}}


def test_an_absent_light_network_is_one_line():
    with pytest.raises(UserError, match="does not carry its light network nonet"):
        light_network("nonet")
