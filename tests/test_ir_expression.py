import itertools
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ir import expression
from ir.expression import (
    OPERATIONS,
    Evaluator,
    Expr,
    Op,
    add,
    both,
    ceil_div,
    equal,
    floor_div,
    interval,
    less,
    maximum,
    minimum,
    mod,
    mul,
    post_order,
    sub,
    substitute,
    symbol,
    symbols_of,
    take,
    text,
    value,
    where,
)

A, B, C = symbol("a"), symbol("b"), symbol("c")
SYMBOLS = [A, B, C]
NAMES = ["a", "b", "c"]
TABLE = (5, -3, 0, 7)

# A tree is a name, a number, or an operation with its trees; it knows nothing of the code under test.
Tree = str | int | tuple[object, ...]

numbers = st.integers(-8, 8)
leaves = st.one_of(st.sampled_from(NAMES), st.sampled_from(NAMES), numbers)
settled = settings(deadline=None, max_examples=150)


def _operations(trees: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    divisors = st.one_of(st.integers(1, 9), trees.map(lambda tree: ("max", tree, 1)))
    return st.one_of(
        st.tuples(st.sampled_from(["add", "sub", "mul", "min", "max", "less", "equal"]), trees, trees),
        st.tuples(st.sampled_from(["floor_div", "ceil_div", "mod"]), trees, divisors),
        st.tuples(st.just("both"), st.tuples(st.just("less"), trees, trees), st.tuples(st.just("equal"), trees, trees)),
        st.tuples(st.just("where"), trees, trees, trees),
        trees.map(lambda tree: ("take", ("mod", tree, len(TABLE)))),
    )


trees = st.recursive(leaves, _operations, max_leaves=9)
populations = st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=8)


def built(tree: Tree) -> Expr:
    """The tree made by the functions under test."""
    match tree:
        case str():
            return symbol(tree)
        case int():
            return tree
        case ("take", index):
            return take(built(index), TABLE)
    build = {"add": add, "sub": sub, "mul": mul, "floor_div": floor_div, "ceil_div": ceil_div, "mod": mod, "min": minimum,
             "max": maximum, "less": less, "equal": equal, "both": both, "where": where}  # fmt: skip
    return build[tree[0]](*(built(part) for part in tree[1:]))


def meant(tree: Tree, values: Mapping[str, int]) -> int:
    """What the tree means, by arithmetic with fractions."""
    match tree:
        case str():
            return values[tree]
        case int():
            return tree
    name, *args = tree[0], *(meant(part, values) for part in tree[1:])
    match name, args:
        case "add", (a, b):
            return a + b
        case "sub", (a, b):
            return a - b
        case "mul", (a, b):
            return a * b
        case "floor_div", (a, b):
            return floor(Fraction(a, b))
        case "ceil_div", (a, b):
            return ceil(Fraction(a, b))
        case "mod", (a, b):
            return a - b * floor(Fraction(a, b))
        case "min", (a, b):
            return a if a < b else b
        case "max", (a, b):
            return a if a > b else b
        case "less", (a, b):
            return 1 if a < b else 0
        case "equal", (a, b):
            return 1 if a == b else 0
        case "both", (a, b):
            return 1 if a != 0 and b != 0 else 0
        case "where", (condition, a, b):
            return a if condition != 0 else b
        case "take", (a,):
            return TABLE[a]
    raise AssertionError(tree)


@settled
@given(trees, st.tuples(numbers, numbers, numbers))
def test_simplification_keeps_the_value(tree: Tree, values: Sequence[int]) -> None:
    expected = meant(tree, dict(zip(NAMES, values, strict=True)))
    assert value(built(tree), dict(zip(SYMBOLS, values, strict=True))) == expected


@settled
@given(trees, st.tuples(numbers, numbers, numbers), st.integers(0, 7))
def test_symbols_may_be_known_one_after_the_other(tree: Tree, values: Sequence[int], first: int) -> None:
    known = dict(zip(SYMBOLS, values, strict=True))
    early = {each: known[each] for i, each in enumerate(SYMBOLS) if first >> i & 1}
    partial = substitute(built(tree), early)
    assert not symbols_of(partial) & set(early)
    assert value(partial, known) == meant(tree, dict(zip(NAMES, values, strict=True)))


@settled
@given(st.lists(trees, max_size=5), populations)
def test_a_population_is_evaluated_as_its_rows_are(roots: list[Tree], population: list[tuple[int, int, int]]) -> None:
    X = np.array(population, dtype=np.int64)
    expected = [[meant(root, dict(zip(NAMES, row, strict=True))) for root in roots] for row in population]
    result = Evaluator([built(root) for root in roots], SYMBOLS)(X)
    assert result.shape == (len(population), len(roots))
    assert result.tolist() == np.array(expected, dtype=float).reshape(result.shape).tolist()


