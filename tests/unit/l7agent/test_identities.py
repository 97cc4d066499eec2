# SPDX-License-Identifier: Apache-2.0
"""Identity numbers: stable over restarts, never shared, kept in their ranges."""

from pathlib import Path

import pytest

from l7agent.identities import Identities
from l7agent.statefile import StateError
from l7policy import ids

WEB = frozenset({"k8s:app=web"})
DB = frozenset({"k8s:app=db"})
NET = frozenset({"cidr:192.0.2.0/24", "reserved:world"})


def test_the_same_labels_get_the_same_number_after_a_restart(tmp_path: Path) -> None:
    first = Identities(tmp_path / "identities.json")
    web, net = first.workload(WEB), first.cidr(NET)
    first.retain({web, net})
    second = Identities(tmp_path / "identities.json")
    assert (second.workload(WEB), second.cidr(NET)) == (web, net)


def test_different_labels_never_share_a_number(tmp_path: Path) -> None:
    identities = Identities(tmp_path / "identities.json")
    assert identities.workload(WEB) != identities.workload(DB)


def test_workloads_and_cidrs_are_numbered_in_their_ranges(tmp_path: Path) -> None:
    identities = Identities(tmp_path / "identities.json")
    assert identities.workload(WEB) >= ids.FIRST_CLUSTER_IDENTITY
    assert ids.FIRST_LOCAL_IDENTITY <= identities.cidr(NET) < ids.FIRST_FQDN_IDENTITY


def test_a_number_that_is_not_used_any_more_is_forgotten(tmp_path: Path) -> None:
    identities = Identities(tmp_path / "identities.json")
    web = identities.workload(WEB)
    identities.retain(set())
    assert '"' + "k8s:app=web" not in (tmp_path / "identities.json").read_text()
    assert identities.workload(DB) == web


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "identities.json"
    path.write_text("{")
    with pytest.raises(StateError, match=r"identities\.json.*remove the file"):
        Identities(path)
