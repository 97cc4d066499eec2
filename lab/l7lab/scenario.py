# SPDX-License-Identifier: Apache-2.0
"""Scenario: the daemon's main job on real traffic, as a list of checks: what was tried, what should happen, what did.

It relies on the example policies (examples/policies): `frontend` may ask for api.example.com and the CDN's names, send
some requests to the API, and reach the CDN and the backend; `backend` lets the frontend read; `batch` reaches one
network. The demo prints the checks, a test asserts them. Nothing raises for a verdict that is wrong: that is a check
which is not ok.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from l7lab import traffic
from l7lab.gate import Gate, Json
from l7lab.namespace import LabError
from l7lab.topology import DENIED_IN_CIDR, IN_CIDR, RESOLVER_V4, RESOLVER_V6, UNNAMED, Workload
from l7lab.traffic import Outcome, Stream

API: Final = "http://api.example.com"
API_V4: Final = "198.51.100.1"
API_V6: Final = "2001:db8:100::1"
CDN_V4: Final = "198.51.100.2"
FRONTEND_RULES: Final = "10-frontend-egress.yaml"
PUBLIC_RULE: Final = "path: /public/.*"
CLOSED_RULE: Final = "path: /closed/.*"
BROKEN: Final = "99-broken.yaml"
BROKEN_TEXT: Final = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: broken, namespace: shop}
spec:
  endpointSelector: {}
  egres: []
"""
BROKEN_LINE: Final = 6
DROPPED: Final = "dropped"


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table."""

    name: str
    expected: str
    got: str

    @property
    def ok(self) -> bool:
        """Whether it went as it should."""
        return self.expected == self.got


@dataclass(frozen=True, slots=True)
class Probe:
    """A check to come."""

    name: str
    expected: str
    attempt: Callable[[], str]

    def check(self) -> Check:
        """Try it. A probe that cannot be made is a check that fails, with the reason for what came of it."""
        try:
            return Check(self.name, self.expected, self.attempt())
        except (LabError, OSError) as error:
            return Check(self.name, self.expected, f"error: {' '.join(str(error).split())}")


class Scenario:
    """Runs on a gate whose workloads are registered."""

    def __init__(self, gate: Gate, progress: Callable[[str], None] | None = None) -> None:
        self.gate = gate
        self.lab = gate.lab
        self.frontend, self.batch, self.backend = gate.lab.frontend, gate.lab.batch, gate.lab.backend
        self._progress = progress or (lambda _title: None)

    def run(self) -> Iterator[Check]:
        """Every check, in the order in which it is made."""
        acts: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
            ("packets: addresses, labels, forged sources", lambda: together(self.packets())),
            ("names: allowed, forbidden, learnt", lambda: together(self.names())),
            ("requests: method, path, header", lambda: together(self.requests())),
            ("reload in mid-traffic", self.reload),
            ("kill -9 of the agent while traffic runs", self.crash),
            ("audit mode of one workload", self.audit_mode),
            ("audit log", self.audit),
        )
        for title, act in acts:
            self._progress(title)
            try:
                yield from act()
            except LabError as error:
                yield Check(title, "played to its end", f"stopped: {' '.join(str(error).split())}")

    def packets(self) -> Sequence[Probe]:
        """What the kernel alone decides."""
        frontend, batch = self.frontend, self.batch
        return (
            Probe("batch to its network, by CIDR", "200", lambda: get(batch, "http://results.example/", IN_CIDR)),
            Probe("batch to the host its deny rule carves out", DROPPED, lambda: reach(batch, DENIED_IN_CIDR, 80)),
            Probe("batch to its network, other port", DROPPED, lambda: reach(batch, IN_CIDR, 443)),
            Probe("batch to the backend: not its label", DROPPED, lambda: reach(batch, self.backend.v4, 8080)),
            Probe("batch over IPv6 to the API", DROPPED, lambda: reach(batch, API_V6, 80)),
            Probe("batch asks for a name without a DNS rule", DROPPED, lambda: ask(batch, "api.example.com")),
            Probe("frontend to an address no name led to", DROPPED, lambda: reach(frontend, UNNAMED, 80)),
            Probe("frontend to the CDN before asking for its name", DROPPED, lambda: reach(frontend, CDN_V4, 80)),
            Probe("frontend to an IPv6 address never learnt", DROPPED, lambda: reach(frontend, "2001:db8:100::3", 80)),
            Probe("frontend with the source address of batch", "never arrived", self.forge),
        )

    def names(self) -> Sequence[Probe]:
        """What the DNS proxy decides."""
        frontend = self.frontend
        return (
            Probe("frontend asks for an allowed name", f"NOERROR {API_V4}", lambda: ask(frontend, "api.example.com")),
            Probe(
                "frontend asks for its IPv6 address, over IPv6",
                f"NOERROR {API_V6}",
                lambda: ask(frontend, "api.example.com", "AAAA", server=RESOLVER_V6),
            ),
            Probe(
                "frontend asks for an alias, over TCP",
                f"NOERROR {CDN_V4}",
                lambda: ask(frontend, "www.cdn.example.com", tcp=True),
            ),
            Probe("frontend asks for a forbidden name", "REFUSED", lambda: ask(frontend, "tracker.example.net")),
            Probe("the forbidden question at the name server", "never arrived", self.leaked_question),
        )

    def requests(self) -> Sequence[Probe]:
        """What the HTTP proxy decides, and what names and labels opened."""
        frontend, backend = self.frontend, self.backend
        orders = "http://backend:8080/orders/7"
        return (
            Probe("GET /public/items", "200", lambda: get(frontend, f"{API}/public/items", API_V4)),
            Probe("the same over IPv6", "200", lambda: get(frontend, f"{API}/public/items", API_V6)),
            Probe("POST /public/items: method", "403", lambda: get(frontend, f"{API}/public/items", API_V4, "POST")),
            Probe("GET /admin: path", "403", lambda: get(frontend, f"{API}/admin", API_V4)),
            Probe("GET /admin over IPv6", "403", lambda: get(frontend, f"{API}/admin", API_V6)),
            Probe("GET /reports without its header", "403", lambda: get(frontend, f"{API}/reports", API_V4)),
            Probe(
                "GET /reports with X-Team: shop",
                "200",
                lambda: get(frontend, f"{API}/reports", API_V4, headers=["X-Team: shop"]),
            ),
            Probe("the client's address as the server sees it", self.frontend.v4, self.seen_address),
            Probe("bytes that are not HTTP on an HTTP port", "refused", self.not_http),
            Probe(
                "the CDN after asking for its name", "200", lambda: get(frontend, "http://www.cdn.example.com/", CDN_V4)
            ),
            Probe("TLS to the CDN, for its name", "200", lambda: get(frontend, "https://www.cdn.example.com/", CDN_V4)),
            Probe("TLS to the same address, for another name", "reset", self.other_name),
            Probe("frontend reads from the backend, by label", "200", lambda: get(frontend, orders, backend.v4)),
            Probe("frontend writes to the backend", "403", lambda: get(frontend, orders, backend.v4, "POST")),
            Probe("frontend reads from the backend over IPv6", "200", lambda: get(frontend, orders, backend.v6)),
        )

    def reload(self) -> Iterator[Check]:
        """Rules change under a connection that stays open."""
        gate = self.gate
        with self._api_stream("reload") as stream:
            stream.wait_count(5)
            gate.edit(FRONTEND_RULES, PUBLIC_RULE, CLOSED_RULE)
            gate.must("rules", "reload")
            stream.wait_count(5, mark=stream.mark())
            gate.edit(FRONTEND_RULES, CLOSED_RULE, PUBLIC_RULE)
            gate.must("rules", "reload")
            seen = stream.wait_count(5, mark=stream.mark())
            yield Check("a reload forbids, the next allows again", "200, 403, 200", phases(stream.outcomes()))
            yield Check("all of that on one connection", "1 connection", connections(stream.outcomes()))

            before = gate.status()["revision"]
            gate.write(BROKEN, BROKEN_TEXT)
            done = gate.ctl("rules", "reload")
            (gate.policies / BROKEN).unlink()
            named = f"names {BROKEN}:{BROKEN_LINE}" if f"{BROKEN}:{BROKEN_LINE}" in done.out + done.err else "unnamed"
            yield Check(
                "reload of a broken file", f"exit 1, names {BROKEN}:{BROKEN_LINE}", f"exit {done.code}, {named}"
            )
            seen = stream.wait_count(5, mark=stream.mark())
            after = gate.status()["revision"]
            kept = "same revision" if before == after else f"revision {before} became {after}"
            yield Check("what the broken file changed", "same revision, 200", f"{kept}, {phases(seen)}")

    def crash(self) -> Iterator[Check]:
        """The agent dies; the kernel, the proxies and the established connections do not care."""
        gate, frontend = self.gate, self.frontend
        workers, log = gate.workers(), self.lab.folder / "crash-dns.log"
        with (
            self._api_stream("crash") as http,
            self._batch_stream() as plain,
            Stream.dns(frontend.namespace, log, "api.example.com") as dns,
        ):
            streams = (http, plain, dns)
            for stream in streams:
                stream.wait_count(5)
            gate.kill_agent()
            marks = [stream.mark() for stream in streams]
            probes = (
                Probe("agent dead: a forbidden request", "403", lambda: get(frontend, f"{API}/admin", API_V4)),
                Probe("agent dead: a forbidden name", "REFUSED", lambda: ask(frontend, "tracker.example.net")),
                Probe("agent dead: a forbidden address", DROPPED, lambda: reach(frontend, UNNAMED, 80)),
                Probe("agent dead: a name never asked before", "200", self.learn),
            )
            yield from together(probes)
            dead = [stream.wait_count(10, mark=mark) for stream, mark in zip(streams, marks, strict=True)]
            for what, seen, good in zip(("HTTP", "L4", "DNS"), dead, ("200", "200", "NOERROR"), strict=True):
                yield Check(f"agent dead: allowed {what} traffic", good, phases(seen))

            gate.start()
            yield Check("restarted agent: data-plane processes", "the same ones", same(workers, gate.workers()))
            yield Check("restarted agent: endpoints", "3 ready", self.endpoints())
            for stream in streams:
                stream.wait_count(5, mark=stream.mark())
            yield Check("HTTP from before the crash until now", "200", phases(http.outcomes()))
            yield Check("its connection", "1 connection", connections(http.outcomes()))
            yield Check("DNS from before the crash until now", "NOERROR", phases(dns.outcomes()))

    def audit_mode(self) -> Iterator[Check]:
        """What policy would deny passes and is recorded, for as long as the operator is trying it."""
        gate, frontend = self.gate, self.frontend
        gate.must("endpoint", "config", frontend.name, "PolicyAuditMode=Enabled")
        try:
            yield from together(
                (
                    Probe("audited: an address no name led to", "connected", lambda: reach(frontend, UNNAMED, 80)),
                    Probe("audited: GET /admin", "200", lambda: get(frontend, f"{API}/admin", API_V4)),
                    self._record("a packet that passed", "POLICY_DENIED", frontend.name, verdict="AUDIT"),
                    self._record("a request that passed", "HTTP_DENIED", frontend.name, verdict="AUDIT"),
                )
            )
        finally:
            gate.must("endpoint", "config", frontend.name, "PolicyAuditMode=Default")
        yield Probe("no more audited: GET /admin", "403", lambda: get(frontend, f"{API}/admin", API_V4)).check()

    def audit(self) -> Iterator[Check]:
        """Every kind of deny so far has left its record."""
        wanted = (
            ("a packet no rule allows", "POLICY_DENIED", "batch"),
            ("a packet a deny rule forbids", "POLICY_DENY", "batch"),
            ("a forged source", "INVALID_SOURCE_IP", "frontend"),
            ("a forbidden request", "HTTP_DENIED", "frontend"),
            ("a request at the backend's ingress", "HTTP_DENIED", "backend"),
            ("bytes that are not HTTP", "HTTP_MALFORMED", "frontend"),
            ("a forbidden name", "DNS_DENIED", "frontend"),
            ("a forbidden server name", "SNI_DENIED", "frontend"),
        )
        yield from together([self._record(*one) for one in wanted])

    def _record(self, what: str, reason: str, endpoint: str, verdict: str = "DROPPED") -> Probe:
        expected = f"{reason} of {endpoint}" if verdict == "DROPPED" else f"{verdict} {reason} of {endpoint}"

        def of_this(record: Json) -> bool:
            told = record["reason"], record["endpoint"]["name"], record["verdict"]
            return told == (reason, endpoint, verdict)

        def found() -> str:
            try:
                self.gate.wait_audit(of_this, expected, timeout=2.0)
            except LabError:
                return "no such record"
            return expected

        return Probe(f"audit: {what}", expected, found)

    def forge(self) -> str:
        """Send a question in the name of a neighbour; only the name server can tell whether it got through."""
        name = "forged.example.com"
        question = traffic.question(name)
        traffic.udp(self.frontend.namespace, RESOLVER_V4, 53, question, source=self.batch.v4, timeout=0.5)
        return self._arrived(name)

    def leaked_question(self) -> str:
        """Whether the name server ever heard of the forbidden name."""
        ask(self.frontend, "leak.tracker.example.net")
        return self._arrived("tracker.example.net")

    def _arrived(self, name: str) -> str:
        seen = [query for query in self.lab.resolver.seen() if query.name.endswith(name)]
        return f"arrived from {seen[0].remote}" if seen else "never arrived"

    def seen_address(self) -> str:
        """Who the server thinks the client is."""
        body = traffic.http(self.frontend.namespace, f"{API}/public/whoami", address=API_V4).body
        return body.partition(" from ")[2].partition(" ")[0] or "nobody"

    def not_http(self) -> str:
        """Speak another protocol to the API's port."""
        result = traffic.tcp(self.frontend.namespace, API_V4, 80, b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        if any(seen.status == 400 for seen in self.lab.web.seen()):
            return "reached the server"
        return "refused" if result.closed else f"neither refused nor closed: {result.error}"

    def other_name(self) -> str:
        """Ask the CDN's address for a site that is not the CDN's."""
        result = traffic.http(self.frontend.namespace, "https://www.example.com/", address=CDN_V4, timeout=3.0)
        if any(seen.server_name == "www.example.com" for seen in self.lab.web.seen()):
            return "reached the server"
        return "reset" if "reset" in result.error or "SSL_ERROR_SYSCALL" in result.error else str(result)

    def learn(self) -> str:
        """Ask for a name for the first time, and use the answer at once."""
        answer, response = traffic.browse(self.frontend.namespace, "http://img.cdn.example.com/")
        return str(response) if response is not None else str(answer)

    def endpoints(self) -> str:
        """How the daemon's endpoints are."""
        states = sorted(str(endpoint["state"]) for endpoint in self.gate.endpoints())
        return ", ".join(f"{len(list(group))} {state}" for state, group in groupby(states)) or "none"

    def _api_stream(self, name: str) -> Stream:
        log = self.lab.folder / f"{name}-http.log"
        return Stream.http(self.frontend.namespace, log, f"{API}/public/ticker", address=API_V4)

    def _batch_stream(self) -> Stream:
        log = self.lab.folder / "crash-plain.log"
        url = "http://results.example/"
        return Stream.http(self.batch.namespace, log, url, address=IN_CIDR, keep_alive=False)


def together(probes: Sequence[Probe]) -> Iterator[Check]:
    """Try them at the same time, because a drop takes its time to show; results in order."""
    with ThreadPoolExecutor(max_workers=len(probes)) as pool:
        yield from pool.map(Probe.check, probes)


def get(workload: Workload, url: str, address: str, method: str = "GET", headers: Sequence[str] = ()) -> str:
    """Status of one request, or that its packets were dropped."""
    result = traffic.http(workload.namespace, url, address=address, method=method, headers=headers, timeout=3.0)
    return DROPPED if result.error == "timeout" else str(result)


def reach(workload: Workload, address: str, port: int) -> str:
    """Whether a TCP connection opens."""
    result = traffic.connect(workload.namespace, address, port)
    return DROPPED if result.error == "timeout" else str(result)


def ask(workload: Workload, name: str, qtype: str = "A", *, server: str = RESOLVER_V4, tcp: bool = False) -> str:
    """What a name server answers."""
    result = traffic.dns(workload.namespace, name, qtype, server=server, tcp=tcp, timeout=1)
    return DROPPED if result.error == "timeout" else str(result)


def phases(outcomes: Sequence[Outcome]) -> str:
    """The outcomes without repetition: ``200, 403, 200``."""
    return ", ".join(outcome for outcome, _ in groupby(outcomes, key=lambda step: step.outcome)) or "nothing"


def connections(outcomes: Sequence[Outcome]) -> str:
    """How many connections a stream needed."""
    count = len({step.connection for step in outcomes})
    return "1 connection" if count == 1 else f"{count} connections"


def same(before: dict[str, int], after: dict[str, int]) -> str:
    """Whether two sets of processes are one."""
    if before == after:
        return "the same ones"
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return f"others: {' '.join(changed)}"
