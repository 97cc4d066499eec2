# SPDX-License-Identifier: Apache-2.0
"""Properties of l7observe.tail and l7observe.logfile together: what one writes, in whatever steps, the other reads."""

import contextlib
import tempfile
from collections import deque
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from l7observe.logfile import LogFile
from l7observe.tail import Tail

BATCHES = st.lists(st.lists(st.integers(1, 60), max_size=6), max_size=12)


@settings(max_examples=60, deadline=None)
@given(batches=BATCHES, max_bytes=st.integers(1, 120), before=st.integers(0, 12))
def test_a_follower_reads_every_line_once_in_order(batches: list[list[int]], max_bytes: int, before: int) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder) / "audit.jsonl"
        # As many backups as there can be rotations, so that nothing is dropped by design.
        log = LogFile(path, max_bytes, 100)
        stack.callback(log.close)
        tail: Tail | None = None
        written: list[bytes] = []
        read: list[bytes] = []
        for number, batch in enumerate(batches):
            if number == before:
                tail = stack.enter_context(Tail(path))
                assert tail.last(1000) == written
                read = list(written)
            lines = [b"%d-" % (len(written) + index) + b"x" * length for index, length in enumerate(batch)]
            log.append(deque(line + b"\n" for line in lines))
            written += lines
            if tail is not None and number % 3:
                read += tail.poll()
        if tail is not None:
            read += tail.poll()
            assert read == written


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300).map(lambda data: data.replace(b"\x00", b"\n")), count=st.integers(1, 20))
def test_the_last_lines_are_those_a_plain_reader_sees(content: bytes, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.jsonl"
        path.write_bytes(content)
        complete = [line for line in content[: content.rfind(b"\n") + 1].split(b"\n") if line]
        with Tail(path) as tail:
            assert tail.last(count) == complete[-count:]
