# SPDX-License-Identifier: Apache-2.0
"""What no policy file can do: crash the reader, slip a field past it, or make a rule that says more than written."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from l7policy import http
from l7policy.documents import Policy, Source, load
from l7policy.errors import PolicyErrors

EXAMPLES = sorted((Path(__file__).parents[3] / "examples/policies").glob("*.yaml"))
DOCUMENTS = [document for path in EXAMPLES for document in yaml.safe_load_all(path.read_text("utf-8"))]
KEYS = st.sampled_from(
    """
    apiVersion kind metadata spec specs name namespace endpointSelector podSelector namespaceSelector ingress egress
    ingressDeny egressDeny enableDefaultDeny fromEndpoints toEndpoints toCIDR toCIDRSet fromCIDRSet toFQDNs toEntities
    fromEntities toPorts ports port endPort protocol rules http dns method path host headers matchName matchPattern
    matchLabels matchExpressions key operator values cidr except from to ipBlock policyTypes toServices icmps items
    labels description k8s:app reserved:host
    """.split()  # noqa: SIM905  a list would take fifty lines
)
WORDS = st.sampled_from(
    """
    80 0 TCP UDP ANY GET ( *.example.com a.example 192.0.2.0/24 192.0.2.0/25 ::/0 world host In Exists NotIn Ingress
    Egress cilium.io/v2 networking.k8s.io/v1 CiliumNetworkPolicy NetworkPolicy List v1 X-Key:true
    """.split()  # noqa: SIM905
)
SCALARS = st.none() | st.booleans() | st.integers(-1, 70000) | st.text(max_size=8) | WORDS
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in the tree."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from places(tree[key])


def read(document: Any) -> tuple[Policy, ...]:
    return load([Source("f", json.dumps(document, indent=1, ensure_ascii=False))])


def check(policies: tuple[Policy, ...]) -> None:
    """What the engine takes for granted of every rule."""
    for policy in policies:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(policy), type=Policy) == policy
        for rule in policy.rules:
            assert rule.origin.policy == policy.name
            assert rule.origin.line >= 1
            assert all(0 <= port.first <= port.last <= 65535 for port in rule.ports)
            assert rule.http is None or rule.dns is None
            assert not (rule.deny and (rule.http is not None or rule.dns is not None))
            assert rule.ports or (rule.http is None and rule.dns is None)
            assert rule.http != ()
            assert rule.dns != ()
            http.HttpRules(rule.http or ())
            assert rule.peers is not None or rule.ports or policy.kind == "NetworkPolicy"


def check_errors(refused: PolicyErrors) -> None:
    """What people take for granted of every error."""
    assert refused.errors
    for error in refused.errors:
        assert error.path == "f"
        assert error.message
        assert "\n" not in str(error)


def read_or_refuse(document: Any) -> None:
    try:
        found = read(document)
    except PolicyErrors as refused:
        check_errors(refused)
    else:
        check(found)


@settings(max_examples=150)
@given(st.data())
def test_a_document_with_anything_in_any_place_is_read_or_refused(data: st.DataObject) -> None:
    document = copy.deepcopy(data.draw(st.sampled_from(DOCUMENTS)))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(list(places(document))))
        container[key] = data.draw(TREES)
    read_or_refuse(document)


@settings(max_examples=150)
@given(st.sampled_from(["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "NetworkPolicy"]), TREES)
def test_a_spec_of_anything_is_read_or_refused(kind: str, spec: Any) -> None:
    version = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "cilium.io/v2"
    read_or_refuse({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": spec})


@settings(max_examples=100)
@given(st.data())
def test_an_element_of_anything_is_read_or_refused(data: st.DataObject) -> None:
    section = data.draw(st.sampled_from(["ingress", "egress", "ingressDeny", "egressDeny"]))
    element = data.draw(st.dictionaries(KEYS, TREES, max_size=3))
    head = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "a"}}
    read_or_refuse({**head, "spec": {"endpointSelector": {}, section: [element]}})


@settings(max_examples=100)
@given(st.sampled_from(DOCUMENTS), st.data())
def test_no_field_is_ever_passed_over(original: Any, data: st.DataObject) -> None:
    document = copy.deepcopy(original)
    mappings = [c[k] for c, k in places(document) if isinstance(c[k], dict) and k != "matchLabels"] + [document]
    data.draw(st.sampled_from(mappings))["surprise"] = data.draw(st.none() | st.integers(0, 9))
    with pytest.raises(PolicyErrors) as caught:
        read(document)
    text = json.dumps(document, indent=1, ensure_ascii=False).splitlines()
    assert any(
        "unknown field surprise" in error.message and '"surprise"' in text[error.line - 1]
        for error in caught.value.errors
    )


@settings(max_examples=100)
@given(
    st.text()
    | st.sampled_from([path.read_text("utf-8") for path in EXAMPLES]).flatmap(
        lambda text: st.integers(0, len(text)).map(lambda end: text[:end])
    )
)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = load([Source("f", text)])
    except PolicyErrors as refused:
        check_errors(refused)
    else:
        check(found)
