# SPDX-License-Identifier: Apache-2.0
"""Whatever comes and goes in whatever order, a selector in use selects exactly what `selectors.selects` says."""

from hypothesis import given, settings
from hypothesis import strategies as st

from l7policy.model import Labels, Operator, Requirement
from l7policy.selectorcache import needs_of_requirements, subject_cache, terms
from l7policy.selectors import selects

KEYS = ("k8s:app", "any:app", "k8s:tier", "any:canary", "container:app", "reserved:host")
REQUIREMENTS = st.builds(
    lambda key, operator, values: Requirement(
        key, operator, tuple(sorted(values)) if operator in (Operator.IN, Operator.NOT_IN) else ()
    ),
    st.sampled_from(KEYS),
    st.sampled_from(Operator),
    st.sets(st.sampled_from(["a", "b", ""]), min_size=1, max_size=2),
)
SELECTORS = st.lists(REQUIREMENTS, max_size=2).map(tuple)
LABELS: st.SearchStrategy[Labels] = st.frozensets(
    st.sampled_from(
        ["k8s:app=a", "k8s:app=b", "k8s:tier=a", "k8s:canary", "k8s:canary=", "container:app=a", "reserved:host"]
    ),
    max_size=3,
)
STEPS = st.lists(
    st.tuples(st.just("acquire"), SELECTORS)
    | st.tuples(st.just("release"), st.integers(0, 9))
    | st.tuples(st.just("update"), st.dictionaries(st.integers(0, 4), st.none() | LABELS, min_size=1, max_size=2)),
    max_size=15,
)


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_members_are_what_the_selector_selects(steps: list[tuple[str, object]]) -> None:
    cache = subject_cache()
    things: dict[int, Labels] = {}
    in_use: list[tuple[Requirement, ...]] = []
    for step, value in steps:
        if step == "acquire":
            in_use.append(value)
            cache.acquire(value)
        elif step == "release" and in_use:
            cache.release(in_use.pop(value % len(in_use)))
        elif step == "update":
            before = {(selector, thing) for selector in in_use for thing in cache.members(selector)}
            for thing, labels in value.items():
                things.pop(thing, None)
                if labels is not None:
                    things[thing] = labels
            gained, lost = cache.update(value)
            after = {(selector, thing) for selector in in_use for thing in cache.members(selector)}
            assert (set(gained), set(lost)) == (after - before, before - after)
            assert len(gained) + len(lost) == len(before ^ after), "each change is told once"
        for selector in in_use:
            assert cache.members(selector) == {t for t, labels in things.items() if selects(selector, labels)}
    assert len(cache) == len(set(in_use))
    for selector in in_use:
        cache.release(selector)
    cache.update(dict.fromkeys(things))
    assert not cache._anchored
    assert not cache._unanchored
    assert not cache._with_label
    assert not cache._of_key


@given(SELECTORS, LABELS)
@settings(max_examples=200, deadline=None)
def test_needs_are_necessary(selector: tuple[Requirement, ...], labels: Labels) -> None:
    needs, carried = needs_of_requirements(selector), terms(labels)
    if selects(selector, labels):
        assert needs.every <= carried
        assert not any(one_of.isdisjoint(carried) for one_of in needs.one_of)
