# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy import icmp
from l7policy.model import Port
from l7policy.verdict import Protocol

V4, V6 = Protocol.ICMP, Protocol.ICMPV6


@pytest.mark.parametrize(
    ("protocol", "text", "number"),
    [
        (V4, "EchoRequest", 8),
        (V4, "8", 8),
        (V4, "0", 0),
        (V4, "255", 255),
        (V6, "EchoRequest", 128),
        (V6, "PacketTooBig", 2),
    ],
)
def test_a_type_is_a_number_or_a_name_of_its_family(protocol: Protocol, text: str, number: int) -> None:
    assert icmp.message(protocol, text) == Port(protocol, number, number)


@pytest.mark.parametrize(
    ("protocol", "text", "fault"),
    [
        (V4, "256", "from 0 to 255"),
        (V4, "echo", "did you mean Echo"),
        (V4, "PacketTooBig", "unknown type"),
        (V4, "-1", "unknown type"),
        (V4, "", "unknown type"),
        (V4, "9" * 5000, "from 0 to 255"),
        (V4, "\u0668", "from 0 to 255"),
    ],
)
def test_what_is_no_type_is_refused(protocol: Protocol, text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        icmp.message(protocol, text)


def test_families_are_told_by_name() -> None:
    assert (icmp.family("IPv4"), icmp.family("IPv6")) == (V4, V6)
    with pytest.raises(ValueError, match="did you mean IPv6"):
        icmp.family("ipv6")
