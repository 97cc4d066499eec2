# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.bpf."""

from collections.abc import Callable
from typing import Any

from click.testing import Result


def test_policy_of_one_endpoint_is_asked_for_by_name(l7ctl: Callable[..., Result], agent: Any) -> None:
    result = l7ctl("bpf", "policy", "get", "web")
    assert [what for what, _ in agent.asked] == ["GET /v1/bpf/policy?endpoint=web"]
    assert "8080-8083" in result.stdout


def test_policy_of_all_is_asked_for_without_a_name(l7ctl: Callable[..., Result], agent: Any) -> None:
    assert l7ctl("bpf", "policy", "get").exit_code == 0
    assert [what for what, _ in agent.asked] == ["GET /v1/bpf/policy"]
