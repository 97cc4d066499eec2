# SPDX-License-Identifier: Apache-2.0
"""Properties of l7policy.cluster: any YAML is a cluster or PolicyErrors."""

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from l7policy import cluster
from l7policy.errors import PolicyErrors
from l7policy.policydoc import Source
from l7policy.selectors import is_node

KEYS = st.sampled_from(
    [
        "metadata",
        "name",
        "namespace",
        "labels",
        "status",
        "podIP",
        "podIPs",
        "ip",
        "spec",
        "containers",
        "ports",
        "containerPort",
        "protocol",
        "hostNetwork",
        "identity",
        "networking",
        "addressing",
        "ipv4",
        "items",
        "selector",
        "clusterIP",
        "addresses",
        "address",
        "type",
        "named-ports",
        "phase",
        "kubernetes.io/x",
        "-",
    ]
)
SCALARS = st.sampled_from(
    ["a", "192.0.2.1", "2001:db8::1", "k8s:a=b", "reserved:host", "true", "", "TCP", "InternalIP", "None"]
)
VALUES: Any = st.recursive(
    SCALARS | st.integers(0, 70000) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def objects(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["Pod", "Namespace", "Node", "Service", "CiliumEndpoint", "List", "Deployment"]))
    made: dict[str, Any] = {
        "apiVersion": "cilium.io/v2" if kind == "CiliumEndpoint" else "v1",
        "kind": kind,
        "metadata": {"name": draw(st.sampled_from(["a", "b"])), "labels": draw(VALUES)},
        "spec": draw(VALUES),
        "status": draw(VALUES),
    }
    return {**made, **draw(st.dictionaries(KEYS, VALUES, max_size=2))}


@given(st.lists(objects(), max_size=3))
def test_any_objects_are_read_or_refused(found: list[dict[str, Any]]) -> None:
    text = "\n---\n".join(map(json.dumps, found))
    with contextlib.suppress(PolicyErrors):
        made = cluster.read([Source("c.yaml", text)])
        for name, endpoint in made.endpoints.items():
            assert "/" in name
            assert endpoint.labels
            assert is_node(endpoint.labels) or any(label.startswith("k8s:") for label in endpoint.labels)
