# SPDX-License-Identifier: Apache-2.0
"""The life of one client connection: requests in, judged one after the other, answers out.

Sans-IO: methods are the events, the commands they return are all that happens. No socket, no clock (`now` is given), no
task. The rules it keeps:

- Nothing is sent to the server that was not judged, or does not belong to a message that was.
- One request is under way at a time. Pipelined ones wait in `_inbox` (bounded: the client is paused) and are judged
  when their turn comes, and anew after a wait for the server: a 403 stands in its place, a reload reaches all unsent.
- One server connection for one client connection, opened by the first allowed request, ended with it.
- Bodies pass through; what is held is a head, one chunk-size line, and what waits for its turn.
- After a 101 that the client asked for, or a 2xx to CONNECT, bytes are opaque and pass both ways. The request that
  opened the tunnel is judged again on every tick, so that a reload reaches it too.
- A message that breaks off is broken off on the other side as well, never ended.

Failure verdict: 400, 403, 408, 502, 503 or 504 and a record; a reset when an answer has already begun.
"""

import math
from typing import Final

from l7policy.verdict import Reason, Verdict
from l7proxy import commands as do
from l7proxy import edited_head, framing, replies, request_head, rewritten_head, timeouts
from l7proxy.commands import Command, Record, SendToClient, SendToServer
from l7proxy.head import ANY, NEED_MORE, NO_BODY, Malformed, RequestHead
from l7proxy.judge import Decision
from l7proxy.phase import Link, Phase
from l7proxy.transaction import Transaction
from l7proxy.usual import UsualExchange

_STEPS: Final = 16
"""Taken for one event; a request of which nothing goes to the server is one. Thousands of them fit into what is read at
once, and every other connection of the process would wait until the last was refused."""


