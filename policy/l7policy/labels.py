# SPDX-License-Identifier: Apache-2.0
"""Labels as people write them, brought to the one form the engine compares: ``source:key=value``.

A label of a workload without a source is Kubernetes' (``app=web`` is ``k8s:app=web``). A key in a selector without a
source matches every source (``app`` is ``any:app``). May not decide what a selector matches: `l7policy.selectors` does.

Failure verdict: `LabelError`, with a text that stands on its own.
"""

import functools
import re
from collections.abc import Iterable
from typing import Final

from l7policy.errors import did_you_mean
from l7policy.model import Labels

ANY: Final = "any"
K8S: Final = "k8s"
RESERVED: Final = "reserved"
NAMESPACE_KEY: Final = "io.kubernetes.pod.namespace"
NAMESPACE: Final = f"{K8S}:{NAMESPACE_KEY}"
"""The key of the label that says which namespace a workload is in."""
NAMESPACE_LABELS_KEY: Final = "io.cilium.k8s.namespace.labels."
"""Before a label of the namespace itself, on a workload in it."""
DEFAULT_NAMESPACE: Final = "default"

WORKLOAD_SOURCES: Final = frozenset({K8S, "container"})
"""Where a workload's labels may come from. What l7gate itself gives out (reserved, cidr, fqdn) nobody may claim."""
SELECTOR_SOURCES: Final = WORKLOAD_SOURCES | {ANY, RESERVED}
NODE_SOURCES: Final = frozenset({K8S, ANY, "node"})
RESERVED_NAMES: Final = frozenset(
    {"health", "host", "ingress", "init", "kube-apiserver", "remote-node", "unmanaged", "world"}
)
"""The reserved labels that identities may carry."""

_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")


class LabelError(ValueError):
    """Not a label, and why."""


def check_key(key: str) -> str:
    """The key, without source, if it is one by Kubernetes' rules: ``name`` or ``prefix/name``. Raises LabelError."""
    prefix, slash, name = key.rpartition("/")
    if not _LABEL.fullmatch(name):
        raise LabelError(
            f"{key[:80]!r} is not a label key: 1 to 63 letters, digits, '-', '_' or '.', a letter or digit at both ends"
        )
    if slash and not is_subdomain(prefix):
        raise LabelError(f"{key[:80]!r} is not a label key: before the '/' belongs a DNS name in lower case")
    return key


def check_value(value: str) -> str:
    """The value, if it is one by Kubernetes' rules; it may be empty. Raises LabelError."""
    if value and not _LABEL.fullmatch(value):
        raise LabelError(
            f"{value[:80]!r} is not a label value:"
            " up to 63 letters, digits, '-', '_' or '.', a letter or digit at both ends"
        )
    return value


def is_subdomain(text: str) -> bool:
    """Whether it can name an object of Kubernetes (RFC 1123 subdomain, at most 253 characters)."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def is_namespace(text: str) -> bool:
    """Whether it can name a namespace (RFC 1123 label, at most 63 characters)."""
    return len(text) <= 63 and "." not in text and is_subdomain(text)


def split(label: str) -> tuple[str, str]:
    """``source:key=value`` as (``source:key``, value); the value of a label without ``=`` is empty."""
    key, _, value = label.partition("=")
    return key, value


def split_source(key: str, default: str) -> tuple[str, str]:
    """``source:key`` as (source, key). As in Cilium, ``reserved.x`` is another spelling of ``reserved:x``."""
    source, colon, rest = key.partition(":")
    if colon:
        return source, rest
    if key.startswith(f"{RESERVED}."):
        return RESERVED, key.removeprefix(f"{RESERVED}.")
    return default, key


@functools.lru_cache(maxsize=1 << 12)
def selector_key(key: str) -> str:
    """A key of a Cilium selector in canonical form: ``app`` is ``any:app``. Raises LabelError."""
    source, rest = split_source(key, ANY)
    if source not in SELECTOR_SOURCES:
        raise LabelError(_unknown_source(source, SELECTOR_SOURCES))
    if rest in {f"{K8S}.{NAMESPACE_KEY}", f"{ANY}.{NAMESPACE_KEY}"}:
        # Seen in the wild, also in Cilium's own examples. No workload carries it, so a deny rule would deny nothing.
        raise LabelError(f"no workload has the label {rest}; did you mean {NAMESPACE}?")
    if source == RESERVED and rest not in RESERVED_NAMES:
        raise LabelError(f"unknown label reserved:{rest[:80]}; {did_you_mean(rest, RESERVED_NAMES)}")
    return f"{source}:{check_key(rest)}"


def node_key(key: str) -> str:
    """A key of a selector of nodes in canonical form. Raises LabelError."""
    source, rest = split_source(key, ANY)
    if source not in NODE_SOURCES:
        raise LabelError(_unknown_source(source, NODE_SOURCES))
    return f"{source}:{check_key(rest)}"


def workload_label(text: str) -> str:
    """A workload's label in canonical form: ``app=web`` is ``k8s:app=web``. Raises LabelError."""
    key, value = split(text.strip())
    source, rest = split_source(key, K8S)
    if source not in WORKLOAD_SOURCES:
        raise LabelError(
            f"label {text[:80]!r}: a workload cannot carry labels of source {source}"
            if source in {RESERVED, "cidr", "fqdn"}
            else f"label {text[:80]!r}: {_unknown_source(source, WORKLOAD_SOURCES)}"
        )
    try:
        return f"{source}:{check_key(rest)}={check_value(value)}"
    except LabelError as error:
        raise LabelError(f"label {text[:80]!r}: {error}") from error


def workload_labels(texts: Iterable[str]) -> Labels:
    """All labels of a workload, canonical; one that names no namespace is in ``default``. Raises LabelError.

    Without that last rule a policy without a namespace, which is one of ``default``, would select none of them.
    """
    labels = frozenset(map(workload_label, texts))
    values: dict[str, str] = {}
    for key, value in map(split, sorted(labels)):
        if key in values:
            raise LabelError(f"label {key} has two values, {values[key]!r} and {value!r}")
        values[key] = value
    if not labels or NAMESPACE in values:
        return labels
    return labels | {f"{NAMESPACE}={DEFAULT_NAMESPACE}"}


def _unknown_source(source: str, known: frozenset[str]) -> str:
    return f"unknown label source {source[:80]!r}; {did_you_mean(source, known)}"
