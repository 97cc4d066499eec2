# SPDX-License-Identifier: Apache-2.0
"""FQDN identities: one number per base and selectors, none given twice."""

import pytest

from l7dns.identities import LAST_FQDN_IDENTITY, MAX_SELECTORS, Identities, capped
from l7policy.ids import FIRST_FQDN_IDENTITY, WORLD, IdentityId

API = (WORLD, frozenset({"fqdn:api.example.com"}))
CDN = (WORLD, frozenset({"fqdn:*.cdn.example.com"}))


def test_the_same_selectors_share_a_number_and_others_do_not() -> None:
    identities = Identities()
    api = identities.obtain(API)
    assert identities.obtain(API) is api
    assert identities.obtain(CDN).id != api.id
    assert identities.obtain((IdentityId(16777216), API[1])).id != api.id
    assert len(identities) == 3


def test_a_dropped_number_is_not_used_again_at_once() -> None:
    identities = Identities()
    api = identities.obtain(API)
    identities.drop(api)
    assert identities.obtain(CDN).id != api.id


def test_a_number_in_use_cannot_be_dropped() -> None:
    identities = Identities()
    api = identities.obtain(API)
    api.addresses = 1
    with pytest.raises(AssertionError):
        identities.drop(api)


def test_numbers_begin_again_at_the_end_of_their_range() -> None:
    identities = Identities()
    identities.next = LAST_FQDN_IDENTITY
    assert identities.obtain(API).id == LAST_FQDN_IDENTITY
    assert identities.obtain(CDN).id == FIRST_FQDN_IDENTITY


def test_a_number_the_kernel_holds_is_taken_over_once() -> None:
    identities = Identities()
    adopted = identities.adopt(IdentityId(FIRST_FQDN_IDENTITY + 7), API)
    assert adopted is not None
    assert identities.obtain(API) is adopted
    assert identities.adopt(IdentityId(FIRST_FQDN_IDENTITY + 8), API) is None
    assert identities.adopt(adopted.id, CDN) is None
    assert identities.obtain(CDN).id == FIRST_FQDN_IDENTITY + 8


def test_selectors_over_the_cap_are_left_out_the_same_way_everywhere() -> None:
    many = frozenset(f"fqdn:{number:03d}.example.com" for number in range(MAX_SELECTORS + 5))
    assert capped(many) == frozenset(sorted(many)[:MAX_SELECTORS])
    assert capped(API[1]) is API[1]


def test_idle_ones_are_those_without_an_address_since_then() -> None:
    identities = Identities()
    api, cdn = identities.obtain(API), identities.obtain(CDN)
    api.idle_since, cdn.idle_since, cdn.addresses = 5.0, 5.0, 1
    assert identities.idle(5.0) == [api]
    assert identities.idle(4.0) == []
