# SPDX-License-Identifier: Apache-2.0
"""Learning, step by step: what is written to the kernel, in which order, and what is taken back."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from l7dns.addresses import address_bytes
from l7dns.kerneltables import MemoryTables
from l7dns.learner import MIN_HOLD, Learner
from l7dns.namecache import Fact
from l7dns.view import Trust
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
NODE = Trust(node_wide=True)
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

    def write_ipcache(self, address: bytes, identity: IdentityId, established: int = 0) -> None:
        self.note("write_ipcache")
        super().write_ipcache(address, identity, established)

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


def let_go(learner: Learner, now: float) -> None:
    """No flow leads to what is over."""
    learner.release(learner.kept(), {}, now)


@pytest.fixture
def kernel() -> Journal:
    return Journal()


@pytest.fixture
def learner(kernel: Journal, tmp_path: Path) -> Learner:
    made = Learner(kernel, tmp_path, trust=NODE, linger=20.0)
    assert made.restore(0.0) == ()
    assert made.prepare(snapshot(1, {1: policy(EXACT, STARS)}, EXACT, STARS), 0.0) == ""
    made.commit(1, 0.0)
    kernel.calls.clear()
    return made


def test_identity_then_policy_then_address_and_the_second_address_is_one_write(
    learner: Learner, kernel: Journal
) -> None:
    assert learner.learn(Fact(WWW), [IP], 60, 0.0) == ""
    assert kernel.calls == ["write_identity", "write_entries", "write_ipcache"]
    kernel.calls.clear()
    assert learner.learn(Fact(WWW), [IP, IP2], 60, 1.0) == ""
    assert kernel.calls == ["write_ipcache"]
    kernel.calls.clear()
    assert learner.learn(Fact(WWW), [IP, IP2], 90, 2.0) == ""
    assert kernel.calls == []
    assert kernel.row(IP) == kernel.row(IP2) == (WORLD, hashes(EXACT, STARS))
    assert kernel.ipcache_rows[IP] == FIRST_FQDN_IDENTITY


def test_a_name_no_selector_matches_is_remembered_but_not_written(learner: Learner, kernel: Journal) -> None:
    assert learner.learn(Fact("www.example.org."), [IP], 60, 0.0) == ""
    assert kernel.calls == []
    assert [(row.name, row.identity) for row in learner.dump(0.0, 1000.0)] == [("www.example.org", 0)]


def test_an_address_of_several_names_has_the_union_and_shrinks_back(learner: Learner, kernel: Journal) -> None:
    learner.learn(Fact(API), [IP], 60, 0.0)
    assert kernel.row(IP) == (WORLD, hashes(STARS))
    learner.learn(Fact(WWW), [IP], 30, 0.0)
    assert kernel.row(IP) == (WORLD, hashes(EXACT, STARS))
    assert learner.expire(30.0) == 1
    assert kernel.row(IP) == (WORLD, hashes(STARS))
    assert learner.expire(60.0) == 1
    let_go(learner, 60.0)
    assert kernel.ipcache_rows == {}
    learner.expire(200.0)
    assert (kernel.identity_rows, kernel.policy_rows) == ({}, {})


def test_an_answer_with_ttl_zero_can_be_used_for_a_moment(learner: Learner, kernel: Journal) -> None:
    learner.learn(Fact(WWW), [IP], 0, 0.0)
    learner.expire(MIN_HOLD - 0.1)
    assert IP in kernel.ipcache_rows
    learner.expire(MIN_HOLD)
    assert kernel.ipcache_rows[IP] == WORLD
    let_go(learner, MIN_HOLD)
    assert IP not in kernel.ipcache_rows


def test_the_smallest_ttl_can_be_raised(kernel: Journal, tmp_path: Path) -> None:
    learner = Learner(kernel, tmp_path, trust=NODE, min_ttl=100.0)
    learner.restore(0.0)
    learner.prepare(snapshot(1, {1: policy(EXACT)}, EXACT), 0.0)
    learner.commit(1, 0.0)
    learner.learn(Fact(WWW), [IP], 5, 0.0)
    learner.expire(99.0)
    assert IP in kernel.ipcache_rows


@pytest.mark.parametrize("broken", ["write_identity", "write_entries", "write_ipcache"])
def test_what_cannot_be_written_is_taken_back_and_said(learner: Learner, kernel: Journal, broken: str) -> None:
    kernel.broken = broken
    assert "no room" in learner.learn(Fact(WWW), [IP], 60, 0.0)
    assert kernel.ipcache_rows == {}
    assert list(learner.dump(0.0, 0.0)) == []
    kernel.broken = ""
    assert learner.learn(Fact(WWW), [IP], 60, 1.0) == ""
    assert kernel.row(IP) == (WORLD, hashes(EXACT, STARS))
    assert len(kernel.policy_rows) == 2


def test_what_cannot_be_removed_is_tried_again(learner: Learner, kernel: Journal) -> None:
    learner.learn(Fact(WWW), [IP], 60, 0.0)
    kernel.broken = "delete_ipcache"
    learner.expire(60.0)
    let_go(learner, 60.0)
    assert IP in kernel.ipcache_rows
    assert learner.kernel_errors
    kernel.broken = ""
    learner.expire(60.5)
    assert kernel.ipcache_rows == {}


def test_room_is_made_from_identities_that_nobody_uses(learner: Learner, kernel: Journal) -> None:
    learner.learn(Fact(API), [IP], 5, 0.0)
    learner.expire(5.0)
    assert len(kernel.identity_rows) == 1

    def only_one(identity: IdentityId, base: IdentityId, selectors: Sequence[int]) -> None:
        if kernel.identity_rows.keys() - {identity}:
            raise OSError("full")
        kernel.identity_rows[identity] = (base, tuple(selectors))

    kernel.write_identity = only_one  # type: ignore[method-assign]
    # An address that is only kept for its connections makes room, too.
    assert learner.learn(Fact(WWW), [IP2], 5, 6.0) == ""
    assert kernel.row(IP2) == (WORLD, hashes(EXACT, STARS))


def test_the_base_is_the_longest_prefix_and_an_exact_one_comes_back(learner: Learner, kernel: Journal) -> None:
    rules = policy(EXACT, CidrPeer("203.0.113.0/24"))
    learner.prepare(snapshot(2, {2: rules}, EXACT, wide=1, hosted=1), 0.0)
    learner.commit(2, 0.0)
    kernel.ipcache_rows[IP2] = HOSTED  # the agent's
    learner.learn(Fact(WWW), [IP, IP2], 10, 0.0)
    assert kernel.row(IP) == (CIDR, hashes(EXACT))
    assert kernel.row(IP2) == (HOSTED, hashes(EXACT))
    assert {key[4] for key in kernel.policy_rows if key[2] == kernel.ipcache_rows[IP]} == {443, 444}
    learner.expire(10.0)
    assert kernel.ipcache_rows == {IP: CIDR, IP2: HOSTED}
    assert kernel.established.keys() == {IP, IP2}
    let_go(learner, 10.0)
    assert (kernel.ipcache_rows, kernel.established) == ({IP2: HOSTED}, {})


def test_workloads_and_the_node_are_never_learnt(learner: Learner, kernel: Journal) -> None:
    learner.prepare(snapshot(2, {2: policy(EXACT)}, EXACT, pod=1), 0.0)
    learner.commit(2, 0.0)
    kernel.ipcache_rows[IP] = IdentityId(300)
    assert (
        learner.learn(Fact(WWW), [IP, IP2, address_bytes("127.0.0.1"), address_bytes("169.254.169.254")], 10, 0.0) == ""
    )
    assert kernel.ipcache_rows.keys() == {IP, IP2}
    assert kernel.ipcache_rows[IP] == 300


def test_a_new_snapshot_is_in_the_kernel_when_prepare_returns_and_the_old_one_goes_at_commit(
    learner: Learner, kernel: Journal
) -> None:
    learner.learn(Fact(WWW), [IP], 60, 0.0)
    learner.learn(Fact("www.example.net."), [IP2], 60, 0.0)
    assert learner.prepare(snapshot(2, {2: policy(EXACT, OTHER)}, EXACT, OTHER), 0.0) == ""
    assert kernel.row(IP) == (WORLD, hashes(EXACT, STARS))
    assert kernel.row(IP2) == (WORLD, hashes(OTHER))  # a name asked for before anything selected it
    assert {key[0] for key in kernel.policy_rows if key[2] == kernel.ipcache_rows[IP]} == {1, 2}
    learner.commit(2, 0.0)
    assert kernel.row(IP) == (WORLD, hashes(EXACT))
    assert {key[0] for key in kernel.policy_rows} == {2}


def test_an_aborted_snapshot_leaves_nothing_behind(learner: Learner, kernel: Journal) -> None:
    learner.learn(Fact(WWW), [IP], 60, 0.0)
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
    learner.learn(Fact(API), [IP], 60, 0.0)
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
    learner.learn(Fact(WWW), [IP], 60, 0.0)
    kernel.ipcache_rows[IP2] = HOSTED
    again = Learner(kernel, tmp_path / "elsewhere", trust=NODE)
    assert again.restore(1.0) == ()
    assert (kernel.identity_rows, kernel.policy_rows) == ({}, {})
    assert kernel.ipcache_rows == {IP2: HOSTED}


def test_a_killed_process_is_followed_by_one_that_knows_all_and_keeps_the_numbers(
    kernel: Journal, tmp_path: Path, learner: Learner
) -> None:
    learner.learn(Fact(WWW), [IP], 60, 0.0, endpoint=7)
    learner.learn(Fact(API), [IP2], 30, 0.0)
    before = dict(kernel.identity_rows), dict(kernel.policy_rows), dict(kernel.ipcache_rows)
    again = Learner(kernel, tmp_path, trust=NODE)
    assert [found.revision for found in again.restore(1.0)] == [1]
    assert (kernel.identity_rows, kernel.policy_rows, kernel.ipcache_rows) == before
    rows = sorted(again.dump(1.0, 1000.0), key=lambda row: row.name)
    assert [(row.name, row.address, row.ttl, row.expires, row.endpoints) for row in rows] == [
        ("api.example.com", "203.0.113.2", 29.0, 1029.0, (0,)),
        ("www.example.com", "203.0.113.1", 59.0, 1059.0, (7,)),
    ]
    assert rows[1].selectors == ("fqdn:*.example.com", "fqdn:www.example.com")
    assert rows[1].identity == before[2][IP]


def test_what_the_kernel_lost_is_written_again_and_what_expired_meanwhile_is_removed(
    kernel: Journal, tmp_path: Path, learner: Learner
) -> None:
    learner.learn(Fact(WWW), [IP], 60, 0.0)
    learner.learn(Fact(API), [IP2], 30, 0.0)
    kernel.policy_rows.clear()
    kernel.identity_rows.clear()
    again = Learner(kernel, tmp_path, trust=NODE, linger=0.0)
    again.restore(40.0)
    let_go(again, 40.0)
    again.expire(40.0)
    assert kernel.row(IP) == (WORLD, hashes(EXACT, STARS))
    assert kernel.ipcache_rows.keys() == {IP}
    assert len(kernel.policy_rows) == 2


def test_answers_are_learnt_before_the_checkpoint_is_read_and_nothing_is_taken_away(
    kernel: Journal, tmp_path: Path, learner: Learner
) -> None:
    learner.learn(Fact(WWW), [IP], 60, 0.0, endpoint=7)
    learner.learn(Fact(API), [IP2], 30, 0.0)
    before = kernel.ipcache_rows[IP]
    again = Learner(kernel, tmp_path, trust=NODE)
    again.begin()
    # Of IP only a part of its names is known yet.
    assert again.learn(Fact(API), [IP], 10, 40.0, endpoint=8) == ""
    assert (again.expire(60.0), kernel.ipcache_rows) == (0, {IP: before, IP2: kernel.ipcache_rows[IP2]})
    # The agent tells what it had said to the process that was killed.
    assert again.prepare(snapshot(1, {1: policy(EXACT, STARS)}, EXACT, STARS), 40.0) == ""
    again.commit(1, 40.0)
    assert not again.whole
    while not again.proceed(40.0, most=1):
        pass
    assert kernel.ipcache_rows == {IP: before, IP2: WORLD}
    rows = sorted((row.name, row.address, row.endpoints) for row in again.dump(40.0, 0.0) if not row.kept)
    assert rows == [("api.example.com", "203.0.113.1", (8,)), ("www.example.com", "203.0.113.1", (7,))]
    assert again.expire(60.0) == 2


def test_what_is_learnt_meanwhile_is_the_last_to_make_room(kernel: Journal, tmp_path: Path) -> None:
    first = Learner(kernel, tmp_path, trust=NODE, max_addresses=3)
    first.restore(0.0)
    for number in range(3):
        first.learn(Fact(f"n{number}.example.com."), [bytes((203, 0, 113, number))], 60, 0.0)
    again = Learner(kernel, tmp_path, trust=NODE, max_addresses=3)
    again.begin()
    assert again.learn(Fact(WWW), [IP], 60, 1.0) == ""
    while not again.proceed(1.0, most=1):
        pass
    assert {row.name for row in again.dump(1.0, 0.0)} == {"n1.example.com", "n2.example.com", "www.example.com"}


def test_a_process_that_ends_before_it_has_read_all_leaves_the_rest_to_the_next(
    kernel: Journal, tmp_path: Path, learner: Learner
) -> None:
    learner.learn(Fact(WWW), [IP], 60, 0.0)
    learner.learn(Fact(API), [IP2], 60, 0.0)
    hasty = Learner(kernel, tmp_path, trust=NODE)
    hasty.begin()
    hasty.learn(Fact("new.example.com."), [IP2], 60, 1.0)
    hasty.close()
    again = Learner(kernel, tmp_path, trust=NODE)
    again.restore(2.0)
    assert {row.name for row in again.dump(2.0, 0.0)} == {"www.example.com", "api.example.com", "new.example.com"}


def test_a_number_that_means_nothing_any_more_is_given_to_nobody_while_addresses_have_it(
    kernel: Journal, tmp_path: Path, learner: Learner
) -> None:
    learner.learn(Fact(WWW), [IP], 60, 0.0)
    old = kernel.ipcache_rows[IP]
    again = Learner(kernel, tmp_path / "elsewhere", trust=NODE)
    again.begin()
    again.prepare(snapshot(1, {1: policy(STARS)}, STARS), 1.0)
    again.learn(Fact(API), [IP2], 60, 1.0)
    assert kernel.ipcache_rows[IP2] != old
    assert kernel.row(IP2) == (WORLD, hashes(STARS))


def test_more_selectors_than_a_row_holds_are_left_out(kernel: Journal, tmp_path: Path) -> None:
    many = [FqdnPeer(match_pattern=("*" * number) + "w.example.com.") for number in range(3, 40)]
    learner = Learner(kernel, tmp_path, trust=NODE)
    learner.restore(0.0)
    learner.prepare(snapshot(1, {1: policy(*many[:3])}, *many), 0.0)
    learner.commit(1, 0.0)
    assert learner.learn(Fact(WWW), [IP], 60, 0.0) == ""
    row = kernel.row(IP)
    assert row is not None
    assert len(row[1]) == 30
    assert learner.selectors_left_out == 1


def test_names_can_be_forgotten_before_their_time(learner: Learner, kernel: Journal) -> None:
    learner.learn(Fact(WWW), [IP, IP2], 60, 0.0)
    assert learner.forget([WWW, "never.seen."], 1.0) == 2
    assert kernel.ipcache_rows == {}


SERVER, PORT = "198.51.100.53", 53


def asking(peer: CidrPeer, *peers: FqdnPeer, names: tuple[FqdnPeer, ...] = (STARS,)) -> EndpointPolicy:
    """A policy with DNS rules to some servers, and `peers` reachable."""
    ports = (Port(Protocol.UDP, 53, 53),)
    dns = Rule(Direction.EGRESS, Origin("p", "egress[9]"), (peer,), ports, dns=names)
    return EndpointPolicy((*policy(*peers).rules, dns), enforce_egress=True)


def opened(kernel: Journal, address: bytes, policy_id: int) -> bool:
    """Whether the kernel lets the endpoints of a policy reach an address."""
    number = kernel.ipcache_rows.get(address)
    return any(key[:1] == (policy_id,) and key[2] == number for key in kernel.policy_rows)


def test_an_answer_opens_addresses_only_for_policies_that_let_their_endpoints_ask_its_server(
    kernel: Journal, tmp_path: Path
) -> None:
    everywhere, trusted = CidrPeer("0.0.0.0/0"), CidrPeer(f"{SERVER}/32")
    learner = Learner(kernel, tmp_path)
    learner.restore(0.0)
    rules = {1: asking(trusted, EXACT), 2: asking(everywhere, EXACT), 3: policy(EXACT)}
    own = {CidrPeer("0.0.0.0/0"): "cidr:0.0.0.0/0", trusted: f"cidr:{SERVER}/32"}
    found = Snapshot(
        Revision(1),
        {PolicyId(number): one for number, one in rules.items()},
        {
            WORLD: (own[everywhere], "reserved:world"),
            CIDR: (own[everywhere], own[trusted], "reserved:world"),
        },
        {f"{SERVER}/32": CIDR},
        (EXACT,),
    )
    assert learner.prepare(found, 0.0) == ""
    learner.commit(1, 0.0)
    # A server of the second workload's own leads the name astray: for itself only.
    assert learner.learn(Fact(WWW, "198.51.100.99", 53), [IP], 60, 0.0, endpoint=2) == ""
    assert [opened(kernel, IP, number) for number in (1, 2, 3)] == [False, True, False]
    # The true answer, whoever asked. A policy without DNS rules heeds no server.
    assert learner.learn(Fact(WWW, SERVER, 53), [IP2], 60, 0.0, endpoint=2) == ""
    assert [opened(kernel, IP2, number) for number in (1, 2, 3)] == [True, True, False]
    # Both say the same: what is left after one of them has expired is what the other said.
    assert learner.learn(Fact(WWW, SERVER, 53), [IP], 10, 0.0, endpoint=1) == ""
    assert opened(kernel, IP, 1)
    learner.expire(11.0)
    assert [opened(kernel, IP, number) for number in (1, 2, 3)] == [False, True, False]
    # Another port of a trusted address is another server.
    assert learner.learn(Fact(WWW, SERVER, 5353), [IP], 60, 11.0, endpoint=2) == ""
    assert not opened(kernel, IP, 1)
    again = Learner(kernel, tmp_path)
    again.restore(12.0)
    assert [opened(kernel, IP, number) for number in (1, 2, 3)] == [False, True, False]
    assert {row.server for row in again.dump(12.0, 0.0)} == {SERVER, "198.51.100.99"}
    # The operator's own resolvers, and what the operator says himself, count for all.
    learner = Learner(kernel, tmp_path / "other", trust=Trust(resolvers=("198.51.100.98/31",)))
    learner.restore(0.0)
    learner.prepare(found, 0.0)
    assert learner.learn(Fact(WWW, "198.51.100.99", 53), [IP], 60, 0.0) == ""
    assert learner.learn(Fact(WWW), [IP2], 60, 0.0) == ""
    assert [opened(kernel, IP, number) for number in (1, 2, 3)] == [True] * 3
    assert [opened(kernel, IP2, number) for number in (1, 2, 3)] == [True] * 3


def test_a_reload_that_lets_endpoints_ask_a_server_makes_its_answers_count(kernel: Journal, tmp_path: Path) -> None:
    learner = Learner(kernel, tmp_path)
    learner.restore(0.0)
    identities = {WORLD: ("reserved:world",), CIDR: (f"cidr:{SERVER}/32", "reserved:world")}
    prefixes = {f"{SERVER}/32": CIDR}
    before = Snapshot(Revision(1), {PolicyId(1): policy(EXACT)}, identities, prefixes, (EXACT,))
    after = Snapshot(
        Revision(2), {PolicyId(2): asking(CidrPeer(f"{SERVER}/32"), EXACT)}, identities, prefixes, (EXACT,)
    )
    learner.prepare(before, 0.0)
    learner.commit(1, 0.0)
    learner.learn(Fact(WWW, SERVER, 53), [IP], 60, 0.0)
    assert not opened(kernel, IP, 1)
    assert learner.prepare(after, 1.0) == ""
    assert opened(kernel, IP, 2)
    learner.abort(2, 1.0)
    assert not opened(kernel, IP, 2)


def test_addresses_that_are_never_a_server_are_learnt_where_the_operator_says_so(
    kernel: Journal, tmp_path: Path
) -> None:
    metadata, loopback = address_bytes("169.254.169.254"), address_bytes("127.0.0.1")
    learner = Learner(kernel, tmp_path, trust=Trust(node_wide=True, special=("169.254.0.0/16",)))
    learner.restore(0.0)
    learner.prepare(snapshot(1, {1: policy(EXACT)}, EXACT), 0.0)
    assert learner.learn(Fact(WWW), [metadata, loopback], 60, 0.0) == ""
    assert (opened(kernel, metadata, 1), opened(kernel, loopback, 1)) == (True, False)


def established(kernel: Journal, address: bytes) -> tuple[int, set[int]] | None:
    """Base and selectors that flows go by which have begun already, where they differ from new ones'."""
    number = kernel.established.get(address)
    if number is None:
        return None
    base, found = kernel.identity_rows[IdentityId(number)]
    return base, set(found)


