# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy.verdict import Reason
from l7proxy.phase import Link, Phase
from l7proxy.timeouts import fault

OPEN = Link.OPEN


@pytest.mark.parametrize(
    ("phase", "link", "true", "expected"),
    [
        (Phase.HEAD, Link.NONE, "", (0, "client sent nothing")),
        (Phase.HEAD, OPEN, "used", None),
        (Phase.HEAD, OPEN, "used begun", (408, "")),
        (Phase.BODY, Link.CONNECTING, "used expired", (503, "server did not accept the connection in time")),
        (Phase.BODY, OPEN, "used", (408, "request body stalled")),
        (Phase.BODY, OPEN, "used expired", (0, "took longer than any request may")),
        (Phase.ANSWER, OPEN, "used", (504, "server did not answer in time")),
        (Phase.ANSWER, OPEN, "used expired", (504, "server did not answer in time")),
        (Phase.ANSWER, OPEN, "used answered", (0, "no byte in either direction")),
        (Phase.ANSWER, OPEN, "used answered expired", (0, "took longer than any request may")),
        (Phase.ANSWER, OPEN, "used answered unread", (0, "client does not read the answer")),
        (Phase.TUNNEL, OPEN, "used answered", (0, "no byte in either direction")),
    ],
)
def test_who_is_to_blame_and_what_the_client_is_told(
    phase: Phase, link: Link, true: str, expected: tuple[int, str] | None
) -> None:
    flags = {name: name in true.split() for name in ("used", "begun", "answered", "unread", "expired")}
    found = fault(phase, link, **flags)
    assert (None if found is None else (found.status, found.detail)) == expected
    if found is not None:
        server = found.status in (503, 504)
        assert (found.reason == Reason.UPSTREAM_UNREACHABLE) is server
        assert bool(found.text) is (found.status > 0)
