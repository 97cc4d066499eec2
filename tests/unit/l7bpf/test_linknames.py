# SPDX-License-Identifier: Apache-2.0
"""Names of pinned links."""

import pytest

from l7bpf.linknames import LinkName, Owner, draft, drafted


@pytest.mark.parametrize(
    ("owner", "program", "name"),
    [
        ("endpoint", "from_endpoint", "endpoint_7_from"),
        ("endpoint", "to_endpoint", "endpoint_7_to"),
        ("uplink", "from_uplink", "uplink_7_from"),
        ("cgroup", "cgroup_ingress", "cgroup_7_ingress"),
        ("cgroup", "cgroup_egress", "cgroup_7_egress"),
    ],
)
def test_a_name_says_whose_link_it_is_and_reads_back(owner: Owner, program: str, name: str) -> None:
    made = LinkName.of(owner, 7, program)
    assert str(made) == name
    assert LinkName.read(name) == made
    assert drafted(draft(name, 4711)) == name


@pytest.mark.parametrize("name", ["steer", "endpoint_7", "endpoint_x_from", "uplink_7_from_12", "other_7_from", ""])
def test_another_name_is_nobodys(name: str) -> None:
    assert LinkName.read(name) is None


@pytest.mark.parametrize(
    ("name", "wanted"), [("steer_9", "steer"), ("endpoint_7_from", ""), ("other_9", ""), ("9", "")]
)
def test_only_drafts_of_links_are_drafts(name: str, wanted: str) -> None:
    assert drafted(name) == wanted
