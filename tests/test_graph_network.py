from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_models import save
from onnx import TensorProto, helper

from graph.network import Refusal, read_network
from ir.errors import UserError

node = helper.make_node
ONES = np.ones((4, 4), np.float32)

# Networks that come with the onnx package, with weights that are constant fills: distinct tasks, layers (pooling, softmax and concatenation too),
# and millions of multiply-adds of the others as published for these architectures at 224x224.
LIGHT = {
    "resnet50": (31, 57, 4089),
    "vgg19": (18, 25, 19632),
    "squeezenet": (27, 39, 349),
    "shufflenet": (31, 75, 125),
    "inception_v1": (71, 82, 1432),
    "densenet121": (130, 184, 2834),
}


@pytest.mark.parametrize("name", LIGHT)
def test_whole_networks(name: str) -> None:
    network = read_network(Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx", {})
    n_tasks, n_layers, macs = LIGHT[name]
    assert (len(network.tasks), network.n_layers, network.unsupported) == (n_tasks, n_layers, ())
    assert round(sum(task.count * task.flops for task in network.tasks if "epilogue" in task.key) / 2e6) == macs
    assert Counter(layer.key for layer in network.layers) == {task.key: task.count for task in network.tasks}
    covered = [name for layer in network.layers for name in layer.nodes]
    assert len(set(covered)) == len(covered)


def test_resnet_is_fused_as_its_blocks_are() -> None:
    network = read_network(Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_resnet50.onnx", {})
    epilogues = Counter[str]()
    for task in network.tasks:
        if "epilogue" in task.key:
            epilogues[task.key.rpartition("=")[2]] += task.count
    # 16 blocks, each with two convolutions before the one that is added to; the stem; four projections; the classifier.
    assert epilogues == {"bias+relu": 2 * 16 + 1, "bias+add+relu": 16, "bias": 4 + 1}
    assert network.other_operators == {"Reshape": 1}
    assert network.tasks[0].key == "conv2d:n=1,c=3,h=224,w=224,k=64,r=7,s=7,stride=2,pad=3,groups=1,dilation=1,layout=nhwc,epilogue=bias+relu"


def test_tasks_are_in_order_of_appearance_with_short_names(tmp_path: Path) -> None:
    long = "network/" + "/".join(f"part{i}" for i in range(12)) + "/MatMul"
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("MatMul", ["x", "v"], ["z"], name=long), node("MatMul", ["z", "w"], ["t"])]
    constants = {"w": ONES, "v": np.ones((4, 4), np.float32)}
    network = read_network(save(tmp_path / "net.onnx", nodes, {"x": (2, 4)}, {"y": 2, "t": 2}, constants), {})
    assert [(task.count, task.name) for task in network.tasks] == [(3, "MatMul_0")]
    nodes[1:] = [node("Relu", ["y"], ["r"]), node("MatMul", ["r", "v"], ["z"], name=long), node("MatMul", ["z", "w"], ["t"])]
    network = read_network(save(tmp_path / "net.onnx", nodes, {"x": (2, 4)}, {"t": 2}, constants), {})
    assert [(task.count, task.key[-4:], task.name) for task in network.tasks] == [
        (1, "relu", "MatMul_0"),
        (2, "none", "part5/part6/part7/part8/part9/part10/part11/MatMul"[6:]),
    ]


def test_everything_that_cannot_be_tuned_is_listed(tmp_path: Path) -> None:
    """Beside one layer that can."""
    half = np.ones((4, 4), np.float16)
    cube, kernel = (1, 2, 3, 3, 3, 3), np.ones((2, 2, 3, 3, 3, 3), np.float32)
    nodes = [
        node("MatMul", ["x", "w"], ["y0"], name="good"),
        node("MatMul", ["h", "half"], ["y1"], name="half"),
        node("Conv", ["cube", "kernel"], ["y2"], name="conv4d"),
        node("Conv", ["image", "filter"], ["y3"], name="dynamic"),
        node("ConvTranspose", ["image", "fixed"], ["y4"], name="up", strides=[2, 2], dilations=[2, 2]),
        node("MatMulInteger", ["q", "quantized"], ["y5"], name="integer"),
        node("Gemm", ["x", "w"], ["y6"], name="transposed", transA=1),
        node("FusedMatMul", ["x", "w"], ["y7"], name="foreign", domain="com.example"),
        node("Conv", ["image", "fixed"], ["y8"], name="cropped", pads=[-1, 0, 0, 0]),
        node("Sin", ["y0"], ["y9"]),
    ]
    inputs = {"x": (4, 4), "h": (2, 4), "cube": cube, "image": (1, 2, 5, 5), "filter": (2, 2, 3, 3), "q": (2, 4)}
    types = {"h": TensorProto.FLOAT16, "y1": TensorProto.FLOAT16, "q": TensorProto.INT8, "y5": TensorProto.INT32}
    outputs = {"y1": 2, "y2": 6, "y3": 4, "y4": 4, "y5": 2, "y6": 2, "y7": 2, "y8": 4, "y9": 2}
    constants = {"w": ONES, "half": half, "kernel": kernel, "fixed": np.ones((2, 2, 3, 3), np.float32), "quantized": np.ones((4, 4), np.int8)}
    network = read_network(save(tmp_path / "net.onnx", nodes, inputs, outputs, constants, types=types, domains=["com.example"]), {})
    assert [layer.nodes for layer in network.layers] == [("good",)]
    assert network.n_layers == 9
    listed = {refusal.node: refusal for refusal in network.unsupported}
    cropped = listed.pop("cropped")  # the words are of ir.operators
    assert cropped.op_type == "Conv"
    assert "-1x0x0x0" in cropped.reason
    assert set(listed.values()) == {
        Refusal("MatMul", "half", "'h' is float16, only float (fp32) can be tuned"),
        Refusal("Conv", "conv4d", "convolution of 4 dimensions, only 1, 2 and 3 can be tuned"),
        Refusal("Conv", "dynamic", "'filter' is not constant"),
        Refusal("ConvTranspose", "up", "conv_transpose2d: along h dilation 2 with stride 2 is not supported"),
        Refusal("MatMulInteger", "integer", "this operator is not yet taken from networks"),
        Refusal("Gemm", "transposed", "transA=1: the first operand lies transposed"),
        Refusal("com.example.FusedMatMul", "foreign", "an operator that is not ONNX's own"),
    }
    assert network.other_operators == {"Sin": 1}


def test_layers_that_run_conditionally_are_listed(tmp_path: Path) -> None:
    result = [helper.make_tensor_value_info("r", TensorProto.FLOAT, [4, 4])]
    branch = helper.make_graph([node("MatMul", ["x", "w"], ["r"], name="inner")], "then", [], result)
    other = helper.make_graph([node("Relu", ["x"], ["r"])], "else", [], result)
    nodes = [
        node("ReduceMax", ["x"], ["m"], keepdims=0), node("Cast", ["m"], ["f"], to=TensorProto.BOOL),
        node("If", ["f"], ["y"], name="choice", then_branch=branch, else_branch=other), node("MatMul", ["y", "w"], ["z"]),
    ]  # fmt: skip
    network = read_network(save(tmp_path / "net.onnx", nodes, {"x": (4, 4)}, {"z": 2}, {"w": ONES}), {})
    assert network.unsupported == (Refusal("MatMul", "inner", "inside If 'choice', which decides at run time"),)


def test_foreign_operators_in_branches_are_listed_and_names_there_are_their_own(tmp_path: Path) -> None:
    result = [helper.make_tensor_value_info("r", TensorProto.FLOAT, [4, 4])]
    branch = helper.make_graph([node("Conv", ["x"], ["r"], name="Relu_0", domain="com.example")], "then", [], result)
    other = helper.make_graph([node("Relu", ["x"], ["r"])], "else", [], result)
    nodes = [
        node("Relu", ["x"], ["p"], name="Relu_0"), node("ReduceMax", ["p"], ["m"], keepdims=0), node("Cast", ["m"], ["f"], to=TensorProto.BOOL),
        node("If", ["f"], ["y"], name="choice", then_branch=branch, else_branch=other), node("MatMul", ["y", "w"], ["z"]),
    ]  # fmt: skip
    network = read_network(save(tmp_path / "net.onnx", nodes, {"x": (4, 4)}, {"z": 2}, {"w": ONES}, domains=["com.example"]), {})
    reason = "an operator that is not ONNX's own, inside If 'choice', which decides at run time"
    assert network.unsupported == (Refusal("com.example.Conv", "Relu_0", reason),)
    assert network.other_operators["Relu"] == 1


MISFITS = {
    "strides=0x0, not 2 numbers of 1 or more": node("MaxPool", ["image"], ["y"], kernel_shape=[2, 2], strides=[0, 0]),
    "strides=2, not 2 numbers of 1 or more": node("MaxPool", ["image"], ["y"], kernel_shape=[2, 2], strides=[2]),
    "dilations=1, not 2 numbers of 1 or more": node("Conv", ["image", "kernel"], ["y"], dilations=[1]),
    "pads=1x1, not two numbers for each of 2 dimensions": node("Conv", ["image", "kernel"], ["y"], pads=[1, 1]),
    "group=0, not 1 or more": node("ConvTranspose", ["image", "kernel"], ["y"], group=0),
    "output_padding=-1x0, not 2 numbers of 0 or more": node("ConvTranspose", ["image", "kernel"], ["y"], strides=[2, 2], output_padding=[-1, 0]),
    "or a step is 0": node("Slice", ["image", "one", "two", "one", "zero"], ["y"]),
    "starts=1x1, ends=2 and steps=1 of 1 axes do not fit together": node("Slice", ["image", "ones", "two", "one"], ["y"]),
    "perm=0x5x1x2 is no order of 4 dimensions": node("Transpose", ["image"], ["y"], perm=[0, 5, 1, 2]),
    "operands of shapes (4, 4) and (6, 7) do not fit together": node("Gemm", ["x", "long"], ["y"]),
    "operands of shapes (1, 2, 5, 5) and (6, 7) do not fit together": node("MatMul", ["image", "long"], ["y"]),
    "operands of shapes (4, 4) and () do not fit together": node("MatMul", ["x", "scalar"], ["y"]),
}


@pytest.mark.parametrize("reason", MISFITS)
def test_what_does_not_fit_is_refused_also_behind_a_foreign_operator(tmp_path: Path, reason: str) -> None:
    """From there on onnx checks nothing."""
    nodes = [node("Foo", ["x"], ["f"], domain="com.example"), MISFITS[reason], node("MatMul", ["x", "w"], ["z"], name="good")]
    whole = {name: np.array(numbers, np.int64) for name, numbers in {"zero": [0], "one": [1], "two": [2], "ones": [1, 1]}.items()}
    constants = {"w": ONES, "long": np.ones((6, 7), np.float32), "kernel": np.ones((2, 2, 3, 3), np.float32), "scalar": np.ones((), np.float32)}
    path = save(tmp_path / "net.onnx", nodes, {"x": (4, 4), "image": (1, 2, 5, 5)}, {"f": 2, "z": 2}, constants | whole, domains=["com.example"])
    network = read_network(path, {})
    assert [layer.nodes for layer in network.layers] == [("good",)]
    assert any(reason in refusal.reason for refusal in network.unsupported)


def test_named_sizes_are_those_of_what_foreign_operators_give_too(tmp_path: Path) -> None:
    nodes = [node("Foo", ["x"], ["f"], domain="com.example"), node("MatMul", ["f", "w"], ["z"])]
    path = save(tmp_path / "net.onnx", nodes, {"x": ("N", 4)}, {"z": 2}, {"w": ONES}, domains=["com.example"])
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, ["N", 4]))
    onnx.save(model, path)
    assert [task.key for task in read_network(path, {"x": (3, 4)}).tasks] == ["matmul:m=3,n=4,k=4,b=constant,epilogue=none"]
    assert [task.key for task in read_network(path, {}).tasks] == ["matmul:m=1,n=4,k=4,b=constant,epilogue=none"]


def test_a_network_with_nothing_to_tune_says_why(tmp_path: Path) -> None:
    nodes = [
        node("Einsum", ["x", "w"], ["y"], equation="nchw,cd->ndhw"),
        node("Relu", ["y"], ["z"]),
        node("Einsum", ["z", "w"], ["t"], equation="nchw,cd->ndhw"),
    ]
    path = save(tmp_path / "net.onnx", nodes, {"x": (1, 2, 5, 5)}, {"t": 4}, {"w": np.ones((2, 2), np.float32)})
    words = r"net.onnx: no layer that can be tuned; 2 × Einsum: this operator is not yet taken from networks; other operators: 1 × Relu$"
    with pytest.raises(UserError, match=words):
        read_network(path, {})


def test_a_tensor_of_absurd_size_is_refused_not_allocated(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [node("MatMul", ["x", "y"], ["z"])], {"x": ("m", "k"), "y": ("k", "n")}, {"z": 2}, {})
    with pytest.raises(UserError, match=r"1 × MatMul: matmul: tensor a of shape .* GiB"):
        read_network(path, {"x": (1 << 20, 1 << 20), "y": (1 << 20, 8)})