def test_a_name_that_is_over_opens_nothing_new_and_goes_on_for_its_connections(
    learner: Learner, kernel: Journal
) -> None:
    kernel.flows[IP] = {"192.0.2.7"}
    learner.learn(Fact(WWW), [IP, IP2], 60, 0.0)
    assert learner.expire(60.0) == 2
    assert kernel.ipcache_rows == {IP: WORLD, IP2: WORLD}
    assert established(kernel, IP) == established(kernel, IP2) == (WORLD, hashes(EXACT, STARS))
    asked = learner.kept()
    assert learner.release(asked, learner.clients(asked), 60.0) == 1
    assert kernel.ipcache_rows == {IP: WORLD}
    assert [(row.address, row.kept, row.clients, row.ttl) for row in learner.dump(61.0, 0.0)] == [
        ("203.0.113.1", True, ("192.0.2.7",), 0.0)
    ]
    # For as long as it lasts: nothing is collected that the connection goes by, and a reload rewrites it.
    learner.expire(1000.0)
    assert learner.prepare(snapshot(2, {2: policy(EXACT)}, EXACT), 1000.0) == ""
    learner.commit(2, 1000.0)
    assert established(kernel, IP) == (WORLD, hashes(EXACT))
    assert {key[0] for key in kernel.policy_rows if key[2] == kernel.established[IP]} == {2}
    kernel.flows.clear()
    assert learner.release(asked, learner.clients(asked), 1001.0) == 1
    assert (kernel.ipcache_rows, kernel.established) == ({}, {})
    learner.expire(2000.0)
    assert (kernel.identity_rows, kernel.policy_rows) == ({}, {})


