# SPDX-License-Identifier: Apache-2.0
"""The lines of the monitor, as users of `cilium monitor` know them."""

import pytest

from l7observe import record
from l7observe.flow import DnsSummary, Flow, FlowPeer, FlowType, HttpSummary, L7Type, PacketSummary, TlsSummary
from l7observe.monitorline import monitor_line
from l7policy.verdict import Direction, Protocol, Reason, Verdict

WEB = FlowPeer("192.0.2.1", 40112, 256, ("k8s:app=web",), 7, "web")
SERVER = FlowPeer("198.51.100.7", 80, 2, ("reserved:world",))
SERVER6 = FlowPeer("2001:db8::7", 80, 2)


def shown(verbose: bool = False, **values: object) -> str:
    given: dict[str, object] = {
        "time": 1767225600.25,
        "layer": "packet",
        "verdict": Verdict.FORWARDED,
        "reason": Reason.NONE,
        "direction": Direction.EGRESS,
        "protocol": Protocol.TCP,
        "source": WEB,
        "destination": SERVER,
        "endpoint": 7,
        "type": FlowType.POLICY_VERDICT,
        "packet": PacketSummary(tcp_flags=2, new=True, point="from-endpoint"),
    }
    return monitor_line(record.from_flow(Flow(**(given | values))), verbose=verbose)  # type: ignore[arg-type]


HEAD = "Policy verdict log: local EP ID 7 (web), remote ID 2, proto TCP, egress, action "


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"rule": "a/b egress[0]"},
            HEAD + "allow, match rule a/b egress[0], 192.0.2.1:40112 -> 198.51.100.7:80 tcp SYN",
        ),
        (
            {"verdict": Verdict.REDIRECTED, "proxy": "http", "rule": "a/b egress[0]"},
            HEAD + "redirect to http proxy, match rule a/b egress[0], 192.0.2.1:40112 -> 198.51.100.7:80 tcp SYN",
        ),
        (
            {"verdict": Verdict.DROPPED, "reason": Reason.POLICY_DENIED, "destination": SERVER6},
            HEAD + "deny, match no rule, 192.0.2.1:40112 -> [2001:db8::7]:80 tcp SYN",
        ),
        (
            {"verdict": Verdict.AUDIT, "reason": Reason.POLICY_DENIED, "packet": None},
            HEAD + "audit, match no rule, 192.0.2.1:40112 -> 198.51.100.7:80 tcp",
        ),
        (
            {"type": FlowType.DROP, "verdict": Verdict.DROPPED, "reason": Reason.POLICY_DENIED},
            (
                "xx drop (No rule allows it) from endpoint 7 (web), POLICY_DENIED, no rule, identity 256->2: "
                "192.0.2.1:40112 -> 198.51.100.7:80 tcp SYN"
            ),
        ),
        (
            {"type": FlowType.TRACE, "verdict": Verdict.REDIRECTED},
            "<- endpoint 7 (web) to proxy, identity 256->2 state new: 192.0.2.1:40112 -> 198.51.100.7:80 tcp SYN",
        ),
        (
            {
                "type": FlowType.TRACE,
                "direction": Direction.INGRESS,
                "source": SERVER,
                "destination": WEB,
                "packet": PacketSummary(tcp_flags=0x11, reply=True, point="to-endpoint"),
            },
            "-> endpoint 7 (web), identity 2->256 state reply: 198.51.100.7:80 -> 192.0.2.1:40112 tcp ACK, FIN",
        ),
        (
            {
                "type": FlowType.TRACE,
                "direction": Direction.INGRESS,
                "source": SERVER,
                "destination": WEB,
                "packet": PacketSummary(tcp_flags=0x10, point="from-uplink"),
            },
            (
                "<- network to endpoint 7 (web), identity 2->256 state established: "
                "198.51.100.7:80 -> 192.0.2.1:40112 tcp ACK"
            ),
        ),
        (
            {
                "type": FlowType.L7,
                "layer": "http",
                "verdict": Verdict.DROPPED,
                "reason": Reason.HTTP_DENIED,
                "packet": None,
                "http": HttpSummary("HEAD", "shop.example", "/status", 403),
            },
            (
                "<- Request http from web:40112 to 198.51.100.7:80, identity 256->2, "
                "verdict Denied HEAD http://shop.example/status => 403, HTTP_DENIED, no rule"
            ),
        ),
        (
            {
                "type": FlowType.L7,
                "l7_type": L7Type.RESPONSE,
                "layer": "dns",
                "packet": None,
                "latency_ns": 1_500_000,
                "dns": DnsSummary("shop.example", "A", "NOERROR", ("198.51.100.7",)),
            },
            (
                "-> Response dns from web:40112 to 198.51.100.7:80, identity 256->2, "
                "verdict Forwarded DNS Query shop.example. A = 198.51.100.7 => NOERROR, 1.500 ms"
            ),
        ),
        (
            {"type": FlowType.L7, "layer": "tls", "packet": None, "tls": TlsSummary("shop.example")},
            "<- Request tls from web:40112 to 198.51.100.7:80, identity 256->2, verdict Forwarded SNI shop.example",
        ),
    ],
)
def test_a_line_reads_as_ciliums(values: dict[str, object], line: str) -> None:
    assert shown(**values) == line


def test_verbose_adds_when_and_who() -> None:
    assert shown(verbose=True, policies=("a/b",), revision=3).startswith("2026-01-01T00:00:00.250000Z Policy verdict")
    assert shown(verbose=True, policies=("a/b",), revision=3).endswith(
        " labels ([k8s:app=web] -> [reserved:world]) policies a/b revision 3"
    )


def test_nothing_that_a_terminal_obeys_gets_through() -> None:
    line = shown(type=FlowType.L7, layer="http", http=HttpSummary("GET", "a.example", "/\x1b[2J\x9b1m"))
    assert "\x1b" not in line
    assert "\x9b" not in line
