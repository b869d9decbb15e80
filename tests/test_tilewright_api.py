"""The Python interface, asked for what makes no sense."""

from __future__ import annotations

import pytest

import tilewright as tw
from ir.errors import UserError


@pytest.mark.parametrize(("what", "found"), [(None, "NoneType"), (3, "int"), ([tw.matmul(8, 8, 8), 3], "int"), ([None], "NoneType")])
def test_what_is_no_task_cannot_be_tuned(what, found):
    with pytest.raises(UserError, match=rf"^expected a task, or the text of an operator, got {found}$"):
        tw.tune(what, max_trials=1)


def test_nothing_cannot_be_tuned():
    with pytest.raises(UserError, match=r"^there is no task to tune$"):
        tw.tune([], max_trials=1)


def test_words_for_numbers_are_told_as_they_were_written():
    with pytest.raises(UserError, match=r"pad='same' is no whole number"):
        tw.conv2d(1, 8, 8, 8, 8, 3, 3, pad="same")


def test_numbers_of_two_directions():
    assert tw.conv2d(1, 8, 9, 9, 8, 3, 3, stride=(2, 1), pad=(1, 0)) == tw.conv2d(1, 8, 9, 9, 8, 3, 3, stride=[2, 1], pad=(1, 0, 1, 0))
