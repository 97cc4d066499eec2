# SPDX-License-Identifier: Apache-2.0
import struct

import pytest

from l7bpf.flows import ConntrackKey
from l7bpf.layouts import (
    FQDN_SELECTORS,
    AddressKey,
    Event,
    FqdnIdentity,
    IpcacheKey,
    PolicyKey,
    pack_address,
    unpack_address,
)


@pytest.mark.parametrize(
    ("text", "family", "packed"),
    [
        ("192.0.2.1", 4, bytes(12) + b"\xc0\x00\x02\x01"),
        ("2001:db8::1", 6, b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
        ("::", 6, bytes(16)),
        ("::ffff:192.0.2.1", 6, bytes(10) + b"\xff\xff\xc0\x00\x02\x01"),
    ],
)
def test_an_address_is_sixteen_bytes_and_a_family(text, family, packed):
    assert pack_address(text) == (family, packed)
    assert unpack_address(family, packed) == text


@pytest.mark.parametrize("text", ["", "192.0.2", "192.0.2.256", "example.com", "2001:db8::g", "2001:db8::%eth0"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(OSError, match=r"illegal IP address"):
        pack_address(text)


@pytest.mark.parametrize(
    ("prefix", "prefixlen"),
    [
        ("0.0.0.0/0", 128),
        ("192.0.2.0/24", 152),
        ("192.0.2.1/32", 160),
        ("192.0.2.1", 160),
        ("::/0", 32),
        ("2001:db8::/32", 64),
        ("2001:db8::1", 160),
    ],
)
def test_a_prefix_counts_its_family_and_the_zeros_before_ipv4(prefix, prefixlen):
    assert struct.unpack_from("=I", IpcacheKey(prefix).pack())[0] == prefixlen


@pytest.mark.parametrize("prefix", ["192.0.2.0/33", "2001:db8::/129", "192.0.2.0/-1", "192.0.2.0/x"])
def test_an_impossible_prefix_length_is_refused(prefix):
    with pytest.raises(ValueError, match=r"prefix length|invalid literal"):
        IpcacheKey(prefix).pack()


@pytest.mark.parametrize(
    ("key", "prefixlen"),
    [
        (PolicyKey(1, 2, 0), 72),
        (PolicyKey(1, 2, 0, 6), 80),
        (PolicyKey(1, 2, 0, 6, 80, 16), 96),
        (PolicyKey(1, 2, 0, 6, 8080, 12), 92),
    ],
)
def test_a_policy_key_says_how_much_of_it_counts(key, prefixlen):
    assert struct.unpack_from("=I", key.pack())[0] == prefixlen


@pytest.mark.parametrize(
    "key", [PolicyKey(1, 2, 0, 0, 80, 16), PolicyKey(1, 2, 0, 6, 80, 17), PolicyKey(1, 2, 0, 6, 80, -1)]
)
def test_a_port_without_a_protocol_is_refused(key):
    with pytest.raises(ValueError, match="port_bits"):
        key.pack()


@pytest.mark.parametrize("key", [PolicyKey(2**32, 0, 0), PolicyKey(0, 0, 256), PolicyKey(-1, 0, 0)])
def test_a_number_that_does_not_fit_is_refused(key):
    with pytest.raises(struct.error):
        key.pack()


def test_an_identity_holds_so_many_selectors_and_no_more():
    full = FqdnIdentity(2, tuple(range(FQDN_SELECTORS)))
    assert FqdnIdentity.unpack(full.pack()) == full
    with pytest.raises(ValueError, match="selectors"):
        FqdnIdentity(2, tuple(range(FQDN_SELECTORS + 1))).pack()


def test_keys_of_both_families_do_not_meet():
    assert AddressKey("0.0.0.0").pack() != AddressKey("::").pack()
    assert ConntrackKey("0.0.0.0", "0.0.0.0", 1, 2, 6).pack() != ConntrackKey("::", "::", 1, 2, 6).pack()


def test_an_event_without_readable_addresses_has_none():
    event = Event(1, 2, 3, 4, 5, 6, 7, 8, "", "", 0, 0, 0, 0, 0, 2, 134)
    assert Event.unpack(event.pack()) == event
    assert Event.unpack(event.pack() + b"what a later version may add") == event
