# SPDX-License-Identifier: Apache-2.0
"""The shortest way through an exchange does what the general one does, wherever it is taken."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from l7observe.demand import Demand
from l7policy.flowpolicy import L7Decision, Side
from l7policy.headers import Edit
from l7policy.model import Mismatch
from l7policy.verdict import Direction, Reason
from l7proxy.commands import Command, Connect, GoOn, Record, SendToClient, SendToServer
from l7proxy.exchange import Exchange
from l7proxy.limits import Limits

REQUEST: Final = b"GET /allowed HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REQUESTS = st.sampled_from(
    [
        REQUEST,
        REQUEST * 2,
        b"HEAD /allowed HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /denied HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /audited HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /edited HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
        b"GET /missing HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /allowed HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /allowed HTTP/1.0\r\nHost: a\r\n\r\n",
        b"GET /allowed HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"GET /allowed HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"y" * 2000),
        b"CONNECT /allowed HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /allowed HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        b"POST /allowed HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n",
        b"ok",
        b"GET /allowed HTTP/1.1\r\nHo",
        b"st: a\r\n\r\n",
        b"\r\n",
        b"GET /allowed//x HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
)
ANSWERS = st.sampled_from(
    [
        ANSWER,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokk",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: %b\r\n\r\nok" % (b"y" * 2000),
        b"ok",
        b"nonsense\r\n\r\n",
    ]
)
CLIENT = st.tuples(st.just("client"), REQUESTS)
SERVER = st.tuples(st.just("server"), ANSWERS)
OTHER = st.tuples(st.sampled_from(["client_slow", "client_fast", "client_eof", "drain", "tick"]), st.just(b""))
USUAL = st.just([("client", REQUEST), ("server", ANSWER)])
EVENTS = st.one_of(CLIENT, SERVER, CLIENT, SERVER, OTHER).map(lambda event: [event])
SCENES = st.lists(st.one_of(USUAL, EVENTS), max_size=10).map(lambda parts: [event for part in parts for event in part])


PASSES: Final = L7Decision(True, Reason.NONE, "", (), Direction.EGRESS, 1)
DECISIONS: Final = {
    b"/denied": replace(PASSES, allowed=False, reason=Reason.HTTP_DENIED),
    b"/audited": replace(PASSES, audited=True),
    b"/edited": replace(PASSES, edits=(Edit(Mismatch.ADD, "X-Added", b"1"),)),
    b"/missing": replace(PASSES, missing=("X",)),
}


class Policy:
    """Judges by the path alone."""

    source = destination = Side("192.0.2.1", 1, 1000, 1, frozenset())
    revision = 1

    def http(self, method: bytes, path: bytes, host: bytes, headers: Iterable[tuple[bytes, bytes]]) -> L7Decision:
        return DECISIONS.get(path, PASSES)


class Played:
    """A scene, and after each of its events what was sent and recorded, and what is to happen next."""

    def __init__(self, scene: list[tuple[str, bytes]], *, short: bool, wanted: bool) -> None:
        self.short_ways = 0
        self.told: list[tuple[object, ...]] = []
        self._short = short
        self._demand = Demand(wanted)
        self._exchange = exchange = Exchange(Policy(), Limits(), 0.0, self._demand)
        for number, (event, data) in enumerate(scene):
            now = float(number)
            sent, records = self._played(event, data, now)
            awaited = exchange.deadline, exchange.expires, exchange.tunnel, exchange.unseen(of_server=True)
            self.told.append((event, *sent, records, awaited, self._demand.tally.plain()))

    def _played(self, event: str, data: bytes, now: float) -> tuple[tuple[bytes, bytes, list[str]], list[Record]]:
        exchange = self._exchange
        if self._short and event == "client" and exchange.usual_request(data, now):
            self.short_ways += 1
            return (data, b"", []), []
        if self._short and event == "server" and (answered := exchange.usual_answer(data, now)):
            self.short_ways += 1
            return (b"", data, []), list(answered.passed(self._demand))
        commands: list[Command]
        match event:
            case "client":
                commands = exchange.client_data(data, now)
            case "server":
                commands = exchange.server_data(data, now)
            case "client_eof":
                commands = exchange.client_eof(now)
            case "drain":
                commands = exchange.drain(now)
            case "tick":
                commands = exchange.tick(now)
            case _:
                commands = exchange.client_slow(event == "client_slow", now)
        to_server = to_client = b""
        others: list[str] = []
        records: list[Record] = []
        while commands:
            command = commands.pop(0)
            if isinstance(command, SendToServer):
                to_server += command.data
            elif isinstance(command, SendToClient):
                to_client += command.data
            elif isinstance(command, Record):
                records.append(command)
            else:
                others.append(type(command).__name__)
                if isinstance(command, Connect):
                    commands += exchange.server_connected(now)
                elif isinstance(command, GoOn):
                    commands += exchange.go_on(now)
        return (to_server, to_client, others), records


@settings(max_examples=400)
@given(SCENES, st.booleans())
def test_both_ways_send_record_count_and_wait_alike(scene: list[tuple[str, bytes]], wanted: bool) -> None:
    assert Played(scene, short=True, wanted=wanted).told == Played(scene, short=False, wanted=wanted).told


def test_the_short_way_is_taken() -> None:
    scene = [("client", REQUEST), ("server", ANSWER)] * 3
    assert Played(scene, short=True, wanted=True).short_ways == 5, "the first request waited for the server"
