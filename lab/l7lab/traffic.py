# SPDX-License-Identifier: Apache-2.0
"""Traffic: what a workload tries, and what came of it, as values.

Single probes use the clients people use (curl, dig, ping); streams run `client.py` for as long as a test lasts, to see
what a change in mid-traffic does. A denied, dropped or refused probe is a result. Only a client that cannot be run at
all raises `LabError`.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from l7lab.namespace import LabError, Namespace
from l7lab.process import Process, wait_until
from l7lab.topology import RESOLVER_V4

CLIENT = (sys.executable, "-I", "-S", str(Path(__file__).with_name("client.py")))
CURL_TIMED_OUT = 28


@dataclass(frozen=True, slots=True)
class HttpResult:
    """One request with curl."""

    status: int
    """0 if no response came."""
    body: str
    error: str
    """Empty if a response came: ``timeout``, or curl's message."""
    seconds: float
    size: int
    """Bytes of the body."""

    def __str__(self) -> str:
        return str(self.status) if self.status else self.error


@dataclass(frozen=True, slots=True)
class Record:
    """One resource record of an answer."""

    name: str
    ttl: int
    rtype: str
    data: str


@dataclass(frozen=True, slots=True)
class DnsResult:
    """One query with dig."""

    rcode: str
    """Empty if no answer came."""
    answers: tuple[Record, ...]
    error: str
    seconds: float

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of the A and AAAA records, in the order given."""
        return tuple(record.data for record in self.answers if record.rtype in ("A", "AAAA"))

    def __str__(self) -> str:
        return " ".join((self.rcode, *self.addresses)) if self.rcode else self.error


@dataclass(frozen=True, slots=True)
class ConnectResult:
    """One TCP connection."""

    open: bool
    error: str
    seconds: float

    def __str__(self) -> str:
        return "connected" if self.open else self.error


@dataclass(frozen=True, slots=True)
class RawResult:
    """Bytes sent, bytes received."""

    received: bytes
    error: str
    closed: bool
    """The other side ended the connection."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One step of a stream."""

    time: float
    """Epoch seconds at which it began."""
    outcome: str
    """``200``, ``NOERROR``, ``timeout``, ``reset``…"""
    connection: int
    """Equal for requests on one kept-alive connection."""


def http(
    namespace: Namespace,
    url: str,
    *,
    address: str = "",
    method: str = "GET",
    headers: Sequence[str] = (),
    body: str | None = None,
    upload: Path | None = None,
    connect_timeout: float = 1.0,
    timeout: float = 10.0,
    certificate: Path | None = None,
    options: Sequence[str] = (),
) -> HttpResult:
    """Request `url`, at `address` if given (no DNS then; the Host header stays the URL's).

    Over TLS the server must prove that it has `certificate`; if none is given, any will do.
    """
    argv = ["curl", "-q", "-s", "-g", "--noproxy", "*", "--path-as-is", "-w", "%{stderr}%{json}", "-X", method]
    argv += ["--connect-timeout", str(connect_timeout), "-m", str(timeout)]
    if method == "HEAD":
        argv.append("--head")
    parts = urlsplit(url)
    if parts.scheme == "https":
        argv += ["-k"] if certificate is None else ["--cacert", str(certificate)]
    if address:
        argv += ["--connect-to", f"::[{address}]:{parts.port or (443 if parts.scheme == 'https' else 80)}"]
    for header in headers:
        argv += ["-H", header]
    if body is not None:
        argv += ["--data-binary", "@-"]
    if upload is not None:
        argv += ["-T", str(upload)]
    done = namespace.run([*argv, *options, url], stdin=body, timeout=timeout + 10)
    try:
        facts = json.loads(done.stderr[done.stderr.index("{") :])
    except ValueError as error:
        raise LabError(f"curl could not run: {done.stderr.strip()}") from error
    failed = "timeout" if done.returncode == CURL_TIMED_OUT else (facts["errormsg"] or "")
    return HttpResult(
        status=facts["response_code"],
        body=done.stdout,
        error=failed if done.returncode else "",
        seconds=facts["time_total"],
        size=facts["size_download"],
    )


def dns(
    namespace: Namespace, name: str, qtype: str = "A", *, server: str = RESOLVER_V4, tcp: bool = False, timeout: int = 2
) -> DnsResult:
    """Ask `server` for a name, once."""
    argv = ["dig", "-r", f"@{server}", name, qtype, "+tries=1", f"+time={timeout}", "+nocookie"]
    began = time.monotonic()
    done = namespace.run([*argv, "+tcp" if tcp else "+notcp"], timeout=timeout + 10)
    return read_dig(done.stdout or done.stderr, time.monotonic() - began)


def read_dig(text: str, seconds: float = 0.0) -> DnsResult:
    """Understand what dig printed."""
    status = re.search(r"^;; ->>HEADER<<- .*status: (\w+)", text, re.MULTILINE)
    if status is None:
        silent = "timed out" in text or "no servers could be reached" in text
        return DnsResult("", (), "timeout" if silent else text.strip() or "dig said nothing", seconds)
    records = []
    for line in text.splitlines():
        columns = line.split(None, 4)
        if len(columns) == 5 and not line.startswith(";") and columns[2] == "IN":
            records.append(Record(columns[0].rstrip("."), int(columns[1]), columns[3], columns[4]))
    return DnsResult(status.group(1), tuple(records), "", seconds)


