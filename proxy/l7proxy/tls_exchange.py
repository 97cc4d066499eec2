# SPDX-License-Identifier: Apache-2.0
"""The life of one TLS connection: its ClientHello is judged by the server name, then bytes pass both ways, unopened.

Sans-IO, with the events and commands of `exchange.Exchange`. The rules it keeps:

- The server is not even connected to before the name was judged, and then gets the client's bytes as they came.
- Until the server has answered, `hello_retry` sees to it that no second ClientHello names another server.
- The connection is judged again on every tick, so that a reload reaches it.
- What is not TLS is judged as what names no server. Only an endpoint that is audited, or one whose policy has come to
  limit nothing meanwhile, lets it pass.
- Half-closed stays half-closed, and what breaks off is broken off on the other side.

Failure verdict: a reset to the client, for it would take an orderly end for the server's, and a record.
"""

import enum
import math

from l7observe.demand import Demand
from l7policy.verdict import Reason, Verdict
from l7proxy.client_hello import ClientHello, HelloReader
from l7proxy.commands import (
    CloseClient,
    CloseServer,
    Command,
    Connect,
    HalfCloseClient,
    HalfCloseServer,
    PauseClient,
    Record,
    ResetClient,
    ResetServer,
    ResumeClient,
    SendToClient,
    SendToServer,
)
from l7proxy.head import ANY, Malformed
from l7proxy.hello_retry import HelloRetry
from l7proxy.judge import Decision, FlowPolicy
from l7proxy.limits import Limits


class Step(enum.Enum):
    """How far the connection has come."""

    HELLO = enum.auto()
    """Nothing is judged yet."""
    CONNECTING = enum.auto()
    OPEN = enum.auto()
    """Bytes pass."""
    CLOSING = enum.auto()
    CLOSED = enum.auto()


