# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.fqdn."""

import json
from collections.abc import Callable

import pytest
from click.testing import Result


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["api.example.com", "other.example"]),
        (["-p", "*.EXAMPLE.com."], ["api.example.com"]),
        (["-e", "db"], ["other.example"]),
        (["-e", "db", "-p", "*.example.com"], []),
    ],
)
def test_the_cache_can_be_narrowed(l7ctl: Callable[..., Result], options: list[str], names: list[str]) -> None:
    result = l7ctl("fqdn", "cache", "list", *options, "-o", "json")
    assert [entry["name"] for entry in json.loads(result.stdout)] == names
