# SPDX-License-Identifier: Apache-2.0
"""However a client cuts its bytes, the same requests are judged, the same bytes sent on, and the same answers given."""

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from l7policy.flowpolicy import L7Decision, Side
from l7policy.verdict import Direction, Reason
from l7proxy.commands import Command, Connect, GoOn, Record, SendToClient, SendToServer
from l7proxy.exchange import Exchange
from l7proxy.limits import Limits
from l7proxy.phase import Phase

HOST = b"Host: a\r\n"
PIECES = st.sampled_from(
    [
        b"GET /allowed HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /denied HTTP/1.1\r\n" + HOST + b"\r\n",
        b"HEAD /denied HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n",
        b"POST /allowed HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
        b"POST /denied HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
        b"POST /allowed HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nX: y\r\n\r\n",
        b"POST /denied HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"GET http://a/allowed HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /allowed HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
        b"GET /allowed//x HTTP/1.1\r\n" + HOST + b"\r\n",
        b"POST /allowed HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\nhello",
        b"\r\n",
        b"\n",
        b"\x16\x03\x01\x02",
        b"GET /a",
        b"0\r\n\r\n",
    ]
)
ONCE = st.lists(st.one_of(PIECES, PIECES, PIECES, st.binary(max_size=5)), max_size=6).map(b"".join)
STREAMS = st.builds(bytes.__mul__, ONCE, st.sampled_from((1, 1, 8)))
"""Some are longer than what an exchange does for one event."""
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class AllowedOnly:
    """Lets pass what has ``/allowed`` as its path."""

    source = destination = Side("192.0.2.1", 1, 1000, 1, frozenset())
    revision = 1

    def __init__(self) -> None:
        self.judged: list[tuple[bytes, bytes, bytes]] = []

    def http(self, method: bytes, path: bytes, host: bytes, headers: Iterable[tuple[bytes, bytes]]) -> L7Decision:
        self.judged.append((method, path, host))
        allowed = path == b"/allowed"
        return L7Decision(allowed, Reason.NONE if allowed else Reason.HTTP_DENIED, "", (), Direction.EGRESS, 1)


def played(pieces: list[bytes]) -> tuple[bytes, bytes, list[Record], list[tuple[bytes, bytes, bytes]], Phase]:
    policy = AllowedOnly()
    exchange = Exchange(policy, Limits(), 0.0)
    to_server = to_client = b""
    records: list[Record] = []
    for piece in pieces:
        commands: list[Command] = exchange.client_data(piece, 0.0)
        while commands:
            command = commands.pop(0)
            if isinstance(command, SendToServer):
                to_server += command.data
            elif isinstance(command, SendToClient):
                to_client += command.data
            elif isinstance(command, Record):
                records.append(command)
            elif isinstance(command, GoOn):
                commands += exchange.go_on(0.0)
            elif isinstance(command, Connect):
                before = len(policy.judged)
                commands += exchange.server_connected(0.0)
                assert policy.judged.pop(before) == policy.judged[before - 1]  # judged again: it waited
            if not commands and exchange._phase is Phase.ANSWER:
                commands = exchange.server_data(ANSWER, 0.0)
    return to_server, to_client, records, policy.judged, exchange._phase


@settings(max_examples=200)
@given(STREAMS, st.integers(1, 60))
def test_what_happens_does_not_depend_on_how_the_bytes_were_cut(data: bytes, size: int) -> None:
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert played(pieces) == played([data])


@given(STREAMS)
def test_nothing_is_sent_that_was_not_judged_and_allowed(data: bytes) -> None:
    to_server, to_client, _, judged, _ = played([data])
    allowed = [request for request in judged if request[1] == b"/allowed"]
    assert to_server.count(b" HTTP/1.") == len(allowed)
    assert b"/denied" not in to_server
    assert to_client.count(b"HTTP/1.1 403") == len(judged) - len(allowed)
