# SPDX-License-Identifier: Apache-2.0
import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st

from l7policy import resolve
from l7policy.selectors import WORLD_LABEL


def prefix(family: str, bits: int, length: int) -> str:
    base = ipaddress.ip_network(family)
    shift = base.max_prefixlen - base.prefixlen - 8
    address = ipaddress.ip_address(int(base.network_address) | bits << shift)
    return str(ipaddress.ip_network((address, base.prefixlen + length), strict=False))


# Few bits below documentation ranges, so that prefixes contain one another often.
PREFIXES = st.builds(
    prefix,
    st.sampled_from(["198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"]),
    st.integers(0, 255),
    st.integers(0, 8),
) | st.sampled_from(["0.0.0.0/0", "::/0"])


@given(st.sets(PREFIXES, max_size=12))
@settings(max_examples=150, deadline=None)
def test_labels_of_a_prefix_are_those_of_all_prefixes_around_it(cidrs: set[str]) -> None:
    labels = resolve.prefix_identity_labels(cidrs)
    networks = {text: ipaddress.ip_network(text) for text in cidrs}
    for text, network in networks.items():
        around = {
            f"cidr:{other}"
            for other, wider in networks.items()
            if wider.version == network.version
            and wider.network_address <= network.network_address
            and network.broadcast_address <= wider.broadcast_address
        }
        assert labels[text] == around | {WORLD_LABEL}
        assert resolve.cidr_labels(text, cidrs) == labels[text]
    assert labels.keys() == cidrs
