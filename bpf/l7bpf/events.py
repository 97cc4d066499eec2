# SPDX-License-Identifier: Apache-2.0
"""Dropped packets, as the datapath reports them, and what passed while somebody listens.

Wait for `fileno()` to be readable, then `drain()`. One reader per datapath: two would share the records between them.
Never waits; what did not fit a ring, or went beyond the rate, is counted in `metrics`: METRIC_EVENTS_LOST and, of what
passed, METRIC_PASSED_LOST.
"""

import os
from pathlib import Path
from typing import Self

from l7bpf import libbpf
from l7bpf.errors import DatapathError
from l7bpf.layouts import Event


class EventReader:
    """The reading end of the ring of events."""

    def __init__(self, pins: Path) -> None:
        fds: list[int] = []
        try:
            path = pins / "maps/events"
            fds.append(libbpf.obj_get(path))
            passed = pins / "maps/passed"
            if passed.exists():  # not in layout v1
                fds.append(libbpf.obj_get(passed))
            self._ring = libbpf.RingBuffer(*fds)  # maps the memory: the descriptors are not needed further
        except OSError as error:
            raise DatapathError(f"{path}: {error.strerror}; is the datapath loaded?") from error
        finally:
            for fd in fds:
                os.close(fd)

    def fileno(self) -> int:
        """For select, epoll or `loop.add_reader`."""
        return self._ring.fileno()

    def drain(self, limit: int = 4096) -> list[Event]:
        """What is there now, oldest first, at most `limit`. Ask again while it returns that many."""
        return [Event.unpack(record) for record in self._ring.consume(limit)]

    def close(self) -> None:
        self._ring.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
