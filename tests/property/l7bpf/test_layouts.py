# SPDX-License-Identifier: Apache-2.0
import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from l7bpf.flows import ConntrackKey
from l7bpf.layouts import Event, IpcacheKey, PolicyKey, pack_address, unpack_address

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
NETWORKS = st.one_of(
    ADDRESSES, st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
).map(lambda given: ipaddress.ip_network(given, strict=False))
NUMBERS = st.integers(0, 2**32 - 1)
PORTS = st.integers(0, 65535)


@given(ADDRESSES)
def test_an_address_comes_back(address):
    assert ipaddress.ip_address(unpack_address(*pack_address(address))) == ipaddress.ip_address(address)


@given(NETWORKS)
def test_a_prefix_comes_back_canonical(network):
    assert IpcacheKey.unpack(IpcacheKey(str(network)).pack()).prefix == str(network)


@given(NETWORKS, ADDRESSES)
def test_a_prefix_covers_an_address_as_the_kernel_compares_them(network, address):
    prefix, whole = IpcacheKey(str(network)).pack(), IpcacheKey(address).pack()
    bits = int.from_bytes(prefix[:4], "little")
    compare = [int.from_bytes(key[4:], "big") >> (160 - bits) for key in (prefix, whole)]
    assert (compare[0] == compare[1]) == (ipaddress.ip_address(address) in network)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 1),
    st.integers(1, 255),
    PORTS,
    st.integers(0, 16),
)
def test_a_policy_key_covers_the_ports_that_share_its_bits(policy_id, identity, direction, protocol, port, bits):
    key = PolicyKey.unpack(PolicyKey(policy_id, identity, direction, protocol, port, bits).pack())
    assert (key.policy_id, key.identity, key.direction, key.protocol, key.port_bits) == (
        policy_id,
        identity,
        direction,
        protocol,
        bits,
    )
    assert key.port >> (16 - bits) == port >> (16 - bits)
    assert key.port & ((1 << (16 - bits)) - 1) == 0


@given(st.ip_addresses(v=6).map(str), st.ip_addresses(v=6).map(str), PORTS, PORTS, st.integers(0, 255))
def test_a_connection_key_comes_back(source, destination, sport, dport, protocol):
    packed = ConntrackKey(source, destination, sport, dport, protocol).pack()
    assert ConntrackKey.unpack(packed).pack() == packed


@given(st.binary(min_size=Event.LAYOUT.size, max_size=Event.LAYOUT.size + 16))
def test_no_record_of_the_ring_upsets_the_reader(data):
    Event.unpack(data)
