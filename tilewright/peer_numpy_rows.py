"""Softmax, normalization and attention in numpy: a pass over everything for each step, in place where it can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from codegen.kernel import aligned_empty
from tilewright.problem import Array, Problem

Call: TypeAlias = Callable[[], Array]


def _softmax(problem: Problem) -> Call:
    x, axis, out = problem.arrays["x"], problem.parameters["axis"], aligned_empty(problem.shape)
    return lambda: _softmax_of(x, axis, out)


def _softmax_of(x: Array, axis: int, out: Array) -> Array:
    np.subtract(x, x.max(axis=axis, keepdims=True), out=out)
    np.exp(out, out=out)
    np.multiply(out, 1 / out.sum(axis=axis, keepdims=True), out=out)
    return out


def _log_softmax(problem: Problem) -> Call:
    x, axis = problem.arrays["x"], problem.parameters["axis"]
    out, powers = aligned_empty(problem.shape), aligned_empty(problem.shape)

    def run() -> Array:
        np.subtract(x, x.max(axis=axis, keepdims=True), out=out)
        np.exp(out, out=powers)
        np.subtract(out, np.log(powers.sum(axis=axis, keepdims=True)), out=out)
        return out

    return run


def _layer_norm(problem: Problem) -> Call:
    arrays = problem.arrays
    return _standardization(problem, tuple(problem.parameters["axes"]), arrays["scale"], arrays["bias"])


def _instance_norm(problem: Problem) -> Call:
    scale, bias = (problem.arrays[name][:, None, None] for name in ("scale", "bias"))
    return _standardization(problem, (2, 3), scale, bias)


def _standardization(problem: Problem, axes: tuple[int, ...], scale: Array, bias: Array) -> Call:
    x, epsilon = problem.arrays["x"], np.float32(problem.parameters["epsilon"])
    out, squares = aligned_empty(problem.shape), aligned_empty(problem.shape)

    def run() -> Array:
        np.subtract(x, x.mean(axis=axes, keepdims=True), out=out)
        np.square(out, out=squares)
        np.multiply(out, 1 / np.sqrt(squares.mean(axis=axes, keepdims=True) + epsilon), out=out)
        np.multiply(out, scale, out=out)
        np.add(out, bias, out=out)
        return out

    return run


def _rms_norm(problem: Problem) -> Call:
    x, scale, epsilon = problem.arrays["x"], problem.arrays["scale"], np.float32(problem.parameters["epsilon"])
    axes, out = tuple(problem.parameters["axes"]), aligned_empty(problem.shape)

    def run() -> Array:
        np.square(x, out=out)
        np.multiply(x, 1 / np.sqrt(out.mean(axis=axes, keepdims=True) + epsilon), out=out)
        np.multiply(out, scale, out=out)
        return out

    return run


def _batch_norm(problem: Problem) -> Call:
    """As a factor and a summand a channel, which are made beforehand."""
    x, scale, bias, mean, variance = (problem.arrays[name] for name in ("x", "scale", "bias", "mean", "variance"))
    factor = scale / np.sqrt(variance + np.float32(problem.parameters["epsilon"]))
    shift, out = bias - mean * factor, aligned_empty(problem.shape)

    def run() -> Array:
        np.multiply(x, factor[:, None, None], out=out)
        np.add(out, shift[:, None, None], out=out)
        return out

    return run


def _attention(problem: Problem) -> Call:
    given = problem.parameters
    q, k, v = (problem.arrays[name] for name in "qkv")
    result = out = aligned_empty(problem.shape)
    if given["layout"] == "bihd":
        q, k, v, out = (array.swapaxes(1, 2) for array in (q, k, v, out))
    score = aligned_empty((*q.shape[:-1], k.shape[-2]))

    def run() -> Array:
        np.matmul(q, k.swapaxes(-1, -2), out=score)
        np.multiply(score, problem.attention_scale, out=score)
        np.matmul(_softmax_of(score, -1, score), v, out=out)
        return result

    return run


ROWS: Mapping[str, Callable[[Problem], Call]] = {
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "attention": _attention,
}
