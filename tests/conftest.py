"""`make test` draws the same examples each time: a commit that passed passes again. `pytest --hypothesis-profile=explore` and `make fuzz` draw others."""

import signal

import pytest
from hypothesis import HealthCheck, settings
from machines import MACHINES, Machine

from costmodel import training

ANY_SPEED = [HealthCheck.too_slow]  # how fast examples are drawn says something of the machine, and of what else it does
settings.register_profile("repeatable", derandomize=True, suppress_health_check=ANY_SPEED)
settings.register_profile("explore", derandomize=False, suppress_health_check=ANY_SPEED)
settings.load_profile("repeatable")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C, and so would the processes that tests interrupt


@pytest.fixture(scope="module", params=MACHINES)
def machine(request: pytest.FixtureRequest) -> Machine:
    """Each machine that tests know; skipped where nothing can be run on it."""
    found = MACHINES[request.param]
    if found.missing is not None:
        pytest.skip(found.missing)
    return found


@pytest.fixture
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of those of a model that learns from a campaign: what is held out, kept, refused and drawn does not hang on their number."""
    monkeypatch.setattr(training, "PRETRAINING", {**training.PRETRAINING, "n_estimators": 50, "n_throughput_trees": 20})
