"""How well measurements repeat, on times that are known."""

import numpy as np
import pytest
from data_samples import failed, record

from data.repeatability import repeatability, successful_bound


def twice(*times, **changes):
    """A record and its repeat for each pair of times."""
    found = []
    for i, (first, second) in enumerate(times):
        found.append(record(row=(i, 1), seconds=(first, 1.5 * first, 2 * first), kind="sample", **changes))
        found.append(record(row=(i, 1), seconds=(second,), kind="repeat", **changes))
    return found


def test_agreement_counts_pairs_of_one_task():
    found = repeatability([*twice((1.0, 1.1), (2.0, 2.0), (3.0, 1.5)), *twice((1.0, 1.0), task="another")])
    assert (found.n_candidates, found.n_pairs) == (4, 3)
    assert found.agreement == pytest.approx(2 / 3)
    assert found.noise == pytest.approx(0.05)
    assert found.spread == pytest.approx(0.5)


def test_equal_times_count_half():
    assert repeatability(twice((1.0, 1.0), (1.0, 2.0))).agreement == 0.5


def test_nothing_repeated_says_nothing():
    found = repeatability([record(), record(row=(1, 1))])
    assert (found.n_pairs, found.agreement, found.pairwise_bound, found.noise) == (0, None, None, None)
    assert repeatability([]).spread is None
    lonely = repeatability(twice((1.0, 1.2)))
    assert (lonely.n_candidates, lonely.agreement, lonely.noise) == (1, None, pytest.approx(0.2))


def test_failures_are_counted_and_finals_left_out():
    found = repeatability([*twice((1.0, 1.0), (2.0, 2.0)), record(row=(7, 7)), failed(row=(7, 7), kind="repeat"), record(row=(0, 1), kind="final")])
    assert (found.n_candidates, found.n_failed_once, found.agreement) == (2, 1, 1.0)


def test_the_bound_holds_for_a_model_that_knows_the_truth():
    """Seeded noise on known speeds: the truth orders single measurements about as well as the bound says, and not better."""
    rng = np.random.default_rng(0)
    truth = np.exp(rng.normal(0, 0.3, size=300))
    first, second = (truth * np.exp(rng.normal(0, 0.1, size=300)) for _ in range(2))
    found = repeatability(twice(*zip(first.tolist(), second.tolist(), strict=True)))
    i, j = np.triu_indices(300, 1)
    accuracy = np.mean((truth[i] < truth[j]) == (first[i] < first[j]))
    assert found.pairwise_bound is not None
    assert accuracy <= found.pairwise_bound + 0.005
    assert accuracy == pytest.approx(found.pairwise_bound, abs=0.04)


def test_pairs_with_a_failed_candidate_are_certain():
    """They are judged by pairwise accuracy too, so the bound counts them; pairs of two failed ones are not judged."""
    found = repeatability([*twice((1.0, 1.1), (2.0, 2.0), (3.0, 1.5)), failed(row=(7, 7)), failed(row=(8, 8))])
    assert found.mixed_share == pytest.approx(6 / 9)
    assert found.pairwise_bound == pytest.approx(6 / 9 + 3 / 9 * successful_bound(2 / 3))
    alone = repeatability(twice((1.0, 1.1), (2.0, 2.0), (3.0, 1.5)))
    assert (alone.mixed_share, alone.pairwise_bound) == (0.0, successful_bound(2 / 3))


@pytest.mark.parametrize(("agreement", "bound"), [(1.0, 1.0), (0.5, 0.5), (0.3, 0.5), (0.82, 0.9)])
def test_bounds(agreement, bound):
    assert successful_bound(agreement) == pytest.approx(bound)
