"""What the tuner and its workers say to each other, over a pair of connected sockets: jobs one way, answers the other.

A message is a length (8 bytes), that many bytes of JSON, and raw blobs (object code) whose lengths the JSON tells. Nothing that is received is
ever executed or unpickled.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

# A worker writes this to its standard error before each job, so that the last words of one are not taken for the next one's.
JOB_MARK = b"\x1e"

_LENGTH = struct.Struct("<Q")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Message:
    """`header` holds JSON values."""

    header: Mapping[str, Any]
    blobs: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What became of a job: its result (JSON values, and bytes if there are any), or a failure: its class in a word, and one line about it."""

    result: Mapping[str, Any]
    blob: bytes = b""
    failure: str = ""
    message: str = ""

    @staticmethod
    def failed(failure: str, message: str) -> Answer:
        return Answer({}, b"", failure, first_line(message))

    def to_message(self) -> Message:
        return Message({"result": dict(self.result), "failure": self.failure, "message": self.message}, (self.blob,))

    @staticmethod
    def from_message(message: Message) -> Answer:
        header = message.header
        return Answer(header["result"], message.blobs[0], header["failure"], header["message"])


class Job(Protocol):
    """What a worker can do. `name` tells it which class of its table of jobs a message is for."""

    name: ClassVar[str]

    def to_message(self) -> Message: ...

    @classmethod
    def from_message(cls, message: Message) -> Self: ...

    def run(self) -> Answer:
        """In the worker. May raise what the worker's table of failures knows; anything else ends the worker."""
        ...


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def send(channel: socket.socket, message: Message, deadline: float | None = None) -> None:
    """`TimeoutError` if the other side does not take it before `deadline` (of `time.monotonic`), `ConnectionError` if it is gone."""
    text = json.dumps({"header": message.header, "lengths": [len(blob) for blob in message.blobs]}).encode()
    channel.settimeout(_left(deadline))
    channel.sendall(b"".join((_LENGTH.pack(len(text)), text, *message.blobs)))


def receive(channel: socket.socket, deadline: float | None = None) -> Message | None:
    """The next message, or None if the other side has ended. `TimeoutError` if it is not complete before `deadline` (of `time.monotonic`),
    `ConnectionError` if the other side ended without reading all that it was sent."""
    try:
        (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size, deadline))
        frame = json.loads(_read(channel, length, deadline))
        return Message(frame["header"], _read_all(channel, frame["lengths"], deadline))
    except EOFError:
        return None


def _read_all(channel: socket.socket, lengths: Sequence[int], deadline: float | None) -> tuple[bytes, ...]:
    return tuple([_read(channel, length, deadline) for length in lengths])


def _read(channel: socket.socket, length: int, deadline: float | None) -> bytes:
    parts = []
    while length:
        channel.settimeout(_left(deadline))
        part = channel.recv(min(length, _CHUNK_BYTES))
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _left(deadline: float | None) -> float | None:
    """Seconds until `deadline`. A little where it has passed: an answer that is already there counts, as after the tuner itself was stopped for a while."""
    return None if deadline is None else max(deadline - time.monotonic(), 1e-3)