def test_a_large_population_is_evaluated_as_its_rows_are() -> None:
    rng = np.random.default_rng(0)
    X = rng.integers(-50, 50, size=(5000, 3))
    condition = less(A, B)
    roots = [add(A, mul(B, C)), where(condition, A, mod(B, 7)), both(condition, equal(mod(C, 2), 0)), A, 3, add(A, mul(B, C))]
    a, b, c = X.T
    expected = np.stack([a + b * c, np.where(a < b, a, b % 7), (a < b) & (c % 2 == 0), a, np.full(len(X), 3), a + b * c], axis=1)
    assert (Evaluator(roots, SYMBOLS)(X) == expected).all()


def test_comparisons_are_numbers() -> None:
    one, other = less(A, B), less(B, C)
    roots = [add(one, other), sub(one, other), mul(add(one, other), 3), maximum(one, other), where(one, 5, other), take(one, (7, 8))]
    X = np.array(list(itertools.product(range(3), repeat=3)))
    a, b, c = X.T
    p, q = (a < b).astype(int), (b < c).astype(int)
    expected = np.stack([p + q, p - q, 3 * (p + q), np.maximum(p, q), np.where(p, 5, q), 7 + p], axis=1)
    assert (Evaluator(roots, SYMBOLS)(X) == expected).all()


def test_an_empty_population_and_no_roots() -> None:
    assert Evaluator([add(A, 1), 7], SYMBOLS)(np.zeros((0, 3), dtype=np.int64)).shape == (0, 2)
    assert Evaluator([], SYMBOLS)(np.zeros((4, 3), dtype=np.int64)).shape == (4, 0)


