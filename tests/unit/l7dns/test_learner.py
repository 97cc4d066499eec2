# SPDX-License-Identifier: Apache-2.0
"""Learning, step by step: what is written to the kernel, in which order, and what is taken back."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from l7dns.addresses import address_bytes
from l7dns.kerneltables import MemoryTables
from l7dns.learner import MIN_HOLD, Learner
from l7policy.entries import Entry
from l7policy.ids import FIRST_FQDN_IDENTITY, WORLD, IdentityId, PolicyId, Revision
from l7policy.model import CidrPeer, EndpointPolicy, FqdnPeer, Origin, Port, Rule, Snapshot
from l7policy.names import hash64
from l7policy.verdict import Direction, Protocol

EXACT, STARS, OTHER = (
    FqdnPeer(match_name="www.example.com."),
    FqdnPeer(match_pattern="*.example.com."),
    FqdnPeer(match_name="www.example.net."),
)
CIDR = IdentityId(1 << 24)
HOSTED = IdentityId((1 << 24) + 5)
IP, IP2 = address_bytes("203.0.113.1"), address_bytes("203.0.113.2")
WWW, API = "www.example.com.", "api.example.com."


def policy(*peers: FqdnPeer | CidrPeer) -> EndpointPolicy:
    rules = tuple(
        Rule(
            Direction.EGRESS, Origin("p", f"egress[{index}]"), (peer,), (Port(Protocol.TCP, 443 + index, 443 + index),)
        )
        for index, peer in enumerate(peers)
    )
    return EndpointPolicy(rules, enforce_egress=True)


def snapshot(revision: int, policies: dict[int, EndpointPolicy], *selectors: FqdnPeer, **prefixes: int) -> Snapshot:
    identities = {
        WORLD: ("reserved:world",),
        CIDR: ("cidr:203.0.113.0/24", "reserved:world"),
        HOSTED: ("cidr:203.0.113.2/32", "reserved:world"),
        IdentityId(300): ("k8s:app=web",),
    }
    known = {
        "wide": ("203.0.113.0/24", CIDR),
        "hosted": ("203.0.113.2/32", HOSTED),
        "pod": ("203.0.113.1/32", IdentityId(300)),
    }
    return Snapshot(
        Revision(revision),
        {PolicyId(number): found for number, found in policies.items()},
        identities,
        dict(known[name] for name in prefixes),
        selectors,
    )


class Journal(MemoryTables):
    """Writes down what is written, and fails where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.broken = ""

    def note(self, call: str) -> None:
        if call == self.broken:
            raise OSError(f"{call}: no room")
        self.calls.append(call)

    def write_identity(self, identity: IdentityId, base: IdentityId, selectors: Sequence[int]) -> None:
        self.note("write_identity")
        super().write_identity(identity, base, selectors)

    def delete_identity(self, identity: IdentityId) -> None:
        self.note("delete_identity")
        super().delete_identity(identity)

    def write_entries(self, policy_id: PolicyId, entries: Sequence[Entry]) -> None:
        self.note("write_entries")
        super().write_entries(policy_id, entries)

    def delete_entries(self, policy_id: PolicyId, entries: Sequence[Entry]) -> None:
        self.note("delete_entries")
        super().delete_entries(policy_id, entries)

    def write_ipcache(self, address: bytes, identity: IdentityId) -> None:
        self.note("write_ipcache")
        super().write_ipcache(address, identity)

    def delete_ipcache(self, address: bytes) -> None:
        self.note("delete_ipcache")
        super().delete_ipcache(address)

    def row(self, address: bytes) -> tuple[int, set[int]] | None:
        """Base and selectors of what an address has."""
        number = self.ipcache_rows.get(address)
        if number is None or number not in self.identity_rows:
            return None
        base, hashes = self.identity_rows[number]
        return base, set(hashes)


def hashes(*peers: FqdnPeer) -> set[int]:
    return {hash64(peer.label) for peer in peers}


@pytest.fixture
def kernel() -> Journal:
    return Journal()


