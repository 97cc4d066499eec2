# SPDX-License-Identifier: Apache-2.0
"""What `fqdn cache list -o json` says can be fed back; anything else is refused as a whole."""

import json

import pytest

from l7dns.precache import PrecacheError, read

ROW = {"name": "API.example.com", "address": "198.51.100.1", "ttl": 42.5, "endpoint": "web", "selectors": []}


def test_rows_are_names_that_the_operator_says() -> None:
    over = ROW | {"source": "connection"}
    found = read(json.dumps([ROW, over, {"name": "b.example.", "address": "2001:db8::1", "ttl": 1e12}]).encode())
    assert [(fact.name, fact.server, len(address), ttl) for fact, address, ttl in found] == [
        ("api.example.com.", "", 4, 42.5),
        ("b.example.", "", 16, 604_800),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"{", "not a list"),
        (b'{"name": "a."}', "not a list"),
        (b'[{"name": "a."}]', "not a list"),
        (json.dumps([ROW, ROW | {"address": "198.51.100.300"}]).encode(), "item 1: '198.51.100.300'"),
        (json.dumps([ROW | {"name": "*.example.com"}]).encode(), "item 0: "),
    ],
)
def test_a_file_with_a_mistake_is_refused_and_the_item_named(text: bytes, problem: str) -> None:
    with pytest.raises(PrecacheError, match=problem):
        read(text)