def test_of_two_names_the_one_that_is_over_counts_for_connections_alone(learner: Learner, kernel: Journal) -> None:
    learner.learn(Fact(API), [IP], 100, 0.0)
    learner.learn(Fact(WWW), [IP], 10, 0.0)
    learner.expire(10.0)
    assert kernel.row(IP) == (WORLD, hashes(STARS))
    assert established(kernel, IP) == (WORLD, hashes(EXACT, STARS))
    # Asked for again, both count for all.
    learner.learn(Fact(WWW), [IP], 100, 20.0)
    assert kernel.row(IP) == (WORLD, hashes(EXACT, STARS))
    assert (kernel.established, learner.kept()) == ({}, frozenset())


def test_what_a_reload_no_longer_allows_ends_for_connections_too(learner: Learner, kernel: Journal) -> None:
    learner.learn(Fact(WWW), [IP], 10, 0.0)
    learner.expire(10.0)
    learner.prepare(snapshot(2, {2: policy(OTHER)}, OTHER), 11.0)
    learner.commit(2, 11.0)
    assert (kernel.ipcache_rows, kernel.established) == ({}, {})


def test_an_answer_during_the_look_for_connections_is_not_lost_by_it(learner: Learner, kernel: Journal) -> None:
    learner.learn(Fact(WWW), [IP], 10, 0.0)
    learner.expire(10.0)
    asked = learner.kept()
    learner.learn(Fact(WWW), [IP], 5, 11.0)
    learner.expire(16.0)
    assert learner.release(asked, {}, 10.5) == 0
    assert learner.kept() == {IP}


