"""Whether a machine is quiet, and what its limits are then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from codegen.limits import Limits, Noise, Rate
from codegen.machine import Cache, detect_machine
from tilewright.this_machine import is_quiet, quiet_limits

MACHINE = detect_machine(1)


def limits(threads: int, scaling: float) -> Limits:
    one, together = Rate(100.0, 99.0), Rate(100.0 * scaling, 99.0 * scaling)
    return Limits(threads, one, together, together, (), Noise(1.0, 1.0), 0.4)


@pytest.mark.parametrize(
    ("shared_by", "threads", "scaling", "quiet"), [(1, 8, 7.9, True), (1, 8, 4.1, False), (2, 8, 4.1, True), (2, 8, 3.1, False), (2, 4, 3.1, False)]
)
def test_two_threads_of_a_core_are_no_faster_than_one(shared_by: int, threads: int, scaling: float, quiet: bool) -> None:
    machine = replace(MACHINE, cpus_allowed=8, caches=(Cache(1, 32 << 10, shared_by), *MACHINE.caches[1:]))
    assert is_quiet(limits(threads, scaling), machine) == quiet


def test_of_a_disturbed_machine_the_fastest_of_three_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, scalings = replace(MACHINE, cpus_allowed=2), iter((1.1, 1.4, 1.2))
    monkeypatch.setattr("tilewright.this_machine.measure_limits", lambda *_: limits(2, next(scalings)))
    assert quiet_limits(machine).fma_scaling == 1.4
    assert next(scalings, None) is None
