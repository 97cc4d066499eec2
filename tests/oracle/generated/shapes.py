# SPDX-License-Identifier: Apache-2.0
"""What documents of all dialects have in common: selectors of labels, blocks of addresses."""

from typing import Any

from generated.world import INSIDE, PREFIXES
from hypothesis import strategies as st

Document = dict[str, Any]


def subsets(elements: list[Any], low: int = 0, high: int = 2) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(elements), min_size=low, max_size=high, unique_by=repr)


def selectors(keys: dict[str, list[str]]) -> st.SearchStrategy[Document]:
    """Label selectors over these keys and values."""
    labels = st.sampled_from([(key, value) for key, values in keys.items() for value in values])
    expressions = st.sampled_from(sorted(keys)).flatmap(
        lambda key: (
            st.fixed_dictionaries(
                {
                    "key": st.just(key),
                    "operator": st.sampled_from(["In", "NotIn"]),
                    "values": st.lists(st.sampled_from(keys[key]), min_size=1, max_size=2, unique=True),
                }
            )
            | st.fixed_dictionaries({"key": st.just(key), "operator": st.sampled_from(["Exists", "DoesNotExist"])})
        )
    )
    return st.fixed_dictionaries(
        {},
        optional={
            "matchLabels": st.lists(labels, max_size=2).map(dict),
            "matchExpressions": st.lists(expressions, max_size=1),
        },
    )


PLAIN = {"app": ["web", "db", "api"], "tier": ["front", ""]}
KUBERNETES = selectors(PLAIN)
CILIUM = selectors({**PLAIN, "k8s:app": ["web", "db"]})
NODES = selectors({"zone": ["a", "b"], "k8s:zone": ["a"], "disk": ["ssd"]})
OF_NAMESPACES = selectors({"team": ["red", "blue"], "env": ["prod"], "kubernetes.io/metadata.name": ["shop", "bank"]})


@st.composite
def blocks(draw: st.DrawFn) -> Document:
    cidr = draw(st.sampled_from(PREFIXES))
    block: Document = {"cidr": cidr}
    if carved := draw(subsets(INSIDE.get(cidr, []), high=1) if cidr in INSIDE else st.just([])):
        block["except"] = carved
    return block