@pytest.mark.parametrize("clean", [True, False])
def test_connections_outlive_the_process_too(kernel: Journal, tmp_path: Path, learner: Learner, clean: bool) -> None:
    learner.learn(Fact(WWW), [IP], 10, 0.0)
    learner.learn(Fact(API), [IP2], 10, 0.0)
    learner.expire(10.0)
    learner.release(frozenset({IP2}), {}, 10.0)
    before = kernel.established[IP]
    if clean:
        learner.close()
    again = Learner(kernel, tmp_path, trust=NODE)
    again.restore(20.0)
    assert (kernel.ipcache_rows, kernel.established) == ({IP: WORLD}, {IP: before})
    assert again.kept() == {IP}


def test_the_operator_can_end_it(learner: Learner, kernel: Journal) -> None:
    learner.learn(Fact(WWW), [IP], 10, 0.0)
    learner.expire(10.0)
    learner.forget([WWW], 11.0)
    assert (kernel.ipcache_rows, kernel.established, learner.kept()) == ({}, {}, frozenset())


def test_too_many_make_room_for_each_other(kernel: Journal, tmp_path: Path) -> None:
    learner = Learner(kernel, tmp_path, trust=NODE, max_addresses=8)
    learner.restore(0.0)
    learner.prepare(snapshot(1, {1: policy(EXACT)}, EXACT), 0.0)
    learner.commit(1, 0.0)
    for number in range(20):
        learner.learn(Fact(WWW), [bytes([203, 0, 113, number])], 5, 10.0 * number)
        learner.expire(10.0 * number + 9)
    assert learner.kept() == kernel.ipcache_rows.keys() == {bytes([203, 0, 113, number]) for number in (18, 19)}
    assert learner.kept_evicted == 18


def test_after_the_time_an_address_stays_open_for_the_grace_period(kernel: Journal, tmp_path: Path) -> None:
    learner = Learner(kernel, tmp_path, trust=NODE, grace=30.0)
    learner.restore(0.0)
    learner.prepare(snapshot(1, {1: policy(EXACT)}, EXACT), 0.0)
    learner.commit(1, 0.0)
    learner.learn(Fact(WWW), [IP], 5, 0.0)
    learner.expire(34.0)
    assert kernel.row(IP) == (WORLD, hashes(EXACT))
    learner.expire(35.0)
    assert kernel.ipcache_rows[IP] == WORLD
