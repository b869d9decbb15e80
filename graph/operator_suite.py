"""The field's single-operator suite: operator families with four shapes each, to be run at batch 1 and 16.

The shapes are those of Ansor's evaluation (Zheng et al., Ansor: Generating High-Performance Tensor Programs for Deep Learning, OSDI 2020) and some
more of each kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ir.task import Task, task

BATCHES = (1, 16)


@dataclass(frozen=True)
class Family:
    """`text` is an operator text with `{batch}` and the names in `names` left open; `shapes` gives those. Where there is no `{batch}`, it is the first
    of the names."""

    title: str
    text: str
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def tasks(self, batch: int) -> Iterator[Task]:
        for shape in self.shapes:
            first = batch if batch > 1 and "{batch}" not in self.text else shape[0]
            yield task(self.text.format(batch=batch, **dict(zip(self.names, (first, *shape[1:]), strict=True))))


_PLANES = ((224, 224, 3, 64, 7, 2, 3), (56, 56, 64, 64, 1, 1, 0), (14, 14, 256, 256, 3, 1, 1), (7, 7, 512, 512, 3, 1, 1))
_CONV2D = "conv2d:n={batch},c={c},h={h},w={w},k={k},r={r},s={r},stride={s},pad={p}"
_CONV2D_NAMES = ("h", "w", "c", "k", "r", "s", "p")

FAMILIES = {
    "C1D": Family(
        "convolution 1-D", "conv1d:n={batch},c={c},w={w},k={k},s={r},stride={s},pad={p}", ("w", "c", "k", "r", "s", "p"),
        ((256, 64, 128, 3, 2, 1), (128, 128, 256, 1, 2, 0), (64, 256, 256, 5, 1, 2), (32, 512, 512, 3, 1, 1)),
    ),
    "C2D": Family("convolution 2-D", _CONV2D, _CONV2D_NAMES, _PLANES),
    "C3D": Family(
        "convolution 3-D", "conv3d:n={batch},c={c},d=16,h={h},w={w},k={k},t={r},r={r},s={r},stride={s},pad={p}", _CONV2D_NAMES, _PLANES,
    ),
    "GMM": Family(
        "matrix product", "batch_matmul:batch={batch},m={m},n={n},k={k}", ("m", "n", "k"),
        ((128, 128, 128), (512, 32, 512), (512, 512, 512), (1024, 1024, 1024)),
    ),
    "GRP": Family(
        "grouped convolution", _CONV2D + ",groups=4", _CONV2D_NAMES, ((56, 56, 64, 128, 3, 2, 1), *_PLANES[1:]),
    ),
    "DIL": Family("dilated convolution", _CONV2D + ",dilation=2", _CONV2D_NAMES, _PLANES),
    "DEP": Family(
        "depthwise convolution", "conv2d:n={batch},c={c},h={h},w={w},k={c},r={r},s={r},stride={s},pad={p},groups={c}", ("h", "w", "c", "r", "s", "p"),
        ((112, 112, 32, 3, 1, 1), (112, 112, 64, 3, 2, 1), (14, 14, 512, 3, 2, 1), (7, 7, 1024, 3, 1, 1)),
    ),
    "T2D": Family(
        "transposed convolution", "conv_transpose2d:n={batch},c={c},h={h},w={w},k={k},r={r},s={r},stride={s},pad={p}", _CONV2D_NAMES,
        ((4, 4, 512, 256, 4, 2, 1), (8, 8, 256, 128, 4, 2, 1), (16, 16, 128, 64, 4, 2, 1), (32, 32, 64, 3, 4, 2, 1)),
    ),
    "CAP": Family(
        "capsule convolution", "capsule_conv2d:n={batch},c={c},h={h},w={w},k={k},r={r},s={r},stride={s},pad={p}", _CONV2D_NAMES,
        ((16, 16, 32, 32, 3, 2, 1), (8, 8, 32, 32, 3, 1, 1), (16, 16, 8, 16, 3, 2, 1), (8, 8, 16, 16, 3, 1, 1)),
    ),
    "NRM": Family(
        "norm of a matrix", "reduce:function=l2,shape={batch}x{m}x{n},axes=1x2", ("m", "n"), ((256, 256), (512, 512), (1024, 1024), (4096, 1024)),
    ),
    "CBR": Family(
        "convolution, bias, relu", _CONV2D + ",epilogue=bias+relu", _CONV2D_NAMES,
        (_PLANES[0], (56, 56, 64, 128, 3, 2, 1), (28, 28, 128, 256, 1, 2, 0), _PLANES[3]),
    ),
    "TBG": Family(
        "transpose, batched product", "einsum:equation=bihd.bjhd.bhij,sizes=b{batch}.i{l}.j{l}.h{h}.d{d}", ("l", "h", "d"),
        ((128, 12, 64), (128, 16, 64), (64, 12, 128), (128, 12, 128)),
    ),
    "SFM": Family("softmax of rows", "softmax:shape={m}x{n},axis=1", ("m", "n"), ((256, 256), (512, 512), (1024, 1024), (2048, 2048))),
    "ATT": Family(
        "attention", "attention:batch={batch},heads={h},queries={l},keys={l},dim={d}", ("h", "l", "d"),
        ((12, 128, 64), (12, 512, 64), (8, 1024, 64), (16, 257, 64)),
    ),
}  # fmt: skip