@pytest.fixture
def learner(kernel: Journal, tmp_path: Path) -> Learner:
    made = Learner(kernel, tmp_path, linger=20.0)
    assert made.restore(0.0) == ()
    assert made.prepare(snapshot(1, {1: policy(EXACT, STARS)}, EXACT, STARS), 0.0) == ""
    made.commit(1, 0.0)
    kernel.calls.clear()
    return made


def test_identity_then_policy_then_address_and_the_second_address_is_one_write(
    learner: Learner, kernel: Journal
) -> None:
    assert learner.learn(WWW, [IP], 60, 0.0) == ""
    assert kernel.calls == ["write_identity", "write_entries", "write_ipcache"]
    kernel.calls.clear()
    assert learner.learn(WWW, [IP, IP2], 60, 1.0) == ""
    assert kernel.calls == ["write_ipcache"]
    kernel.calls.clear()
    assert learner.learn(WWW, [IP, IP2], 90, 2.0) == ""
    assert kernel.calls == []
    assert kernel.row(IP) == kernel.row(IP2) == (WORLD, hashes(EXACT, STARS))
    assert kernel.ipcache_rows[IP] == FIRST_FQDN_IDENTITY


def test_a_name_no_selector_matches_is_remembered_but_not_written(learner: Learner, kernel: Journal) -> None:
    assert learner.learn("www.example.org.", [IP], 60, 0.0) == ""
    assert kernel.calls == []
    assert [(row.name, row.identity) for row in learner.dump(0.0, 1000.0)] == [("www.example.org", 0)]


def test_an_address_of_several_names_has_the_union_and_shrinks_back(learner: Learner, kernel: Journal) -> None:
    learner.learn(API, [IP], 60, 0.0)
    assert kernel.row(IP) == (WORLD, hashes(STARS))
    learner.learn(WWW, [IP], 30, 0.0)
    assert kernel.row(IP) == (WORLD, hashes(EXACT, STARS))
    assert learner.expire(30.0) == 1
    assert kernel.row(IP) == (WORLD, hashes(STARS))
    assert learner.expire(60.0) == 1
    assert kernel.ipcache_rows == {}
    learner.expire(200.0)
    assert (kernel.identity_rows, kernel.policy_rows) == ({}, {})


def test_an_answer_with_ttl_zero_can_be_used_for_a_moment(learner: Learner, kernel: Journal) -> None:
    learner.learn(WWW, [IP], 0, 0.0)
    learner.expire(MIN_HOLD - 0.1)
    assert IP in kernel.ipcache_rows
    learner.expire(MIN_HOLD)
    assert IP not in kernel.ipcache_rows


def test_the_smallest_ttl_can_be_raised(kernel: Journal, tmp_path: Path) -> None:
    learner = Learner(kernel, tmp_path, min_ttl=100.0)
    learner.restore(0.0)
    learner.prepare(snapshot(1, {1: policy(EXACT)}, EXACT), 0.0)
    learner.commit(1, 0.0)
    learner.learn(WWW, [IP], 5, 0.0)
    learner.expire(99.0)
    assert IP in kernel.ipcache_rows


@pytest.mark.parametrize("broken", ["write_identity", "write_entries", "write_ipcache"])
def test_what_cannot_be_written_is_taken_back_and_said(learner: Learner, kernel: Journal, broken: str) -> None:
    kernel.broken = broken
    assert "no room" in learner.learn(WWW, [IP], 60, 0.0)
    assert kernel.ipcache_rows == {}
    assert learner.dump(0.0, 0.0) == []
    kernel.broken = ""
    assert learner.learn(WWW, [IP], 60, 1.0) == ""
    assert kernel.row(IP) == (WORLD, hashes(EXACT, STARS))
    assert len(kernel.policy_rows) == 2