def test_division_of_a_population_is_exact_up_to_2_to_the_53() -> None:
    divisors = np.array([3, 7, 1000003, 94906265])
    X = np.array([[q * d + e, d, 0] for d in divisors for q in ((1 << 52) // d, 12345) for e in (-1, 0, 1)])
    result = Evaluator([floor_div(A, B), ceil_div(A, B), mod(A, B)], SYMBOLS)(X)
    assert (result == np.stack([X[:, 0] // X[:, 1], -(-X[:, 0] // X[:, 1]), X[:, 0] % X[:, 1]], axis=1)).all()


def test_a_symbol_without_a_column_is_named() -> None:
    with pytest.raises(ValueError, match=r"no column for the symbols \['c'\]"):
        Evaluator([add(A, C)], [A, B])


@settled
@given(trees, st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 3)), min_size=3, max_size=3))
def test_the_interval_holds_every_value(tree: Tree, starts: list[tuple[int, int]]) -> None:
    ranges = [(low, low + length) for low, length in starts]
    low, high = interval(built(tree), dict(zip(SYMBOLS, ranges, strict=True)))
    corners = itertools.product(*(range(first, last + 1) for first, last in ranges))
    values = [meant(tree, dict(zip(NAMES, corner, strict=True))) for corner in corners]
    assert low <= min(values)
    assert max(values) <= high


@pytest.mark.parametrize(
    ("root", "ranges", "expected"),
    [
        (add(mul(A, -2), 3), {A: (-1, 4)}, (-5, 5)),
        (mul(A, B), {A: (-2, 3), B: (-5, 4)}, (-15, 12)),
        (floor_div(A, B), {A: (-7, 20), B: (2, 3)}, (-4, 10)),
        (mod(A, 8), {A: (0, 3)}, (0, 3)),
        (mod(A, 8), {A: (0, 30)}, (0, 7)),
        (mod(A, 8), {A: (-1, 3)}, (0, 7)),
        (mod(A, B), {A: (0, 21), B: (3, 7)}, (0, 6)),
        (minimum(A, 5), {A: (2, 9)}, (2, 5)),
    ],
)
def test_intervals_that_are_tight(root: Expr, ranges: dict[expression.Symbol, tuple[int, int]], expected: tuple[int, int]) -> None:
    assert interval(root, ranges) == expected


@pytest.mark.parametrize("divide", [floor_div, ceil_div, mod])
def test_an_interval_asks_for_positive_divisors(divide: object) -> None:
    with pytest.raises(ValueError, match="the divisor may be 0"):
        interval(divide(A, B), {A: (0, 9), B: (0, 3)})


def test_equal_symbols_of_two_threads_are_one_object() -> None:
    """Made while another thread makes the same: whoever looks first does not see the other's."""
    missed = threading.Barrier(2, timeout=10)

    class Slow(weakref.WeakValueDictionary[str, expression.Symbol]):
        def get(self, name: str, default: expression.Symbol | None = None) -> expression.Symbol | None:
            found = super().get(name, default)
            missed.wait()
            return found

    with ThreadPoolExecutor(2) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(expression, "_symbols", Slow())
        one, other = pool.map(expression.symbol, ["both make it"] * 2)
    assert one is other


def test_equal_operations_of_two_threads_are_one_object() -> None:
    missed, looks = threading.Barrier(2, timeout=10), threading.Semaphore(2)

    class Slow(expression._Operations):
        def get(self, key: tuple[object, ...], default: object = None) -> object:
            found = super().get(key, default)
            if looks.acquire(blocking=False):
                missed.wait()
            return found

    with ThreadPoolExecutor(2) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(expression, "_operations", Slow())
        one, other = pool.map(lambda factor: less(A, factor), [7, 7])
        assert one is other is less(A, 7)


def test_an_operation_that_is_gone_is_made_anew() -> None:
    gone = weakref.ref(less(A, 1234567))
    assert gone() is None
    new = less(A, 1234567)
    assert less(A, 1234567) is new


def test_operations_that_are_gone_are_forgotten_and_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    known = expression._Operations()
    monkeypatch.setattr(expression, "_operations", known)
    monkeypatch.setattr(expression._Operations, "LEAST_TO_SWEEP", 100)
    known.sweep_at = 100
    chain: Expr = A
    for factor in range(2, 102):  # each refers to the one before
        chain = mod(chain, factor)
    kept = less(chain, 3)
    assert len(known) > 100  # all are in use
    del chain
    before = known.sweep_at
    for factor in range(2, 2000):
        less(A, factor)  # nothing refers to it
    assert len(known) <= before
    assert kept is less(kept.args[0], 3)
    del kept
    known.sweep()
    assert not known
    assert known.sweep_at == 100


@settled
@given(trees)
def test_equal_expressions_are_one_object(tree: Tree) -> None:
    for one, other in [(built(tree), built(tree)), (substitute(built(tree), {A: B}), substitute(built(tree), {A: B}))]:
        assert one == other if isinstance(one, int) else one is other


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (add(A, 1, B, -1), add(A, B)),
        (add(add(A, 2), add(B, 3)), add(A, B, 5)),
        (mul(A, 2, B, 3), mul(mul(A, B), 6)),
        (mul(A, B, 0), 0),
        (mul(), 1),
        (sub(A, 3), add(A, -3)),
        (sub(A, A), 0),
        (floor_div(A, 1), A),
        (ceil_div(A, A), 1),
        (mod(A, 1), 0),
        (minimum(A, A), A),
        (both(1, A), A),
        (both(A, 0), 0),
        (where(1, A, B), A),
        (where(A, B, B), B),
        (where(A, 1000, int("1000")), 1000),
        (take(A, (4, 4, 4)), 4),
        (take(2, (1, 2, 3)), 3),
        (floor_div(-7, 2), -4),
        (ceil_div(-7, 2), -3),
        (mod(-7, 4), 1),
    ],
)
def test_folding(made: Expr, expected: Expr) -> None:
    assert made is expected or made == expected


def test_every_operation_is_tried_above() -> None:
    """That the trees of these tests have all that evaluation knows."""
    seen = set[str]()

    @settings(settled, max_examples=500)
    @given(trees)
    def note(tree: Tree) -> None:
        seen.update(node.name for node in post_order([built(tree)]) if isinstance(node, Op))

    note()
    assert seen == set(OPERATIONS)


def test_post_order_visits_shared_parts_once_and_arguments_first() -> None:
    shared = mul(A, B)
    order = list(post_order([add(shared, C), sub(shared, C)]))
    assert len(order) == len(set(order)) == 6
    place = {node: i for i, node in enumerate(order)}
    assert all(place[arg] < place[node] for node in order if isinstance(node, Op) for arg in node.args)


def test_what_is_unknown_is_said() -> None:
    with pytest.raises(ValueError, match=r"b \+ 3 still depends on \['b'\]"):
        value(add(A, B), {A: 3})


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        (minimum(8, sub(56, mul(A, 8))), "min(8, 56 - (a*8))"),
        (add(mul(A, 8), B, -3), "a*8 + b - 3"),
        (mul(add(A, 1), B), "(a + 1)*b"),
        (sub(A, add(B, -3)), "a - (b - 3)"),
        (floor_div(add(A, -1), mod(B, 4)), "(a - 1) // (b % 4)"),
        (add(less(A, B), 1), "(a < b) + 1"),
        (add(less(A, B), -1), "(a < b) - 1"),
        (less(add(A, 1), B), "(a + 1) < b"),
        (both(less(A, B), equal(B, 0)), "(a < b) and (b == 0)"),
        (take(A, (1, 2)), "[1, 2][a]"),
        (where(A, ceil_div(B, 2), 0), "where(a, ceil_div(b, 2), 0)"),
        (-4, "-4"),
    ],
)
def test_text(root: Expr, expected: str) -> None:
    assert text(root) == expected
    assert isinstance(root, int) or repr(root) == expected


@pytest.mark.parametrize("reading", [text, lambda root: substitute(root, {}), lambda root: interval(root, {})])
def test_what_is_no_expression_is_refused(reading: object) -> None:
    with pytest.raises(TypeError, match=r"not an expression: 1\.5"):
        reading(1.5)