class Exchange(UsualExchange):
    """See the module. `tick` must be called at `deadline` and `expires` at the latest; `tunnel` asks for every tick."""

    @property
    def tunnel(self) -> bool:
        """Whether bytes pass unread."""
        return self._phase is Phase.TUNNEL

    @property
    def _answered(self) -> bool:
        return self._current is not None and self._current.head is not None

    def unseen(self, *, of_server: bool) -> int:
        """How many of one side's next bytes pass whatever they are."""
        if self._phase is Phase.TUNNEL:
            return ANY
        return self._current.unseen if of_server and self._current is not None else 0

    def went_by(self, size: int, now: float) -> None:
        """So many of them have passed."""
        waits = not self._client_slow or self.tunnel
        self.deadline = timeouts.prolonged(self.deadline, now, size, self._limits, waits=waits)
        if self._current is not None:
            self._current.went_by(size)

    # Events of the client

    def client_data(self, data: bytes, now: float) -> list[Command]:
        """Bytes came from the client."""
        if self._phase is Phase.TUNNEL:
            self.deadline = now + self._limits.idle_timeout
            return [SendToServer(data)]
        out: list[Command] = []
        if self._phase is Phase.CLOSING:
            self._discarded += len(data)
            if self._discarded > self._limits.discard:
                self._break_off(out)
        elif self._phase is not Phase.CLOSED:
            self._inbox = self._inbox + data if self._inbox else data
            self._advance(out, now)
        return out

    def client_eof(self, now: float) -> list[Command]:
        """The client sent FIN. It may still wait for answers."""
        out: list[Command] = []
        self._client_ended = True
        if self._phase is Phase.TUNNEL:
            if self._link is Link.ENDED:
                self._end(out, now)
            else:
                out.append(do.HalfCloseServer())
        elif self._phase is Phase.CLOSING:
            self._phase = Phase.CLOSED
            out.append(do.CloseClient())
        elif self._phase is Phase.ANSWER:
            self._pass_on_client_end(out)
        elif self._phase is not Phase.CLOSED:
            self._advance(out, now)
        return out

    def client_slow(self, slow: bool, now: float) -> list[Command]:
        """The client does not read what it is sent, or has caught up. It gets no further answer until it has."""
        out: list[Command] = []
        self._client_slow = slow
        if self._current is not None:
            self.deadline = now + (self._limits.stall_timeout if slow else self._limits.idle_timeout)
        if not slow:
            self._advance(out, now)
        return out

    def client_lost(self, now: float) -> list[Command]:  # noqa: ARG002 - events have one signature
        """The client's connection is gone."""
        out: list[Command] = []
        if self._phase is not Phase.CLOSED:
            current = self._current
            if current is not None and self._phase is not Phase.TUNNEL and not current.done:
                out.extend(current.passed(self._demand, "client went away before the end of the answer"))
            self._drop_server(out, reset=current is not None)
            self._phase = Phase.CLOSED
            self.deadline = math.inf
        return out

    # Events of the server

    def server_connected(self, now: float) -> list[Command]:
        """The connection that was asked for is there."""
        out: list[Command] = []
        if self._link is Link.CONNECTING:
            self._link = Link.OPEN
            self.deadline = now + self._limits.idle_timeout
            current = self._current
            if current is not None and current.outdated(self._policy):
                self._current, self._phase, self.expires = None, Phase.HEAD, math.inf
                self._requests -= 1
                self._judge(out, current.request, now)
            self._advance(out, now)
        return out

    def server_failed(self, detail: str, now: float) -> list[Command]:
        """The connection that was asked for cannot be had."""
        out: list[Command] = []
        if self._link is Link.CONNECTING:
            self._link = Link.CLOSED
            self._fail(out, now, 503, Reason.UPSTREAM_UNREACHABLE, detail, b"upstream connect error\r\n")
        return out

    def server_data(self, data: bytes, now: float) -> list[Command]:
        """Bytes came from the server."""
        if self._phase is Phase.TUNNEL:
            self.deadline = now + self._limits.idle_timeout
            return [SendToClient(data)]
        out: list[Command] = []
        if self._link is not Link.OPEN:
            return out
        current = self._current
        if current is None or current.done:
            # An answer to nothing: it must not become the answer to the next request.
            self._end(out, now)
            return out
        # What the server says is no reason to wait longer for the rest of the request, if it takes that.
        stalls = self._phase is Phase.BODY and not self._server_slow
        self.deadline = now + (self._limits.stall_timeout if stalls else self._limits.idle_timeout)
        self._answer(out, current, data, now)
        return out

    def server_eof(self, now: float) -> list[Command]:
        """The server sent FIN."""
        out: list[Command] = []
        if self._phase is Phase.TUNNEL:
            if self._client_ended:
                self._end(out, now)
            else:
                self._link = Link.ENDED
                out.append(do.HalfCloseClient())
        elif self._link is Link.OPEN:
            if self._current is not None and self._current.endless:
                out.extend(self._current.passed(self._demand))
                self._end(out, now)
            else:
                self._server_gone(out, now, reset=False)
        return out

    def server_lost(self, now: float) -> list[Command]:
        """The server broke the connection off."""
        out: list[Command] = []
        if self._phase is Phase.TUNNEL:
            self._link = Link.CLOSED
            self._break_off(out)
        elif self._link in (Link.OPEN, Link.ENDED):
            self._server_gone(out, now, reset=True)
        return out

    def server_slow(self, slow: bool, now: float) -> list[Command]:
        """The server does not read what it is sent, or has caught up: that is not the client's standing still."""
        if self._phase is Phase.BODY:
            self.deadline = now + (self._limits.idle_timeout if slow else self._limits.stall_timeout)
        self._server_slow = slow
        return []

    # Events of time and of the process

    def go_on(self, now: float) -> list[Command]:
        """Others have had their turn."""
        out: list[Command] = []
        self._goes_on = False
        self._advance(out, now)
        return out

    def tick(self, now: float) -> list[Command]:
        """Time has passed."""
        out: list[Command] = []
        if self._phase is Phase.TUNNEL:
            self._judge_tunnel(out)
        if now < self.deadline and now < self.expires:
            return out
        fault = timeouts.fault(
            self._phase,
            self._link,
            used=self._requests > 0,
            begun=bool(self._inbox),
            answered=self._answered,
            unread=self._client_slow,
            expired=now < self.deadline,
        )
        if fault is None:
            self._end(out, now)
        elif self._current is None and self._phase is not Phase.HEAD:
            self._break_off(out)
        else:
            self._fail(out, now, fault.status, fault.reason, fault.detail, fault.text)
        return out

    def drain(self, now: float) -> list[Command]:
        """The process is about to end: no further request here, but the first of a new connection is on its way."""
        out: list[Command] = []
        self._draining = True
        if self._phase is Phase.HEAD and not self._inbox and self._requests:
            self._end(out, now)
        return out

    # Requests

    def _advance(self, out: list[Command], now: float) -> None:
        """Goes as far as the client's bytes allow, but not so far that others wait long for it."""
        going, left = True, _STEPS
        while going and left:
            left -= 1
            if self._phase is Phase.HEAD:
                going = self._next_request(out, now)
            elif self._phase is Phase.BODY:
                going = self._relay_request(out, now)
            elif self._phase is Phase.REFUSED_BODY:
                going = self._discard_body(out, now)
            else:
                going = False
        if self._paused != (going or len(self._inbox) >= self._limits.hold):
            self._paused = not self._paused
            out.append(do.PauseClient() if self._paused else do.ResumeClient())
        if going and not self._goes_on:
            self._goes_on = True
            out.append(do.GoOn())

    def _next_request(self, out: list[Command], now: float) -> bool:
        if self._client_slow:
            return False
        limit, normalise = self._limits.max_head, self._limits.normalise_paths
        head = request_head.parse(self._inbox, self._seen, limit, normalise) if self._inbox else NEED_MORE
        if isinstance(head, RequestHead):
            self._inbox = self._inbox[head.size :]
            self._seen = 0
            return self._judge(out, head, now)
        if isinstance(head, Malformed):
            self._refuse(out, head, now)
        elif self._client_ended:
            if self._inbox:
                self._refuse(out, Malformed("client ended inside the head"), now)
            else:
                self._end(out, now)
        elif self._inbox:
            if self._seen == 0 and self._requests:
                self.deadline = now + self._limits.head_timeout
            self._seen = len(self._inbox)
        return False

    def _judge(self, out: list[Command], head: RequestHead, now: float) -> bool:
        self._requests += 1
        decision = self._policy.http(head.method, head.path, head.host, head.fields)
        if not decision.allowed:
            self._deny(out, head, decision, now)
            return True
        raw = edited_head.write(head.raw, decision.edits) if decision.edits else head.raw
        if raw is None:
            self._refuse(out, rewritten_head.malformed("a header that a rule sets cannot be written", head.raw), now)
            return False
        if decision.audited:
            out.append(Record.refused(Verdict.AUDIT, head, decision, 0))
        self._current = Transaction(head, decision, raw, now)
        self.expires = now + self._limits.request_timeout
        if self._link is Link.OPEN and head.framing == NO_BODY:
            # The usual request: nothing is left to wait for but its answer.
            self.deadline = now + self._limits.idle_timeout
            self._phase = Phase.ANSWER
            out.append(SendToServer(raw))
            self._pass_on_client_end(out)
            return False
        self._phase = Phase.BODY
        if self._link is Link.NONE:
            self._link = Link.CONNECTING
            self.deadline = now + self._limits.connect_timeout
            out.append(do.Connect())
        return True

    def _relay_request(self, out: list[Command], now: float) -> bool:
        current = self._current
        if current is None:
            raise AssertionError("a body belongs to a request")
        if self._link is Link.CONNECTING:
            return False
        data, due, body = current.unsent, math.inf if current.unsent else self.deadline, current.body
        current.unsent = b""
        if body is not None and self._inbox:
            end = body.feed(self._inbox, 0)
            current.request_bytes += end
            data = data + self._inbox[:end] if data else self._inbox[:end]
            self._inbox = self._inbox[end:]
        if data:
            waits = body is None or body.done or self._server_slow
            self.deadline = timeouts.prolonged(due, now, len(data), self._limits, waits=waits)
            out.append(SendToServer(data))
        if body is not None and not body.done:
            if body.fault or self._client_ended:
                fault = body.fault or "client ended inside the body"
                self._fail(out, now, 400, Reason.HTTP_MALFORMED, fault, b"malformed request\r\n")
            return False
        if current.done:
            self._next_cycle(out, current, now)
            return True
        self._phase = Phase.ANSWER
        self._pass_on_client_end(out)
        return False

    def _pass_on_client_end(self, out: list[Command]) -> None:
        if self._client_ended and not self._inbox and self._link is Link.OPEN:
            out.append(do.HalfCloseServer())

    def _answer(self, out: list[Command], current: Transaction, data: bytes, now: float) -> None:
        begun = self._answered
        relayed = current.feed(data)
        if not begun and self._answered:
            current.first_byte = now
        if relayed:
            out.append(SendToClient(relayed))
        if current.fault:
            self._fail(out, now, 502, Reason.UPSTREAM_MALFORMED, current.fault, b"upstream protocol error\r\n")
        elif current.tunnel:
            self._open_tunnel(out, current, now)
        elif current.done:
            out.extend(current.passed(self._demand))
            if self._phase is Phase.ANSWER:
                self._next_cycle(out, current, now)
                if self._inbox or self._client_ended:
                    self._advance(out, now)
            elif current.rest or not current.may_be_followed:
                self._end(out, now)

    def _deny(self, out: list[Command], head: RequestHead, decision: Decision, now: float) -> None:
        keep_alive = (
            head.keep_alive
            and not self._draining
            and decision.reason in (Reason.HTTP_DENIED, Reason.HOST_MISMATCH)
            and (head.framing == NO_BODY or (not head.expect and head.framing <= self._limits.discard))
        )
        out.append(Record.refused(Verdict.DROPPED, head, decision, 403))
        answer = replies.reply(403, replies.ACCESS_DENIED, keep_alive=keep_alive, minor=head.minor, method=head.method)
        out.append(SendToClient(answer))
        if not keep_alive:
            self._end(out, now, linger=True)
        elif head.framing == NO_BODY:
            self.deadline = now + self._limits.keep_alive_timeout
        else:
            self.deadline = now + self._limits.head_timeout
            self._refused = framing.body(head.framing)
            self._discarded = 0
            self._phase = Phase.REFUSED_BODY

    def _discard_body(self, out: list[Command], now: float) -> bool:
        body = self._refused
        if body is None:
            raise AssertionError("a refused body is followed to its end")
        end = body.feed(self._inbox, 0)
        self._inbox = self._inbox[end:]
        self._discarded += end
        if body.fault or self._discarded > self._limits.discard or (self._client_ended and not body.done):
            self._end(out, now, linger=True)
        elif body.done:
            self._discarded = 0
            self._phase = Phase.HEAD
            self.deadline = now + self._limits.keep_alive_timeout
            return True
        return False

    # The end of a request

    def _next_cycle(self, out: list[Command], current: Transaction, now: float) -> None:
        """Request and answer are complete."""
        self._current, self.expires = None, math.inf
        if current.may_be_followed_by_another and not self._draining:
            self._phase = Phase.HEAD
            self.deadline = now + self._limits.keep_alive_timeout
        else:
            self._end(out, now)

    def _open_tunnel(self, out: list[Command], current: Transaction, now: float) -> None:
        out.extend(current.passed(self._demand))
        self._phase = Phase.TUNNEL
        self.deadline = now + self._limits.idle_timeout
        self.expires = math.inf
        if self._inbox:
            out.append(SendToServer(self._inbox))
            self._inbox = b""
        self._resume(out)
        if self._client_ended:
            out.append(do.HalfCloseServer())

    def _judge_tunnel(self, out: list[Command]) -> None:
        current = self._current
        record = None if current is None else current.judged_again(self._policy)
        if record is not None:
            out.append(record)
            if record.verdict == Verdict.DROPPED:
                self._break_off(out)

    def _server_gone(self, out: list[Command], now: float, *, reset: bool) -> None:
        current = self._current
        if current is None or current.done:
            self._end(out, now)
        elif current.head is None and self._requests == 1:
            detail = "server closed the connection before answering"
            self._fail(out, now, 502, Reason.UPSTREAM_UNREACHABLE, detail, b"upstream closed the connection\r\n")
        else:
            # On a connection that was kept alive a client knows what this means, and may send the request again.
            out.append(current.cut_short())
            if reset:
                self._break_off(out)
            else:
                self._end(out, now)

    def _refuse(self, out: list[Command], head: Malformed, now: float) -> None:
        """Whatever it is, not a byte of it is forwarded."""
        told = (head.detail, head.method, head.host, head.path, 400)
        out.append(Record(Verdict.DROPPED, Reason.HTTP_MALFORMED, *told))
        out.append(SendToClient(replies.reply(400, b"malformed request\r\n", keep_alive=False)))
        self._end(out, now, linger=True)

    def _fail(self, out: list[Command], now: float, status: int, reason: Reason, detail: str, text: bytes) -> None:
        """Ends the request under way with an answer of our own, or breaks off if there is one already."""
        current = self._current
        verdict = Verdict.DROPPED if reason in (Reason.HTTP_MALFORMED, Reason.HTTP_TIMEOUT) else Verdict.ERROR
        if current is None:
            out.append(Record(verdict, reason, detail, status=status))
        else:
            shown = status if current.head is None else current.head.status
            out.append(current.record(verdict, reason, shown, detail))
        self._drop_server(out, reset=current is not None)
        if self._answered:
            self._break_off(out)
            return
        if status:
            method = b"" if current is None else current.request.method
            out.append(SendToClient(replies.reply(status, text, keep_alive=False, method=method)))
        self._end(out, now, linger=True)

    # The end of the connection

    def _end(self, out: list[Command], now: float, *, linger: bool = False) -> None:
        """Closes both sides after what was sent. `linger`: the client may still be sending."""
        linger = (linger or self._phase is Phase.BODY or bool(self._inbox)) and not self._client_ended
        self._drop_server(out, reset=False)
        self._current, self._phase, self.expires = None, Phase.CLOSING, math.inf
        self._inbox = b""
        self._discarded = 0
        self._resume(out)
        out.append(do.HalfCloseClient() if linger else do.CloseClient())
        self.deadline = now + (self._limits.linger_timeout if linger else self._limits.close_timeout)

    def _break_off(self, out: list[Command]) -> None:
        self._drop_server(out, reset=True)
        self._current, self._phase = None, Phase.CLOSED
        self.deadline = self.expires = math.inf
        self._inbox = b""
        out.append(do.ResetClient())

    def _drop_server(self, out: list[Command], *, reset: bool) -> None:
        if self._link not in (Link.NONE, Link.CLOSED):
            self._link = Link.CLOSED
            out.append(do.ResetServer() if reset else do.CloseServer())

    def _resume(self, out: list[Command]) -> None:
        if self._paused:
            self._paused = False
            out.append(do.ResumeClient())
