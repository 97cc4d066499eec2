# SPDX-License-Identifier: Apache-2.0
"""ICMP message types by number and by Cilium's names (pkg/policy/api/icmp.go), of both families.

Failure verdict: ValueError with a text that says what is wrong.
"""

from typing import Final

from l7policy.errors import did_you_mean
from l7policy.model import Port
from l7policy.verdict import Protocol

FAMILIES: Final = {"IPv4": Protocol.ICMP, "IPv6": Protocol.ICMPV6}
TYPES: Final = {
    Protocol.ICMP: {
        "EchoReply": 0,
        "DestinationUnreachable": 3,
        "Redirect": 5,
        "Echo": 8,
        "EchoRequest": 8,
        "RouterAdvertisement": 9,
        "RouterSelection": 10,
        "TimeExceeded": 11,
        "ParameterProblem": 12,
        "Timestamp": 13,
        "TimestampReply": 14,
        "Photuris": 40,
        "ExtendedEchoRequest": 42,
        "ExtendedEchoReply": 43,
    },
    Protocol.ICMPV6: {
        "DestinationUnreachable": 1,
        "PacketTooBig": 2,
        "TimeExceeded": 3,
        "ParameterProblem": 4,
        "EchoRequest": 128,
        "EchoReply": 129,
        "MulticastListenerQuery": 130,
        "MulticastListenerReport": 131,
        "MulticastListenerDone": 132,
        "RouterSolicitation": 133,
        "RouterAdvertisement": 134,
        "NeighborSolicitation": 135,
        "NeighborAdvertisement": 136,
        "RedirectMessage": 137,
        "RouterRenumbering": 138,
        "ICMPNodeInformationQuery": 139,
        "ICMPNodeInformationResponse": 140,
        "InverseNeighborDiscoverySolicitation": 141,
        "InverseNeighborDiscoveryAdvertisement": 142,
        "HomeAgentAddressDiscoveryRequest": 144,
        "HomeAgentAddressDiscoveryReply": 145,
        "MobilePrefixSolicitation": 146,
        "MobilePrefixAdvertisement": 147,
        "DuplicateAddressRequestCodeSuffix": 157,
        "DuplicateAddressConfirmationCodeSuffix": 158,
        "ExtendedEchoRequest": 160,
        "ExtendedEchoReply": 161,
    },
}
LAST_TYPE: Final = 255


def family(text: str) -> Protocol:
    """``IPv4`` or ``IPv6`` as the protocol it means."""
    if text not in FAMILIES:
        raise ValueError(f"unknown family {text[:80]!r}; {did_you_mean(text, FAMILIES)}")
    return FAMILIES[text]


def message(protocol: Protocol, text: str) -> Port:
    """A type by number or name, as the model holds it: where other protocols have ports."""
    number = TYPES[protocol].get(text)
    if number is None:
        if not text.isdecimal():
            raise ValueError(f"unknown type {text[:80]!r}; {did_you_mean(text, TYPES[protocol])}")
        if len(text) > 3 or not text.isascii() or int(text) > LAST_TYPE:
            raise ValueError(f"{text[:80]!r} is not a type: a number from 0 to {LAST_TYPE}")
        number = int(text)
    return Port(protocol, number, number)
