import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen.protocol import Answer, Message, receive, send

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
MESSAGES = st.builds(Message, st.dictionaries(st.text(), JSON, max_size=4), st.lists(st.binary(max_size=100), max_size=3).map(tuple))


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@given(st.lists(MESSAGES, max_size=4))
def test_messages_arrive_as_they_were_sent(messages: list[Message]) -> None:
    left, right = socket.socketpair()
    with left, right:
        for message in messages:
            send(left, message)
        left.close()
        assert [receive(right) for _ in messages] == messages
        assert receive(right) is None


def test_large_messages(channel: tuple[socket.socket, socket.socket]) -> None:
    """Larger than what a channel holds."""
    message = Message({"text": "x" * 3_000_000}, (bytes(5_000_000), b"", bytes(range(256)) * 10_000))
    sender = threading.Thread(target=send, args=(channel[0], message))
    sender.start()
    assert receive(channel[1], time.monotonic() + 30) == message
    sender.join()


@given(st.builds(Answer, st.dictionaries(st.text(), JSON, max_size=3), st.binary(max_size=20), st.text(), st.text()))
def test_answers(answer: Answer) -> None:
    assert Answer.from_message(answer.to_message()) == answer


@pytest.mark.parametrize(("text", "line"), [("", ""), ("one", "one"), ("\n  first \nsecond\n", "first"), ("a\r\nb", "a")])
def test_a_failure_has_one_line(text: str, line: str) -> None:
    assert Answer.failed("build", text) == Answer({}, b"", "build", line)


def test_no_answer_in_time(channel: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(TimeoutError):
        receive(channel[0], time.monotonic() + 0.01)
    channel[1].sendall(b"\x10\0\0")  # not even its length
    with pytest.raises(TimeoutError):
        receive(channel[0], time.monotonic() + 0.01)


def test_nobody_takes_it_in_time(channel: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(TimeoutError):
        send(channel[0], Message({}, (bytes(10_000_000),)), time.monotonic() + 0.01)


def test_an_answer_that_is_there_counts_after_its_time(channel: tuple[socket.socket, socket.socket]) -> None:
    send(channel[0], Message({"a": 1}, (b"b",)))
    assert receive(channel[1], time.monotonic() - 1) == Message({"a": 1}, (b"b",))


def test_the_end_of_the_other_side(channel: tuple[socket.socket, socket.socket]) -> None:
    channel[1].sendall(b"\x10\0\0")
    channel[1].close()
    assert receive(channel[0]) is None
    with pytest.raises(ConnectionError):
        send(channel[0], Message({}))


def test_the_other_side_ended_before_it_read_what_it_was_sent(channel: tuple[socket.socket, socket.socket]) -> None:
    send(channel[0], Message({}))
    channel[1].close()
    with pytest.raises(ConnectionError):
        receive(channel[0])
