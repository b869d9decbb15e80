import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_samples import operator_texts, targets

from ir.errors import Unsupported
from ir.expression import ceil_div, less, mul, sub, symbol, where
from ir.operators import parse_operator
from schedule.rules import sketches
from schedule.space import Column, Space, sizes_up_to

settled = settings(deadline=None, max_examples=40)

TILE, GROUP, ORDER = symbol("tile"), symbol("group"), symbol("order")
# A tile of an axis of 20, groups of tiles, and three orders; at most 12 elements in a group.
SPACE = Space(
    (
        Column(TILE, (1, 2, 3, 5, 8, 20)),
        Column(GROUP, tuple(range(1, 21)), ceil_div(20, TILE)),
        Column(ORDER, (0, 1, 2), ordered=False),
    ),
    (sub(mul(TILE, GROUP), 12),),
)
ALL = np.array([[tile, group, order] for tile in (1, 2, 3, 5, 8, 20) for group in range(1, 21) for order in range(3)])
CANONICAL = ALL[ALL[:, 1] <= -(-20 // ALL[:, 0])]
VALID = CANONICAL[CANONICAL[:, 0] * CANONICAL[:, 1] <= 12]


def rows(X: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(row) for row in X.tolist()}


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """The space of some sketch."""
    program = parse_operator(draw(operator_texts()))[1]
    return draw(st.sampled_from(sketches(program, draw(targets())))).space


def test_canonical_cuts_what_is_above_the_maximum() -> None:
    expected = np.stack([ALL[:, 0], np.minimum(ALL[:, 1], -(-20 // ALL[:, 0])), ALL[:, 2]], axis=1)
    before = ALL.copy()
    assert (SPACE.canonical(ALL) == expected).all()
    assert np.array_equal(before, ALL)


def test_valid_is_every_limit() -> None:
    assert rows(CANONICAL[SPACE.valid(CANONICAL)]) == rows(VALID)
    two = Space(SPACE.columns, (*SPACE.limits, sub(ORDER, 1)))
    assert rows(CANONICAL[two.valid(CANONICAL)]) == {row for row in rows(VALID) if row[2] <= 1}
    assert Space(SPACE.columns).valid(CANONICAL).all()


def test_everything_is_drawn_and_nothing_else() -> None:
    assert rows(SPACE.draw(20000, np.random.default_rng(0))) == rows(CANONICAL)
    sample = SPACE.sample(5000, np.random.default_rng(0))
    assert len(sample) == 5000
    assert rows(sample) == rows(VALID)


def test_a_space_contains_its_rows_and_no_others() -> None:
    strange = np.array([[-7, 1, 0], [0, 1, 0], [10**15, 1, 0], [20, 2, 0], [5, 4, 0], [1, 1, 3]])
    assert (SPACE.contains(np.concatenate([VALID, strange])) == ([True] * len(VALID) + [False] * len(strange))).all()


@given(spaces(), st.integers(0, 2**32 - 1))
@settled
def test_a_space_contains_what_is_drawn_of_it(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = space.sample(100, rng)
    assert space.contains(X).all()
    children = space.mutate(X, rng)
    assert (space.contains(children) == space.valid(children)).all()


def test_small_axes_do_not_starve() -> None:
    """Where an earlier choice leaves four groups, each of the four is as likely as the others."""
    X = SPACE.draw(40000, np.random.default_rng(0))
    groups = X[X[:, 0] == 5, 1]
    assert set(groups) == {1, 2, 3, 4}
    shares = np.bincount(groups)[1:] / len(groups)
    assert (abs(shares - 0.25) < 0.02).all()


def test_one_value_stands_for_all_that_mean_the_same() -> None:
    """The order of a single group is no order."""
    order = Column(ORDER, (0, 1, 2), alike=where(less(1, GROUP), ORDER, 0), ordered=False)
    space = Space((*SPACE.columns[:2], order))
    expected = rows(CANONICAL[(CANONICAL[:, 1] > 1) | (CANONICAL[:, 2] == 0)])
    assert rows(space.canonical(CANONICAL)) == expected
    assert rows(space.draw(20000, np.random.default_rng(0))) == expected
    drawn = space.draw(2000, np.random.default_rng(1))
    assert rows(space.mutate(drawn, np.random.default_rng(2))) <= expected
    assert rows(space.crossover(drawn, drawn[::-1], np.random.default_rng(2))) <= expected


def test_a_maximum_between_choices_is_itself_a_value() -> None:
    space = Space((Column(TILE, (3,)), Column(GROUP, (1, 2, 4, 16), ceil_div(20, TILE))))
    assert set(space.draw(500, np.random.default_rng(0))[:, 1]) == {1, 2, 4, 7}


@settled
@given(spaces(), st.integers(0, 9))
def test_populations_are_canonical_and_samples_valid(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn, sample = space.draw(64, rng), space.sample(64, rng)
    crossed = space.crossover(sample, sample[::-1], rng)
    for X in (drawn, sample, space.mutate(sample, rng), crossed):
        assert X.shape == (64, len(space.columns))
        assert X.dtype == np.int64
        assert (space.canonical(X) == X).all()
        for column, values in zip(space.columns, X.T, strict=True):
            assert values.min() >= min(column.choices[0], 1)
            assert values.max() <= column.choices[-1]
            assert column.maximum is not None or set(values.tolist()) <= set(column.choices)
    assert space.valid(sample).all()


@settled
@given(spaces(), st.integers(0, 9))
def test_canonical_is_idempotent_on_anything_and_changes_no_choice_within_its_maximum(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = np.stack([rng.choice(column.choices, size=200) for column in space.columns], axis=1) if space.columns else np.zeros((200, 0), np.int64)
    once = space.canonical(X)
    assert (space.canonical(once) == once).all()
    free = np.array([column.alike is None for column in space.columns], dtype=bool)
    assert (once <= X)[:, free].all()
    assert (once == X)[:, free & np.array([column.maximum is None for column in space.columns], dtype=bool)].all()


@settled
@given(spaces(), st.integers(0, 9))
def test_mutation_changes_one_to_three_columns_but_for_what_follows_from_them(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = space.sample(200, rng)
    before = X.copy()
    Y = space.mutate(X, rng)
    assert np.array_equal(before, X)
    # Another column only moves when an earlier one has lowered its maximum, or made it the same as another choice.
    differs = Y != X
    free = [column.maximum is None and column.alike is None for column in space.columns]
    assert (differs[:, free].sum(axis=1) <= 3).all()
    assert differs.any() or not space.columns


def test_mutation_reaches_neighbours_and_everything() -> None:
    X = np.tile(np.array([[3, 2, 0]]), (4000, 1))
    Y = SPACE.mutate(X, np.random.default_rng(0))
    changed = Y[(Y[:, 1] == 2) & (Y[:, 2] == 0), 0]
    assert set(changed) == {1, 2, 3, 5, 8}  # a tile of 20 leaves one group only
    counts = {size: int((changed == size).sum()) for size in (1, 2, 5, 8)}
    assert min(counts.values()) > 100


@settled
@given(spaces(), st.integers(0, 9))
def test_crossover_takes_each_column_from_a_parent(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    A, B = space.sample(100, rng), space.sample(100, rng)
    child = space.crossover(A, B, rng)
    inherited = (child == A) | (child == B)
    assert inherited[:, [column.maximum is None and column.alike is None for column in space.columns]].all()
    cut = child < np.maximum(A, B)
    assert (inherited | cut)[:, [column.alike is None for column in space.columns]].all()


@settled
@given(spaces(), st.integers(0, 9))
def test_the_seed_decides(space: Space, seed: int) -> None:
    def walk() -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        X = space.sample(20, rng)
        return [X, space.mutate(X, rng), space.crossover(X, X[::-1], rng), space.row({}, rng)]

    for one, other in zip(walk(), walk(), strict=True):
        assert (one == other).all()


SAMPLE_IN_ANOTHER_PROCESS = """
import hashlib, sys
import numpy as np
from ir.operators import parse_operator
from schedule.rules import sketches
from schedule.target import Target
target = Target("generic", "", 8, 16, 1 << 15, 1 << 20, 1 << 25, 4)
for text in ("conv2d:c=12,h=9,w=20,k=32,r=3,s=3,pad=1,layout=nchwc,epilogue=bias", "matmul:m=1,n=40,k=640,b=variable"):
    for sketch in sketches(parse_operator(text)[1], target):
        rng = np.random.default_rng(7)
        X = sketch.space.sample(100, rng)
        rows = [X, sketch.space.mutate(X, rng), sketch.default_row()]
        print(sketch.name, [s.name for s in sketch.space.symbols], *(hashlib.sha256(row.tobytes()).hexdigest() for row in rows))
"""


def test_the_seed_decides_in_another_process_too() -> None:
    answers = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", SAMPLE_IN_ANOTHER_PROCESS], cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, check=True
        )
        answers.add(run.stdout)
    assert len(answers) == 1
    assert answers.pop().count("\n") > 3


def test_neighbours_differ_by_one_step() -> None:
    assert rows(SPACE.neighbours(np.array([3, 2, 1]))) == {(2, 2, 1), (5, 2, 1), (3, 1, 1), (3, 3, 1), (3, 2, 0), (3, 2, 2)}
    assert rows(SPACE.neighbours(np.array([1, 12, 0]))) == {(2, 10, 0), (1, 11, 0), (1, 12, 1), (1, 12, 2)} & rows(VALID)
    assert rows(SPACE.neighbours(np.array([5, 2, 0]))) == {(3, 2, 0), (5, 1, 0), (5, 2, 1), (5, 2, 2)}  # three groups of five are no more than twelve


def test_neighbours_of_a_value_between_two_choices() -> None:
    space = Space((Column(TILE, (1, 2, 3, 5, 8, 20)), Column(GROUP, (1, 2, 4, 8, 16), ceil_div(20, TILE))))
    assert rows(space.neighbours(np.array([3, 7]))) == {(2, 7), (5, 4), (3, 4)}


@settled
@given(spaces(), st.integers(0, 2**32 - 1))
def test_neighbours_are_other_rows_of_the_space(space: Space, seed: int) -> None:
    for row in space.sample(8, np.random.default_rng(seed)):
        X = space.neighbours(row)
        assert space.contains(X).all()
        assert len(rows(X)) == len(X)
        assert tuple(row.tolist()) not in rows(X)


def test_a_wish_that_is_valid_is_granted() -> None:
    assert SPACE.row({"tile": 3, "group": 4, "order": 2}, np.random.default_rng(0)).tolist() == [[3, 4, 2]]
    assert SPACE.row({"tile": 8, "group": 99}, np.random.default_rng(0)).shape == (1, 3)


def test_a_wish_above_its_maximum_is_cut() -> None:
    space = Space(SPACE.columns)
    assert space.row({"tile": 5, "group": 99}, np.random.default_rng(0)).tolist() == [[5, 4, 0]]


def test_a_wish_that_is_not_valid_becomes_a_row_that_is() -> None:
    row = SPACE.row({"tile": 20, "group": 1}, np.random.default_rng(0))
    assert SPACE.valid(row).all()
    assert rows(row) <= rows(VALID)


def test_a_space_without_a_valid_row() -> None:
    empty = Space(SPACE.columns, (sub(21, TILE),))
    assert empty.sample(5, np.random.default_rng(0)).shape == (0, 3)
    with pytest.raises(Unsupported, match="no sizes of tiles are known that keep code and workspace within their limits"):
        empty.row({}, np.random.default_rng(0))


def test_rare_rows_are_found_though_fewer() -> None:
    rare = Space((Column(TILE, tuple(range(1, 2001))),), (sub(TILE, 1),))
    found = rare.sample(1000, np.random.default_rng(0))
    assert 0 < len(found) < 1000
    assert (found == 1).all()


def test_a_space_without_choices_has_one_row() -> None:
    space, rng = Space(()), np.random.default_rng(0)
    for X in (space.draw(3, rng), space.sample(3, rng), space.mutate(np.zeros((3, 0), np.int64), rng)):
        assert X.shape == (3, 0)
    assert space.row({}, rng).shape == (1, 0)


@pytest.mark.parametrize("limit", [1, 2, 16, 17, 100, 1000, 1 << 24])
def test_sizes_go_up_to_the_limit(limit: int) -> None:
    sizes = sizes_up_to(limit, [3, limit // 3, limit + 1])
    assert list(sizes) == sorted(set(sizes))
    assert sizes[0] == 1
    assert sizes[-1] == limit
    assert limit // 3 in sizes or limit < 3
    assert all(after <= before * 1.25 or after - before <= 1 for before, after in itertools.pairwise(sizes))
    assert len(sizes) < 110