def test_what_cannot_be_removed_is_tried_again(learner: Learner, kernel: Journal) -> None:
    learner.learn(WWW, [IP], 60, 0.0)
    kernel.broken = "delete_ipcache"
    learner.expire(60.0)
    assert IP in kernel.ipcache_rows
    assert learner.kernel_errors
    kernel.broken = ""
    learner.expire(60.5)
    assert kernel.ipcache_rows == {}


def test_room_is_made_from_identities_that_nobody_uses(learner: Learner, kernel: Journal) -> None:
    learner.learn(API, [IP], 5, 0.0)
    learner.expire(5.0)
    assert len(kernel.identity_rows) == 1

    def only_one(identity: IdentityId, base: IdentityId, selectors: Sequence[int]) -> None:
        if kernel.identity_rows.keys() - {identity}:
            raise OSError("full")
        kernel.identity_rows[identity] = (base, tuple(selectors))

    kernel.write_identity = only_one  # type: ignore[method-assign]
    assert learner.learn(WWW, [IP], 5, 6.0) == ""
    assert kernel.row(IP) == (WORLD, hashes(EXACT, STARS))


def test_the_base_is_the_longest_prefix_and_an_exact_one_comes_back(learner: Learner, kernel: Journal) -> None:
    rules = policy(EXACT, CidrPeer("203.0.113.0/24"))
    learner.prepare(snapshot(2, {2: rules}, EXACT, wide=1, hosted=1), 0.0)
    learner.commit(2, 0.0)
    kernel.ipcache_rows[IP2] = HOSTED  # the agent's
    learner.learn(WWW, [IP, IP2], 10, 0.0)
    assert kernel.row(IP) == (CIDR, hashes(EXACT))
    assert kernel.row(IP2) == (HOSTED, hashes(EXACT))
    assert {key[4] for key in kernel.policy_rows if key[2] == kernel.ipcache_rows[IP]} == {443, 444}
    learner.expire(10.0)
    assert kernel.ipcache_rows == {IP2: HOSTED}


def test_workloads_and_the_node_are_never_learnt(learner: Learner, kernel: Journal) -> None:
    learner.prepare(snapshot(2, {2: policy(EXACT)}, EXACT, pod=1), 0.0)
    learner.commit(2, 0.0)
    kernel.ipcache_rows[IP] = IdentityId(300)
    assert learner.learn(WWW, [IP, IP2, address_bytes("127.0.0.1"), address_bytes("169.254.169.254")], 10, 0.0) == ""
    assert kernel.ipcache_rows.keys() == {IP, IP2}
    assert kernel.ipcache_rows[IP] == 300


def test_a_new_snapshot_is_in_the_kernel_when_prepare_returns_and_the_old_one_goes_at_commit(
    learner: Learner, kernel: Journal
) -> None:
    learner.learn(WWW, [IP], 60, 0.0)
    learner.learn("www.example.net.", [IP2], 60, 0.0)
    assert learner.prepare(snapshot(2, {2: policy(EXACT, OTHER)}, EXACT, OTHER), 0.0) == ""
    assert kernel.row(IP) == (WORLD, hashes(EXACT, STARS))
    assert kernel.row(IP2) == (WORLD, hashes(OTHER))  # a name asked for before anything selected it
    assert {key[0] for key in kernel.policy_rows if key[2] == kernel.ipcache_rows[IP]} == {1, 2}
    learner.commit(2, 0.0)
    assert kernel.row(IP) == (WORLD, hashes(EXACT))
    assert {key[0] for key in kernel.policy_rows} == {2}


def test_an_aborted_snapshot_leaves_nothing_behind(learner: Learner, kernel: Journal) -> None:
    learner.learn(WWW, [IP], 60, 0.0)
    before = dict(kernel.policy_rows), dict(kernel.ipcache_rows)
    learner.prepare(snapshot(2, {2: policy(EXACT, OTHER)}, EXACT, OTHER), 0.0)
    learner.abort(2, 0.0)
    assert (kernel.policy_rows, kernel.ipcache_rows) == before
    learner.abort(2, 0.0)
    learner.commit(2, 0.0)
    assert learner.revision == 1


