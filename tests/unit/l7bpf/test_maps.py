# SPDX-License-Identifier: Apache-2.0
from l7bpf.maps import hash64


def test_a_selectors_number_is_the_same_everywhere():
    assert hash64("fqdn:*.example.com") == 0x36B21C2351B1C587
    assert hash64("fqdn:example.com") != hash64("fqdn:*.example.com")