def browse(
    namespace: Namespace, url: str, *, qtype: str = "A", server: str = RESOLVER_V4, timeout: int = 2
) -> tuple[DnsResult, HttpResult | None]:
    """Resolve the URL's host, then request it at the first address: what every client does. None: no address."""
    host = urlsplit(url).hostname or ""
    answer = dns(namespace, host, qtype, server=server, timeout=timeout)
    if not answer.addresses:
        return answer, None
    return answer, http(namespace, url, address=answer.addresses[0])


def ping(namespace: Namespace, address: str, timeout: int = 1) -> bool:
    """Whether one ICMP echo is answered."""
    return namespace.run(["ping", "-n", "-c1", f"-W{timeout}", address]).returncode == 0


def connect(namespace: Namespace, address: str, port: int, *, source: str = "", timeout: float = 1.0) -> ConnectResult:
    """Open one TCP connection, claiming `source` as its address if given."""
    facts, seconds = _client(namespace, "connect", address, str(port), str(timeout), *([source] if source else []))
    return ConnectResult(bool(facts["open"]), str(facts["error"]), seconds)


def tcp(namespace: Namespace, address: str, port: int, payload: bytes, *, timeout: float = 2.0) -> RawResult:
    """Send bytes on one TCP connection and collect what comes back until it ends or falls silent."""
    return _raw(*_client(namespace, "tcp", address, str(port), str(timeout), payload.hex()))


def udp(
    namespace: Namespace, address: str, port: int, payload: bytes, *, source: str = "", timeout: float = 1.0
) -> RawResult:
    """Send one datagram, claiming `source` as its address if given, and wait for an answer."""
    rest = [payload.hex(), *([source] if source else [])]
    return _raw(*_client(namespace, "udp", address, str(port), str(timeout), *rest))


def question(name: str, identifier: int = 1) -> bytes:
    """A DNS query for an A record, for `udp` and `tcp`."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.rstrip(".").split("."))
    return identifier.to_bytes(2, "big") + b"\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


def _client(namespace: Namespace, *arguments: str) -> tuple[dict[str, object], float]:
    began = time.monotonic()
    done = namespace.run([*CLIENT, *arguments])
    if done.returncode != 0:
        raise LabError(f"the client failed: {done.stderr.strip()}")
    return json.loads(done.stdout), time.monotonic() - began


def _raw(facts: dict[str, object], seconds: float) -> RawResult:
    return RawResult(bytes.fromhex(str(facts["received"])), str(facts["error"]), bool(facts["closed"]), seconds)


class Stream:
    """A client that repeats one request until it is stopped, and remembers every outcome."""

    def __init__(self, namespace: Namespace, arguments: Sequence[str], log: Path) -> None:
        self._process = Process(namespace, [*CLIENT, *arguments], log)
        self._log = log

    @classmethod
    def http(
        cls,
        namespace: Namespace,
        log: Path,
        url: str,
        *,
        address: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        interval: float = 0.02,
        keep_alive: bool = True,
    ) -> "Stream":
        """Requests on one connection for as long as it lasts, or each on its own."""
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = {"method": method, "path": path, "headers": {"Host": parts.netloc} | dict(headers or {})}
        text = json.dumps(request | {"keep_alive": keep_alive})
        return cls(namespace, ["http", address, str(parts.port or 80), str(interval), text], log)

    @classmethod
    def dns(
        cls, namespace: Namespace, log: Path, name: str, *, server: str = RESOLVER_V4, interval: float = 0.02
    ) -> "Stream":
        """Queries for one name."""
        return cls(namespace, ["dns", server, name, str(interval)], log)

    def outcomes(self) -> list[Outcome]:
        """All so far, oldest first."""
        self._process.require()
        lines = self._log.read_text().splitlines(keepends=True) if self._log.exists() else []
        return [Outcome(**json.loads(line)) for line in lines if line.endswith("\n")]

    def mark(self) -> int:
        """How many there are: `since` takes it."""
        return len(self.outcomes())

    def since(self, mark: int) -> list[Outcome]:
        """Those after a mark."""
        return self.outcomes()[mark:]

    def wait_for(
        self, condition: Callable[[list[Outcome]], bool], what: str, *, mark: int = 0, timeout: float = 5.0
    ) -> list[Outcome]:
        """Wait until the outcomes after `mark` meet the condition; returns them. Time up: `LabError`."""
        wait_until(lambda: condition(self.since(mark)), what, timeout)
        return self.since(mark)

    def wait_count(self, count: int, *, mark: int = 0, timeout: float = 5.0) -> list[Outcome]:
        """Wait for so many outcomes after `mark`."""
        return self.wait_for(lambda seen: len(seen) >= count, f"{count} outcomes", mark=mark, timeout=timeout)

    def stop(self) -> list[Outcome]:
        """End it; returns every outcome."""
        seen = self.outcomes()
        self._process.stop()
        return seen

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()


def first(outcomes: Sequence[Outcome], outcome: str) -> Outcome | None:
    """The first step with that outcome."""
    return next((step for step in outcomes if step.outcome == outcome), None)
