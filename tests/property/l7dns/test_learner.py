# SPDX-License-Identifier: Apache-2.0
"""After any learning, expiry, reload, failure or restart the kernel holds what a rebuild would write."""

import ipaddress
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from l7dns.addresses import address_bytes
from l7dns.kerneltables import MemoryTables, entry_key
from l7dns.learner import MIN_HOLD, Learner
from l7dns.namecache import Fact
from l7dns.view import Trust
from l7policy.entries import Entry, entries
from l7policy.ids import WORLD, IdentityId, PolicyId, Revision, is_fqdn_identity
from l7policy.model import CidrPeer, EndpointPolicy, FqdnPeer, Origin, Port, Rule, Snapshot
from l7policy.names import hash64, matching
from l7policy.verdict import Direction, Protocol

PEERS = (
    FqdnPeer(match_name="a.example.com."),
    FqdnPeer(match_pattern="*.example.com."),
    FqdnPeer(match_pattern="*.example.net."),
    FqdnPeer(match_pattern="**.net."),
)
NETWORKS = ("192.0.2.0/29", "192.0.2.4/30", "192.0.2.5/32", "2001:db8::/64")
WORKLOAD = "192.0.2.7/32"
NAMES = ("a.example.com.", "b.example.com.", "c.example.net.", "x.y.example.net.", "d.example.org.")
ADDRESSES = [address_bytes(f"192.0.2.{last}") for last in range(1, 9)] + [
    address_bytes(text) for text in ("2001:db8::1", "2001:db8:1::1", "127.0.0.1", "169.254.169.254")
]


ANSWERS = st.tuples(
    st.sampled_from(NAMES),
    st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=4, unique=True),
    st.integers(0, 40),
    st.one_of(st.none(), st.none(), st.integers(0, 12)),
)
"""Name, addresses, TTL, and how many writes go well."""


def cidr_labels(network: str, networks: Sequence[str]) -> tuple[str, ...]:
    inner = ipaddress.ip_network(network)
    holders = [
        outer
        for outer in networks
        if ipaddress.ip_network(outer).version == inner.version and inner.subnet_of(ipaddress.ip_network(outer))
    ]
    return tuple(sorted(["reserved:world", *(f"cidr:{outer}" for outer in holders)]))


@st.composite
def rule_sets(draw: st.DrawFn) -> tuple[tuple[FqdnPeer, ...], tuple[str, ...], tuple[EndpointPolicy, ...]]:
    peers = tuple(draw(st.lists(st.sampled_from(PEERS), unique=True, max_size=4)))
    networks = tuple(draw(st.lists(st.sampled_from(NETWORKS), unique=True, max_size=3)))
    candidates = (*peers, *(CidrPeer(network) for network in networks))
    policies: list[EndpointPolicy] = []
    for number in range(draw(st.integers(1, 2))):
        chosen = draw(st.lists(st.sampled_from(candidates), min_size=1, max_size=3)) if candidates else []
        rules = tuple(
            Rule(
                Direction.EGRESS,
                Origin("p", f"egress[{number}][{index}]"),
                (peer,),
                (Port(Protocol.TCP, 80 + index, 83),),
            )
            for index, peer in enumerate(chosen)
        )
        policies.append(EndpointPolicy(rules, enforce_egress=True))
    return peers, networks, tuple(policies)


