# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.suffixes."""

import pytest

from l7policy import suffixes


@pytest.mark.parametrize("suffix", ["com", "io", "co.uk", "com.br", "github.io", "s3.amazonaws.com", "cloudfront.net"])
def test_strangers_have_names_below(suffix: str) -> None:
    assert suffixes.is_public(suffix)


@pytest.mark.parametrize("suffix", ["", "local", "internal", "example.com", "cluster.local", "example.co.uk"])
def test_strangers_have_no_names_below(suffix: str) -> None:
    assert not suffixes.is_public(suffix)
