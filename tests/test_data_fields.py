import math
import re

import numpy as np
import pytest

from data import fields


@pytest.mark.parametrize(
    ("parse", "value", "kept"),
    [
        (fields.text, "", ""),
        (fields.name, "a b", "a b"),
        (fields.word, "", ""),
        (fields.word, "out-of_memory2", "out-of_memory2"),
        (fields.whole(), -(2**63), -(2**63)),
        (fields.whole(1), np.int64(7), 7),
        (fields.text_or_whole, np.int32(7), 7),
        (fields.text_or_whole, "7", "7"),
        (fields.duration, 0, 0.0),
        (fields.time, np.float32(0.5), 0.5),
        (fields.score, math.nan, None),
        (fields.score, None, None),
        (fields.score, 1, 1.0),
        (fields.many(fields.time), [1, 2.0], (1.0, 2.0)),
        (fields.message, "a\n  b\tc\r\n", "a b c"),
        (fields.message, "a\x1b[31m\udc80", "a\ufffd[31m\ufffd"),
    ],
)
def test_kept_in_one_canonical_form(parse: fields.Parser, value: object, kept: object) -> None:
    found = parse(value)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    ("parse", "value", "words"),
    [
        (fields.text, "a\nb", "is 'a\\nb', not printable text on one line"),
        (fields.text, "\ud800", "not printable text on one line"),
        (fields.text, 3, "is 3, not printable text"),
        (fields.name, "", "is empty"),
        (fields.word, "Out of memory", "not a word of small letters"),
        (fields.word, None, "is None, not a word"),
        (fields.one_of("warm", "cold"), "hot", "is 'hot', not one of warm, cold"),
        (fields.message, None, "is None, not text"),
        (fields.whole(), 2**63, "not a whole number"),
        (fields.whole(1), 0, "is 0, not a whole number from 1"),
        (fields.whole(), True, "is True, not a whole number"),
        (fields.whole(), 1.0, "is 1.0, not a whole number"),
        (fields.whole(), "1", "is '1', not a whole number"),
        (fields.time, 0.0, "is 0.0, not a positive time"),
        (fields.time, 5e-324, "is 5e-324, a time shorter than 1e-12 seconds, which nothing takes"),
        (fields.time, 10**400, "000, not a finite number"),
        (fields.whole(0, 9), 10, "is 10, not a whole number from 0 to 9"),
        (fields.time, math.nan, "is nan, not a finite number"),
        (fields.time, math.inf, "is inf, not a finite number"),
        (fields.time, "1", "is '1', not a finite number"),
        (fields.duration, -1e-9, "a negative time"),
        (fields.score, 1.5, "is 1.5, not between 0 and 1"),
        (fields.switch, 1, "is 1, neither true nor false"),
        (fields.many(fields.time), "12", "is '12', not a list"),
        (fields.many(fields.time), [1.0, -1.0], "holds what is -1.0, not a positive time"),
        (fields.table(fields.text), ["a"], "not a table of names and values"),
        (fields.table(fields.text), {"": "a"}, "holds what is empty"),
        (fields.table(fields.text), {"a": 1}, "holds what is 1, not printable text"),
        (fields.text_or_whole, False, "is False, not a whole number"),
        (fields.text_or_whole, 1.5, "is 1.5, not a whole number"),
    ],
)
def test_refused_with_what_was_found(parse: fields.Parser, value: object, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse(value)


@pytest.mark.parametrize(
    ("one_by_one", "together", "plain", "odd"),
    [
        (fields.whole(), fields.are_whole, [3, 1, 2], [0, -(2**63), 2**63 - 1, 2**63, -(2**63) - 1, True, 1.0, "1", None, np.int64(7)]),
        (
            fields.time,
            fields.are_times,
            [3.0, 1.0, 2.0],
            [1e-12, 1.7e308, 5e-324, 0.0, -1.0, math.nan, math.inf, -math.inf, 1, True, "1", None, np.float64(0.5), 10**400],
        ),
    ],
)
def test_lists_that_are_told_together_are_kept_as_one_by_one(one_by_one, together, plain, odd) -> None:
    assert together(plain)
    assert not together([])
    for value in odd:
        for values in ([value], [value, *plain], [*plain, value], [plain[0], value, value]):
            found = [_outcome(fields.many(one_by_one, *how), values) for how in ((), (together,))]
            assert found[0] == found[1], values


def _outcome(parse: fields.Parser, values: object) -> object:
    """What is kept, with the types, or what is said."""
    try:
        kept = parse(values)
    except ValueError as error:
        return str(error)
    return kept, [type(value) for value in kept]


def test_a_parsed_table_is_taken_as_it_is_by_its_own_parser_alone() -> None:
    parse = fields.table(fields.text_or_whole)
    kept = parse({"lanes": 8})
    assert parse(kept) is kept
    with pytest.raises(ValueError, match="holds what is 8"):
        fields.table(fields.text)(kept)


def test_names_are_checked_whether_or_not_their_like_came_before() -> None:
    assert fields.names(["m", "n"]) is fields.names(("m", "n"))
    for wrong in (["m", ""], ["m", ["n"]], ["m", 1]):
        for _ in range(2):
            with pytest.raises(ValueError, match="holds what is"):
                fields.names(wrong)


def test_a_flood_is_cut() -> None:
    kept = fields.message("x" * 10**6)
    assert len(kept) == fields.MAX_MESSAGE
    assert kept.endswith("…")
    assert fields.message(kept) == kept
