"""The machine that measures: what records keep of it, and what it can do while nothing else runs."""

from __future__ import annotations

from codegen.limits import Limits, measure_limits
from codegen.machine import Machine

LIMITS_SECONDS = 0.4  # for measuring the machine's limits before tuning
QUIET_SCALING = 0.8  # of the FMA peak over that of one thread, for each core that is used: below it the machine is not quiet


def machine_record(machine: Machine) -> dict[str, str | int]:
    """The machine as records keep it: what decides which code can run and how fast; the thread count stands beside it."""
    target = {name: value for name, value in machine.target.to_json().items() if name != "threads"}
    return {"cpu_model": machine.cpu_model, **target}


def is_quiet(limits: Limits, machine: Machine) -> bool:
    """Whether the threads together were about as fast as they should be: two on one core are no faster than one."""
    return limits.fma_scaling >= QUIET_SCALING * min(limits.threads, machine.cores)


def quiet_limits(machine: Machine) -> Limits:
    """The machine's limits; measured again, at most twice, where the threads together were so slow that something else must have kept a CPU."""
    limits = measure_limits(machine.target, LIMITS_SECONDS)
    for _ in range(2):
        if is_quiet(limits, machine):
            break
        again = measure_limits(machine.target, LIMITS_SECONDS)
        limits = max(limits, again, key=lambda each: each.fma_gflops_all.best)
    return limits
