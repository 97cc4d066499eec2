# SPDX-License-Identifier: Apache-2.0
"""What was decided about a packet, a request or a query, and why: one table for the kernel, the proxies and the log.

`bpf/programs/reasons.h` is generated from `Reason` (``python -m l7policy.verdict``) and a test holds the two equal.
Numbers that Cilium has too (pkg/monitor/api/drop.go, api/v1/flow/flow.proto) keep its values.
"""

from enum import IntEnum


class Verdict(IntEnum):
    """Outcome of one judgement, numbered as in Hubble's flow.proto."""

    FORWARDED = 1
    DROPPED = 2
    ERROR = 3
    AUDIT = 4
    REDIRECTED = 5


class Direction(IntEnum):
    """Seen from the endpoint whose policy is meant."""

    EGRESS = 0
    INGRESS = 1


class Protocol(IntEnum):
    """IP protocol numbers that a policy can name. ANY matches every protocol."""

    ANY = 0
    ICMP = 1
    TCP = 6
    UDP = 17
    ICMPV6 = 58
    SCTP = 132


class ProxyKind(IntEnum):
    """Which proxy a redirected flow is steered to."""

    NONE = 0
    HTTP = 1
    DNS = 2
    TLS = 3


class Reason(IntEnum):
    """Why something was not simply forwarded. One byte in the kernel's event."""

    def __new__(cls, value: int, text: str = "") -> "Reason":
        member = int.__new__(cls, value)
        member._value_ = value
        member.text = text
        return member

    text: str
    """The sentence shown to people."""

    NONE = (0, "Forwarded")
    INVALID_SOURCE_IP = (132, "Source address does not belong to the workload")
    POLICY_DENIED = (133, "No rule allows it")
    INVALID_PACKET = (134, "Malformed packet")
    UNKNOWN_L3 = (139, "Neither IPv4, IPv6 nor ARP")
    UNKNOWN_L4 = (142, "Transport protocol not supported")
    CONNTRACK_FULL = (155, "Connection table could not take the flow")
    FRAGMENT = (157, "IP fragment without ports")
    POLICY_DENY = (181, "A deny rule forbids it")
    PROXY_UNAVAILABLE = (200, "The flow needs the proxy and the proxy cannot be reached")
    REDIRECT_IMPOSSIBLE = (201, "The flow needs the proxy but began where it cannot be redirected")
    FORGED_MARK = (202, "Packet carries the proxy's mark but is not the proxy's")
    ENDPOINT_UNKNOWN = (203, "No endpoint is registered behind this interface")
    RAW_SOCKET = (204, "A process under policy may not make packets by hand (raw socket)")
    FRAGMENT_OVERLAP = (205, "IP fragment out of order, or over bytes that were there already")
    GROUP_ADDRESS = (206, "Destination is no single host: multicast, broadcast, loopback or none")
    VLAN_TAGGED = (207, "A workload's frame carries a VLAN tag")
    PROXY_PORT = (208, "A process under policy may not connect to a proxy's own port")
    HTTP_DENIED = (210, "No HTTP rule allows the request")
    HTTP_MALFORMED = (211, "Not HTTP, or HTTP that two parsers could read differently")
    HTTP_TIMEOUT = (212, "The client did not complete its request head in time")
    HTTP_LIMIT = (213, "A connection limit was reached")
    UPSTREAM_UNREACHABLE = (214, "The server refused the connection or could not be reached")
    UPSTREAM_MALFORMED = (215, "The server's response could not be understood")
    POLICY_CHANGED = (216, "Policy no longer lets this connection through")
    HOST_MISMATCH = (217, "Host is no name by which the destination was allowed")
    DNS_DENIED = (220, "No DNS rule allows the name")
    DNS_MALFORMED = (221, "Malformed DNS message")
    DNS_UPSTREAM_TIMEOUT = (222, "The name server did not answer in time")
    DNS_UPSTREAM_INVALID = (223, "The name server's answer did not fit the question")
    DNS_LIMIT = (224, "Too many queries in flight")
    SNI_DENIED = (230, "No rule allows the TLS server name")
    TLS_MALFORMED = (231, "Not TLS, or a ClientHello that two servers could read differently")
    TLS_TIMEOUT = (232, "The TLS connection fell silent: no ClientHello in time, or no byte for too long")
    DNS_LEARN_FAILED = (225, "A learnt address could not be written to the kernel, so the answer was withheld")


def c_header() -> str:
    """The same tables as C, for the datapath."""
    lines = [
        "/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */",
        "/* Generated from policy/l7policy/verdict.py by `python -m l7policy.verdict`. Do not edit. */",
        "#pragma once",
        "/* clang-format off */",
    ]
    for enum, prefix in ((Verdict, "VERDICT"), (Direction, "DIRECTION"), (ProxyKind, "PROXY"), (Reason, "REASON")):
        lines.append("")
        lines.extend(f"#define {prefix}_{member.name} {member.value}" for member in enum)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(c_header(), end="")
