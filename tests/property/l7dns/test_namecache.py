# SPDX-License-Identifier: Apache-2.0
"""The name cache's reports add up to what it holds, and it holds what a plain dictionary would."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from l7dns.namecache import Change, NameCache

NAMES = st.sampled_from([f"{letter}.example.com." for letter in "abcde"])
ADDRESSES = st.lists(st.integers(1, 6).map(lambda last: bytes([192, 0, 2, last])), min_size=1, max_size=4, unique=True)


class Cache(RuleBasedStateMachine):
    """Every change goes into `pairs`; `model` is what ought to be there. The caps are out of reach here."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = NameCache()
        self.pairs: set[tuple[str, bytes]] = set()
        self.model: dict[tuple[str, bytes], float] = {}
        self.now = 0.0

    def follow(self, changes: list[Change]) -> None:
        for change in changes:
            pair = (change.fact, change.address)
            assert (pair in self.pairs) != change.added
            (self.pairs.add if change.added else self.pairs.remove)(pair)

    @rule(name=NAMES, addresses=ADDRESSES, ttl=st.integers(1, 30))
    def put(self, name: str, addresses: list[bytes], ttl: int) -> None:
        self.follow(self.cache.put(name, addresses, self.now + ttl))
        for address in addresses:
            self.model[name, address] = max(self.now + ttl, self.model.get((name, address), 0.0))

    @rule(seconds=st.integers(0, 20))
    def expire(self, seconds: int) -> None:
        self.now += seconds
        self.follow(self.cache.expire(self.now))
        self.model = {pair: expiry for pair, expiry in self.model.items() if expiry > self.now}

    @rule(name=NAMES, address=ADDRESSES)
    def discard(self, name: str, address: list[bytes]) -> None:
        self.follow(self.cache.discard(name, address[0]))
        self.model.pop((name, address[0]), None)

    @rule(name=NAMES)
    def forget(self, name: str) -> None:
        self.follow(self.cache.forget(name))
        self.model = {pair: expiry for pair, expiry in self.model.items() if pair[0] != name}

    @invariant()
    def reports_and_contents_agree(self) -> None:
        held = {(name, address): expiry for name, _, found in self.cache.items() for address, expiry in found.items()}
        assert held == self.model
        assert self.pairs == set(held)
        assert len(self.cache) == len(held)
        for address in {address for _, address in held}:
            assert self.cache.facts_of(address) == {name for name, other in held if other == address}
        assert set(self.cache.addresses()) == {address for _, address in held}


class CappedCache(RuleBasedStateMachine):
    """With caps: whatever goes is reported, and nothing exceeds them."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = NameCache(max_names=3, max_addresses_per_name=2, max_addresses=4)
        self.pairs: set[tuple[str, bytes]] = set()
        self.now = 0.0

    @rule(
        name=NAMES, addresses=ADDRESSES, ttl=st.integers(1, 30), seconds=st.integers(0, 10), endpoint=st.integers(0, 3)
    )
    def put(self, name: str, addresses: list[bytes], ttl: int, seconds: int, endpoint: int) -> None:
        self.now += seconds
        for change in (*self.cache.expire(self.now), *self.cache.put(name, addresses, self.now + ttl, endpoint)):
            pair = (change.fact, change.address)
            (self.pairs.add if change.added else self.pairs.remove)(pair)

    @invariant()
    def caps_hold(self) -> None:
        assert self.pairs == {(name, address) for name, _, found in self.cache.items() for address in found}
        assert self.cache.names <= 3
        assert len(self.cache) == len(self.pairs) <= 4
        assert all(0 < len(found) <= 2 for _, _, found in self.cache.items())
        holds = [(fact, endpoint) for fact, endpoint, _ in self.cache.oldest_first()]
        assert len(holds) == self.cache._holds <= 3
        assert sorted(holds) == sorted((fact, asker) for fact, askers, _ in self.cache.items() for asker in askers)
        held = {endpoint for _, endpoint in holds}
        assert dict(self.cache._pairs_of) == {
            one: sum(len(found) for _, askers, found in self.cache.items() if one in askers) for one in held
        }


TestCache = Cache.TestCase
TestCache.settings = settings(max_examples=50, stateful_step_count=25)
TestCappedCache = CappedCache.TestCase
TestCappedCache.settings = settings(max_examples=50, stateful_step_count=25)