class FaultyTables(MemoryTables):
    """Fails every write from the `patience`-th on."""

    def __init__(self) -> None:
        super().__init__()
        self.patience: int | None = None

    def spend(self) -> None:
        if self.patience is not None:
            if self.patience <= 0:
                raise OSError("the kernel table policy is full")
            self.patience -= 1

    def write_identity(self, identity: IdentityId, base: IdentityId, selectors: Sequence[int]) -> None:
        self.spend()
        super().write_identity(identity, base, selectors)

    def write_entries(self, policy_id: PolicyId, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self.spend()
            super().write_entries(policy_id, [entry])

    def write_ipcache(self, address: bytes, identity: IdentityId, established: int = 0) -> None:
        self.spend()
        # What the answer's reader may rely on: whatever an address is given is complete already.
        assert not is_fqdn_identity(identity) or identity in self.identity_rows
        assert not established or established in self.identity_rows
        super().write_ipcache(address, identity, established)

    def delete_ipcache(self, address: bytes) -> None:
        self.spend()
        super().delete_ipcache(address)

    def delete_entries(self, policy_id: PolicyId, entries: Sequence[Entry]) -> None:
        self.spend()
        super().delete_entries(policy_id, entries)

    def delete_identity(self, identity: IdentityId) -> None:
        self.spend()
        assert identity not in {*self.ipcache_rows.values(), *self.established.values()}
        super().delete_identity(identity)


class Learning(RuleBasedStateMachine):
    """`pairs` is what was learnt; everything else is computed anew at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.kernel = FaultyTables()
        self.learner = Learner(self.kernel, self.folder, linger=20.0, trust=Trust(node_wide=True))
        self.learner.restore(0.0)
        self.pairs: dict[tuple[str, bytes], float] = {}
        self.now = 100.0
        self.active: Snapshot | None = None
        self.prepared: Snapshot | None = None
        self.numbers: dict[tuple[str, ...], IdentityId] = {}
        self.policy_ids: dict[bytes, PolicyId] = {}
        self.revisions = 0

    def teardown(self) -> None:
        self.learner.close()
        shutil.rmtree(self.folder)

    def snapshot(self, rules: tuple[tuple[FqdnPeer, ...], tuple[str, ...], tuple[EndpointPolicy, ...]]) -> Snapshot:
        peers, networks, policies = rules
        identities: dict[IdentityId, tuple[str, ...]] = {WORLD: ("reserved:world",), IdentityId(300): ("k8s:app=web",)}
        prefixes = {WORKLOAD: IdentityId(300)}
        for network in networks:
            labels = cidr_labels(network, networks)
            identity = self.numbers.setdefault(labels, IdentityId((1 << 24) + len(self.numbers)))
            identities[identity] = labels
            prefixes[network] = identity
        numbered = {
            self.policy_ids.setdefault(policy.digest, PolicyId(1 + len(self.policy_ids))): policy for policy in policies
        }
        self.revisions += 1
        return Snapshot(Revision(self.revisions), numbered, identities, prefixes, peers)

    def opened(self, address: bytes) -> frozenset[int]:
        """What the kernel gives an address, by its selectors' hashes; nothing for a number that means nothing."""
        number = self.kernel.ipcache_rows.get(address)
        return frozenset(() if number not in self.kernel.identity_rows else self.kernel.identity_rows[number][1])

    @rule(answer=ANSWERS)
    def answered(self, answer: tuple[str, list[bytes], int, int | None]) -> None:
        self.learn(*answer)

    def learn(self, name: str, addresses: list[bytes], ttl: int, patience: int | None) -> None:
        self.kernel.patience = patience
        problem = self.learner.learn(Fact(name), addresses, ttl, self.now)
        self.kernel.patience = None
        expiry = float(math.ceil(self.now + max(ttl, MIN_HOLD)))
        if problem:
            self.learner.expire(self.now)
            return
        for address in addresses:
            self.pairs[name, address] = max(expiry, self.pairs.get((name, address), 0.0))

    @rule(seconds=st.integers(0, 30), patience=st.one_of(st.none(), st.integers(0, 6)))
    def expire(self, seconds: int, patience: int | None) -> None:
        self.now += seconds
        self.kernel.patience = patience
        self.learner.expire(self.now)
        self.kernel.patience = None
        self.learner.expire(self.now)
        self.pairs = {pair: expiry for pair, expiry in self.pairs.items() if expiry > self.now}

    @rule(rules=rule_sets(), patience=st.one_of(st.none(), st.none(), st.integers(0, 20)))
    def prepare(
        self, rules: tuple[tuple[FqdnPeer, ...], tuple[str, ...], tuple[EndpointPolicy, ...]], patience: int | None
    ) -> None:
        snapshot = self.snapshot(rules)
        # The agent writes the static prefixes of both before it asks for anything.
        for text, identity in snapshot.prefixes.items():
            network = ipaddress.ip_network(text)
            if network.prefixlen == network.max_prefixlen:
                self.kernel.ipcache_rows[network.network_address.packed] = identity
        self.kernel.patience = patience
        problem = self.learner.prepare(snapshot, self.now)
        self.kernel.patience = None
        self.prepared = None if problem else snapshot
        if patience is not None:
            self.learner.expire(self.now)
            self.pairs = {pair: expiry for pair, expiry in self.pairs.items() if expiry > self.now}

    @precondition(lambda self: self.prepared is not None)
    @rule(commit=st.booleans(), patience=st.one_of(st.none(), st.integers(0, 6)))
    def finish(self, commit: bool, patience: int | None) -> None:
        assert self.prepared is not None
        self.kernel.patience = patience
        if commit:
            self.learner.commit(self.prepared.revision, self.now)
            self.active = self.prepared
        else:
            self.learner.abort(self.prepared.revision, self.now)
        self.prepared = None
        self.kernel.patience = None
        self.learner.expire(self.now)
        self.pairs = {pair: expiry for pair, expiry in self.pairs.items() if expiry > self.now}

    @rule(connected=st.sets(st.sampled_from(ADDRESSES)), patience=st.one_of(st.none(), st.integers(0, 4)))
    def look(self, connected: set[bytes], patience: int | None) -> None:
        asked = self.learner.kept()
        self.kernel.patience = patience
        self.learner.release(asked, {address: {"192.0.2.99"} for address in connected}, self.now)
        self.kernel.patience = None
        self.learner.expire(self.now)
        self.pairs = {pair: expiry for pair, expiry in self.pairs.items() if expiry > self.now}
        assert self.learner.kept() <= connected or self.learner.kept() - asked
        assert self.kernel.established.keys() <= self.learner.kept()

    @rule(lose=st.booleans(), invent=st.booleans(), clean=st.booleans(), meanwhile=st.lists(ANSWERS, max_size=4))
    def restart(
        self, lose: bool, invent: bool, clean: bool, meanwhile: list[tuple[str, list[bytes], int, int | None]]
    ) -> None:
        if clean:
            self.learner.close()
        if lose and self.kernel.ipcache_rows:
            lost = next(iter(self.kernel.ipcache_rows))
            del self.kernel.ipcache_rows[lost]
            self.kernel.established.pop(lost, None)
            self.kernel.policy_rows.clear()
        if invent:
            self.kernel.ipcache_rows[address_bytes("203.0.113.9")] = IdentityId((1 << 24) | (1 << 23) | 4000)
        self.learner = Learner(self.kernel, self.folder, linger=20.0, trust=Trust(node_wide=True))
        before = {address: self.opened(address) for address in ADDRESSES}
        restored = self.learner.begin()
        # Answers come in while names are read; until all are, no address has less than it had.
        for name, addresses, ttl, patience in meanwhile:
            self.learn(name, addresses, ttl, patience)
            if not self.learner.whole:
                assert self.learner.expire(self.now + 50) == 0
                if self.learner.reading:
                    assert all(self.opened(address) >= had for address, had in before.items())
                self.learner.proceed(self.now, most=1)
        while not self.learner.proceed(self.now):
            pass
        assert restored == tuple(found for found in (self.active, self.prepared) if found is not None)
        if self.active is None:
            # Which of the two a lone snapshot was does not matter: there is no other to fall back to.
            self.active, self.prepared = self.prepared, None
        self.pairs = {pair: expiry for pair, expiry in self.pairs.items() if expiry > self.now}

    @invariant()
    def the_kernel_holds_what_a_rebuild_would_write(self) -> None:
        snapshots = [found for found in (self.active, self.prepared) if found is not None]
        peers = tuple(dict.fromkeys(peer for snapshot in snapshots for peer in snapshot.selectors))
        policies = {number: policy for snapshot in snapshots for number, policy in snapshot.policies.items()}
        networks = {text: number for snapshot in snapshots for text, number in snapshot.prefixes.items()}
        used: dict[IdentityId, tuple[IdentityId, frozenset[str], frozenset[str]]] = {}
        for address in ADDRESSES:
            number = self.kernel.ipcache_rows.get(address)
            longer = self.kernel.established.get(address)
            names = {name for name, other in self.pairs if other == address}
            selectors = frozenset(peer.label for name in names for peer in matching(peers, name))
            base, labels = self.base(address, networks, snapshots)
            if longer is not None:
                kept = frozenset(peer.label for name in NAMES for peer in matching(peers, name))
                hashes = {hash64(label): label for label in kept}
                found = self.kernel.identity_rows[IdentityId(longer)]
                gained = frozenset(hashes[one] for one in found[1])
                assert found[0] == base
                assert gained > selectors
                assert address in self.learner.kept()
                used[IdentityId(longer)] = (found[0], gained, labels)
            if not selectors or base is None:
                assert number is None or not is_fqdn_identity(number)
                continue
            assert number is not None
            row = self.kernel.identity_rows[number]
            assert row == (base, tuple(sorted(hash64(label) for label in selectors)))
            used[number] = (base, selectors, labels)
        for number, (_, selectors, labels) in used.items():
            present = {key: entry for key, entry in self.kernel.policy_rows.items() if key[2] == number}
            wanted = {
                entry_key(policy_id, entry): entry
                for policy_id, policy in policies.items()
                for entry in entries(policy, number, selectors | labels)
            }
            assert present == wanted
        for key in self.kernel.policy_rows:
            assert key[0] in policies
            assert key[2] in self.kernel.identity_rows

    def base(
        self, address: bytes, networks: dict[str, IdentityId], snapshots: Sequence[Snapshot]
    ) -> tuple[IdentityId | None, frozenset[str]]:
        parsed = ipaddress.ip_address(address)
        if parsed.is_loopback or parsed.is_link_local:
            return None, frozenset()
        holders = sorted(
            (ipaddress.ip_network(text) for text in networks if parsed in ipaddress.ip_network(text)),
            key=lambda network: network.prefixlen,
        )
        if not holders:
            return WORLD, frozenset({"reserved:world"})
        number = networks[str(holders[-1])]
        labels = frozenset(
            label for snapshot in snapshots for label in snapshot.identities.get(number, ())
        ) | frozenset(
            f"cidr:{holder}"
            for holder in holders
            if any(str(holder) in snapshot.prefixes for snapshot in snapshots) and number != IdentityId(300)
        )
        return (None, frozenset()) if number == IdentityId(300) else (number, labels)


TestLearning = Learning.TestCase
TestLearning.settings = settings(max_examples=60, stateful_step_count=20)
