"""Where the buffers of a nest lie: what a caller passes, and what the workspace holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ir.nest import Buffer, Nest

ALIGNMENT = 64  # bytes, of every buffer in the workspace: a cache line and the widest vector


@dataclass(frozen=True)
class WorkspaceLayout:
    """Byte offsets of workspace buffers: shared ones from the start, private ones from the start of a thread's part."""

    offsets: Mapping[str, int]
    shared_bytes: int
    private_bytes: int

    def total_bytes(self, threads: int) -> int:
        return self.shared_bytes + threads * self.private_bytes


def workspace_layout(nest: Nest) -> WorkspaceLayout:
    offsets: dict[str, int] = {}
    ends = {"shared": 0, "private": 0}
    for scope in ends:
        for buffer in nest.in_scope(scope):
            offsets[buffer.name] = ends[scope]
            ends[scope] += -(-buffer.n_bytes // ALIGNMENT) * ALIGNMENT
        if ends[scope] // ALIGNMENT % 2 == 0 and ends[scope]:
            ends[scope] += ALIGNMENT  # an odd number of lines between threads' parts keeps them from falling on the same cache sets
    return WorkspaceLayout(offsets, ends["shared"], ends["private"])


def argument_buffers(nest: Nest) -> tuple[Buffer, ...]:
    """The buffers whose pointers a caller passes, in order."""
    return tuple(buffer for buffer in nest.buffers if buffer.scope in ("input", "output", "prepared"))