@pytest.mark.parametrize("broken", ["write_identity", "write_entries", "write_ipcache"])
def test_a_snapshot_that_does_not_fit_is_refused_and_nothing_changes(
    learner: Learner, kernel: Journal, broken: str
) -> None:
    learner.learn(API, [IP], 60, 0.0)
    before = dict(kernel.policy_rows), dict(kernel.ipcache_rows)
    kernel.broken = broken
    problem = learner.prepare(snapshot(2, {2: policy(FqdnPeer(match_name=API))}, FqdnPeer(match_name=API)), 0.0)
    assert "revision 2" in problem
    kernel.broken = ""
    learner.expire(30.0)
    assert (kernel.policy_rows, kernel.ipcache_rows) == before
    assert learner.revision == 1


def test_without_a_checkpoint_what_is_in_the_kernel_is_removed(
    kernel: Journal, tmp_path: Path, learner: Learner
) -> None:
    learner.learn(WWW, [IP], 60, 0.0)
    kernel.ipcache_rows[IP2] = HOSTED
    again = Learner(kernel, tmp_path / "elsewhere")
    assert again.restore(1.0) == ()
    assert (kernel.identity_rows, kernel.policy_rows) == ({}, {})
    assert kernel.ipcache_rows == {IP2: HOSTED}


def test_a_killed_process_is_followed_by_one_that_knows_all_and_keeps_the_numbers(
    kernel: Journal, tmp_path: Path, learner: Learner
) -> None:
    learner.learn(WWW, [IP], 60, 0.0, endpoint=7)
    learner.learn(API, [IP2], 30, 0.0)
    before = dict(kernel.identity_rows), dict(kernel.policy_rows), dict(kernel.ipcache_rows)
    again = Learner(kernel, tmp_path)
    assert [found.revision for found in again.restore(1.0)] == [1]
    assert (kernel.identity_rows, kernel.policy_rows, kernel.ipcache_rows) == before
    rows = again.dump(1.0, 1000.0)
    assert [(row.name, row.address, row.ttl, row.expires, row.endpoint) for row in rows] == [
        ("api.example.com", "203.0.113.2", 29.0, 1029.0, 0),
        ("www.example.com", "203.0.113.1", 59.0, 1059.0, 7),
    ]
    assert rows[1].selectors == ("fqdn:*.example.com", "fqdn:www.example.com")
    assert rows[1].identity == before[2][IP]


def test_what_the_kernel_lost_is_written_again_and_what_expired_meanwhile_is_removed(
    kernel: Journal, tmp_path: Path, learner: Learner
) -> None:
    learner.learn(WWW, [IP], 60, 0.0)
    learner.learn(API, [IP2], 30, 0.0)
    kernel.policy_rows.clear()
    kernel.identity_rows.clear()
    again = Learner(kernel, tmp_path)
    again.restore(40.0)
    assert kernel.row(IP) == (WORLD, hashes(EXACT, STARS))
    assert kernel.ipcache_rows.keys() == {IP}
    assert len(kernel.policy_rows) == 2


def test_more_selectors_than_a_row_holds_are_left_out(kernel: Journal, tmp_path: Path) -> None:
    many = [FqdnPeer(match_pattern=("*" * number) + "w.example.com.") for number in range(3, 40)]
    learner = Learner(kernel, tmp_path)
    learner.restore(0.0)
    learner.prepare(snapshot(1, {1: policy(*many[:3])}, *many), 0.0)
    learner.commit(1, 0.0)
    assert learner.learn(WWW, [IP], 60, 0.0) == ""
    row = kernel.row(IP)
    assert row is not None
    assert len(row[1]) == 30
    assert learner.selectors_left_out == 1


def test_names_can_be_forgotten_before_their_time(learner: Learner, kernel: Journal) -> None:
    learner.learn(WWW, [IP, IP2], 60, 0.0)
    assert learner.forget([WWW, "never.seen."], 1.0) == 2
    assert kernel.ipcache_rows == {}