class TlsExchange:
    """See the module. `deadline` is when `tick` must be called at the latest; `tunnel` asks for every tick."""

    def __init__(self, policy: FlowPolicy, limits: Limits, now: float, demand: Demand | None = None) -> None:
        self._policy = policy
        self._limits = limits
        self._demand = demand or Demand()
        self.deadline = now + limits.head_timeout
        self.expires = math.inf
        self._step = Step.HELLO
        self._reader = HelloReader()
        self._inbox = b""
        """What came of the client and was not sent on."""
        self._hello: ClientHello | None = None
        self._retry: HelloRetry | None = None
        self._decision: Decision | None = None
        self._paused = False
        self._client_ended = False
        self._server_ended = False

    @property
    def tunnel(self) -> bool:
        """Whether bytes pass unread."""
        return self._step is Step.OPEN

    def unseen(self, *, of_server: bool) -> int:  # noqa: ARG002 - both sides are alike
        """How many of one side's next bytes pass whatever they are."""
        return ANY if self._step is Step.OPEN and self._retry is None else 0

    def went_by(self, size: int, now: float) -> None:  # noqa: ARG002 - they are not counted
        """So many of them have passed."""
        self.deadline = now + self._limits.idle_timeout

    # Events of the client

    def client_data(self, data: bytes, now: float) -> list[Command]:
        """Bytes came from the client."""
        if self._step is Step.OPEN:
            self.deadline = now + self._limits.idle_timeout
            if self._retry is None:
                return [SendToServer(data)]
            return self._followed(self._retry, data)
        out: list[Command] = []
        if self._step is Step.HELLO:
            self._inbox += data
            found = self._reader.feed(data)
            if isinstance(found, Malformed):
                self._unread(out, Reason.TLS_MALFORMED, found.detail, now)
            elif isinstance(found, ClientHello):
                self._judge(out, found, now)
        elif self._step is Step.CONNECTING:
            self._inbox += data
            if len(self._inbox) >= self._limits.hold and not self._paused:
                self._paused = True
                out.append(PauseClient())
        return out

    def client_eof(self, now: float) -> list[Command]:
        """The client sent FIN. It may still wait for the server's bytes."""
        out: list[Command] = []
        self._client_ended = True
        if self._step is Step.HELLO:
            if self._inbox:
                self._unread(out, Reason.TLS_MALFORMED, "client ended inside the TLS ClientHello", now)
            else:
                self._end(out, now)
        elif self._step is Step.OPEN:
            if self._server_ended:
                self._end(out, now)
            else:
                out.append(HalfCloseServer())
        elif self._step is Step.CLOSING:
            self._step = Step.CLOSED
            out.append(CloseClient())
        return out

    def client_slow(self, slow: bool, now: float) -> list[Command]:  # noqa: ARG002 - events have one signature
        """The relay itself stops reading the server's side; nothing else waits for it."""
        return []

    def server_slow(self, slow: bool, now: float) -> list[Command]:  # noqa: ARG002 - events have one signature
        """The relay itself stops reading the client's side; nothing else waits for it."""
        return []

    def client_lost(self, now: float) -> list[Command]:  # noqa: ARG002 - events have one signature
        """The client's connection is gone."""
        out: list[Command] = []
        if self._step in (Step.CONNECTING, Step.OPEN):
            out.append(ResetServer())
        self._close()
        return out

    # Events of the server

    def server_connected(self, now: float) -> list[Command]:
        """The connection that was asked for is there."""
        out: list[Command] = []
        if self._step is not Step.CONNECTING:
            return out
        self._step = Step.OPEN
        self.deadline = now + self._limits.idle_timeout
        if self._decision is not None and not self._decision.audited:
            self._demand.tally.connection(Verdict.FORWARDED)
            if self._demand.forwarded:
                self._record(out, Verdict.FORWARDED, Reason.NONE)
        size = self._reader.size if self._retry is not None else len(self._inbox)
        if size:
            out.append(SendToServer(self._inbox[:size]))
        rest, self._inbox = self._inbox[size:], b""
        if rest and self._retry is not None:
            out += self._followed(self._retry, rest)
        if self.tunnel and self._paused:
            self._paused = False
            out.append(ResumeClient())
        if self.tunnel and self._client_ended:
            out.append(HalfCloseServer())
        return out

    def server_failed(self, detail: str, now: float) -> list[Command]:  # noqa: ARG002 - events have one signature
        """The connection that was asked for cannot be had."""
        out: list[Command] = []
        if self._step is Step.CONNECTING:
            self._record(out, Verdict.ERROR, Reason.UPSTREAM_UNREACHABLE, detail)
            self._close()
            out.append(ResetClient())
        return out

    def server_data(self, data: bytes, now: float) -> list[Command]:
        """Bytes came from the server."""
        if self._step is not Step.OPEN:
            return []
        self.deadline = now + self._limits.idle_timeout
        out: list[Command] = [SendToClient(data)]
        if self._retry is not None:
            held = self._retry.server(data)
            if held:
                out.append(SendToServer(held))
            if self._retry.done:
                self._retry = None
        return out

    def server_eof(self, now: float) -> list[Command]:
        """The server sent FIN."""
        out: list[Command] = []
        if self._step is Step.OPEN:
            self._server_ended = True
            if self._client_ended:
                self._end(out, now)
            else:
                out.append(HalfCloseClient())
        return out

    def server_lost(self, now: float) -> list[Command]:  # noqa: ARG002 - events have one signature
        """The server broke the connection off."""
        out: list[Command] = []
        if self._step is Step.OPEN:
            self._close()
            out.append(ResetClient())
        return out

    # Events of time and of the process

    def tick(self, now: float) -> list[Command]:
        """Time has passed."""
        out: list[Command] = []
        if self._step is Step.OPEN:
            self._judge_again(out)
        if now < self.deadline:
            return out
        match self._step:
            case Step.HELLO:
                detail = "" if self._inbox else "client sent nothing"
                self._unread(out, Reason.TLS_TIMEOUT, detail, now)
            case Step.CONNECTING:
                detail = "server did not accept the connection in time"
                self._break_off(out, Verdict.ERROR, Reason.UPSTREAM_UNREACHABLE, detail)
            case Step.OPEN:
                self._break_off(out, Verdict.DROPPED, Reason.TLS_TIMEOUT, "no byte in either direction")
            case Step.CLOSING | Step.CLOSED:
                self._close()
                out.append(ResetClient())
        return out

    def drain(self, _now: float) -> list[Command]:
        """The process is about to end. What is open may go on until it does: nobody can ask a TLS client to stop."""
        return []

    # Judgement

    def _judge(self, out: list[Command], hello: ClientHello, now: float) -> None:
        self._hello = hello
        decision = self._policy.tls(hello.name)
        detail = hello.fault or ("" if hello.name else "no server name")
        if not decision.allowed:
            self._decision = decision
            self._record(out, Verdict.DROPPED, decision.reason, detail)
            self._close()
            out.append(ResetClient())
            return
        if decision.audited:
            self._decision = decision
            self._record(out, Verdict.AUDIT, decision.reason, detail)
        self._retry = HelloRetry(hello)
        self._pass(out, decision, now)

    def _unread(self, out: list[Command], reason: Reason, detail: str, now: float) -> None:
        """There is no ClientHello that could be judged."""
        decision = self._policy.tls("")
        self._decision = decision
        if not decision.allowed:
            if decision.reason != Reason.SNI_DENIED:
                reason = decision.reason
            self._record(out, Verdict.DROPPED, reason, detail)
            self._close()
            out.append(ResetClient())
            return
        if decision.audited:
            self._record(out, Verdict.AUDIT, reason, detail)
        self._pass(out, decision, now)

    def _pass(self, out: list[Command], decision: Decision, now: float) -> None:
        self._decision = decision
        self._step = Step.CONNECTING
        self.deadline = now + self._limits.connect_timeout
        out.append(Connect())

    def _judge_again(self, out: list[Command]) -> None:
        decision = self._policy.tls("" if self._hello is None else self._hello.name)
        if decision is self._decision:
            return
        before, self._decision = self._decision, decision
        if not decision.allowed:
            self._break_off(out, Verdict.DROPPED, Reason.POLICY_CHANGED, "connection broken off")
        elif decision.audited and not (before is not None and before.audited):
            self._record(out, Verdict.AUDIT, decision.reason)

    def _followed(self, retry: HelloRetry, data: bytes) -> list[Command]:
        """Bytes of the client before the server has answered."""
        out: list[Command] = []
        passed = retry.client(data)
        if isinstance(passed, Malformed):
            decision = self._policy.tls("")
            if not decision.allowed:
                self._break_off(out, Verdict.DROPPED, Reason.TLS_MALFORMED, passed.detail)
                return out
            if decision.audited:
                self._record(out, Verdict.AUDIT, Reason.TLS_MALFORMED, passed.detail)
            self._retry = None
            return [*out, SendToServer(retry.release())]
        if passed:
            out.append(SendToServer(passed))
        if retry.done:
            self._retry = None
        return out

    # Records, and the end

    def _record(self, out: list[Command], verdict: Verdict, reason: Reason, detail: str = "") -> None:
        out.append(Record(verdict, reason, detail, decision=self._decision, layer="tls", hello=self._hello))

    def _break_off(self, out: list[Command], verdict: Verdict, reason: Reason, detail: str) -> None:
        self._record(out, verdict, reason, detail)
        self._close()
        out += [ResetServer(), ResetClient()]

    def _end(self, out: list[Command], now: float) -> None:
        """Closes both sides after what was sent."""
        if self._step is Step.OPEN:
            out.append(CloseServer())
        self._step = Step.CLOSING
        self._retry = None
        self.deadline = now + self._limits.close_timeout
        out.append(CloseClient())

    def _close(self) -> None:
        self._step = Step.CLOSED
        self._inbox = b""
        self._retry = None
        self.deadline = math.inf
