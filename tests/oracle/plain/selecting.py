# SPDX-License-Identifier: Apache-2.0
"""Whom a selector means: labels, entities, prefixes, names. Each as its document says it, one after the other."""

import ipaddress
from collections.abc import Callable
from typing import Any

from plain.party import NAMESPACE, TEAM_PREFIX, Party

Document = dict[str, Any]


def selected(selector: Document, value_of: Callable[[str], str | None]) -> bool:
    """A LabelSelector, as Kubernetes documents it."""
    for key, value in selector.get("matchLabels", {}).items():
        if value_of(key) != value:
            return False
    for expression in selector.get("matchExpressions", []):
        value = value_of(expression["key"])
        if not {
            "In": lambda: value is not None and value in expression["values"],  # noqa: B023
            "NotIn": lambda: value is None or value not in expression["values"],  # noqa: B023
            "Exists": lambda: value is not None,  # noqa: B023
            "DoesNotExist": lambda: value is None,  # noqa: B023
        }[expression["operator"]]():
            return False
    return True


def keys_of(selector: Document) -> list[str]:
    return [*selector.get("matchLabels", {}), *(e["key"] for e in selector.get("matchExpressions", []))]


def cilium_endpoint(selector: Document, namespace: str, party: Party) -> bool:
    """An element of fromEndpoints or toEndpoints; `namespace` is the policy's, empty for a clusterwide one."""
    keys = keys_of(selector)
    if any(key.startswith("reserved:") for key in keys):
        return selected(selector, party.key)
    if party.kind != "pod" or not selected(selector, party.key):
        return False
    bare = [key.partition(":")[2] or key for key in keys]
    names_namespace = NAMESPACE in bare or any(key.startswith(TEAM_PREFIX) for key in bare)
    return not namespace or names_namespace or party.namespace == namespace


def nodes(selector: Document, party: Party) -> bool:
    """An element of fromNodes, toNodes or nodes."""
    return party.node and selected(selector, party.node_key)


def pods(namespaces: Document | None, labels: Document | None, namespace: str, party: Party) -> bool:
    """A pair of namespaceSelector and podSelector. Without the first: pods of `namespace`."""
    if party.kind != "pod" or (labels is not None and not selected(labels, party.labels.get)):
        return False
    if namespaces is None:
        return party.namespace == namespace
    return selected(namespaces, {**party.namespace_labels, "kubernetes.io/metadata.name": party.namespace}.get)


def entity(name: str, party: Party) -> bool:
    outside = party.kind == "outside"
    return {
        "all": True,
        "none": False,
        "world": outside,
        "world-ipv4": outside and "." in party.address,
        "world-ipv6": outside and ":" in party.address,
        "cluster": not outside or party.apiserver,
        "kube-apiserver": party.apiserver,
        **{kind: party.kind == kind for kind in ("health", "ingress", "init", "unmanaged")},
        "host": party.kind == "host",
        "remote-node": party.kind == "remote-node",
    }[name]


def in_cidr(cidr: str, party: Party) -> bool:
    """Prefixes mean what is outside: pods and nodes are known by their labels."""
    return party.kind == "outside" and ipaddress.ip_address(party.address) in ipaddress.ip_network(cidr)


def name_matches(selector: Document, name: str) -> bool:
    """matchName and matchPattern."""
    labels = name.lower().rstrip(".").split(".")
    if "matchName" in selector:
        return selector["matchName"].lower().rstrip(".").split(".") == labels
    pattern = selector["matchPattern"].lower().rstrip(".")
    if not pattern.strip("*"):
        return True
    if pattern.startswith("**."):
        wanted = pattern.removeprefix("**.").split(".")
        return len(labels) > len(wanted) and _labels_match(wanted, labels[-len(wanted) :])
    return _labels_match(pattern.split("."), labels)


def domain_matches(domain: str, name: str) -> bool:
    """A name in domainNames (NPEP-133): ``*.`` in front is one or more labels."""
    labels, wanted = name.lower().rstrip(".").split("."), domain.lower().rstrip(".").split(".")
    if wanted[0] == "*":
        return len(labels) >= len(wanted) and labels[-len(wanted) + 1 :] == wanted[1:]
    return labels == wanted


def server_name_matches(pattern: str, name: str) -> bool:
    """An element of serverNames against a TLS server name; an empty one matches nothing."""
    if not name:
        return False
    if pattern == "*":
        return all(name.split("."))
    return _server_labels_match(pattern.lower().split("."), name.lower().split("."))


def _server_labels_match(wanted: list[str], labels: list[str]) -> bool:
    if not wanted:
        return not labels
    if wanted[0] == "**":
        return any(_server_labels_match(wanted[1:], labels[taken:]) for taken in range(1, len(labels) + 1))
    return bool(labels) and _glob(wanted[0], labels[0]) and _server_labels_match(wanted[1:], labels[1:])


def _labels_match(wanted: list[str], labels: list[str]) -> bool:
    return len(wanted) == len(labels) and all(map(_glob, wanted, labels))


def _glob(wanted: str, text: str) -> bool:
    if not wanted:
        return not text
    if wanted[0] == "*":
        return any(_glob(wanted[1:], text[skip:]) for skip in range(len(text) + 1))
    return bool(text) and wanted[0] == text[0] and _glob(wanted[1:], text[1:])
