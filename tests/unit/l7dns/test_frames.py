# SPDX-License-Identifier: Apache-2.0
"""Messages come out of a stream whole, however it was cut."""

import pytest

from l7dns.frames import Frames, frame

MESSAGES = [bytes([number]) * size for number, size in enumerate((12, 300, 65535, 13))]
STREAM = b"".join(frame(message) for message in MESSAGES)


@pytest.mark.parametrize("step", [1, 2, 3, 13, 1000, 65536, len(STREAM)])
def test_any_cut_gives_the_same_messages(step: int) -> None:
    frames = Frames()
    found = [message for at in range(0, len(STREAM), step) for message in frames.feed(STREAM[at : at + step])]
    assert found == MESSAGES
    assert not frames.partial


@pytest.mark.parametrize("length", [0, 1, 11])
def test_a_length_below_a_header_breaks_the_stream_for_good(length: int) -> None:
    frames = Frames()
    assert frames.feed(frame(MESSAGES[0]) + length.to_bytes(2, "big") + bytes(length)) == MESSAGES[:1]
    assert frames.broken
    assert frames.feed(STREAM) == []
