# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from l7policy.capability import CONFIGURED
from l7policy.documents import Loader, Source, load, load_enforced
from l7policy.errors import PolicyErrors
from l7policy.lint import lint
from l7policy.model import CidrPeer
from l7policy.verdict import Direction

EXAMPLES = Path(__file__).parents[3] / "examples/policies"


def cnp(name: str, namespace: str = "shop", spec: str = "{endpointSelector: {}, ingress: [{}]}") -> str:
    head = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"
    return f"{head}metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"


def np(name: str, namespace: str = "shop") -> str:
    head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
    return f"{head}metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{podSelector: {{}}}}\n"


def complaint(*sources: Source) -> str:
    with pytest.raises(PolicyErrors) as caught:
        load(sources)
    return str(caught.value)


def test_policies_come_in_the_order_of_files_and_documents() -> None:
    text = "---\n".join(map(cnp, "ab"))
    found = load(
        [Source("1", text), Source("2", ""), Source("3", "# none\n---\n"), Source("4", cnp("c") + "---\n" + np("a"))]
    )
    assert [(policy.name, policy.file, policy.line) for policy in found] == [
        ("shop/a", "1", 1),
        ("shop/b", "1", 6),
        ("shop/c", "4", 1),
        ("networkpolicy:shop/a", "4", 6),
    ]
    assert load([]) == ()


def test_a_policy_that_is_there_twice_names_both_places() -> None:
    expected = "2:1:1: CiliumNetworkPolicy shop/a is defined twice; first at 1:1 (hint: rename or remove one of them)"
    assert complaint(Source("1", cnp("a")), Source("2", cnp("a"))) == expected
    assert complaint(Source("1", np("a") + "---\n" + np("a"))).startswith(
        "1:6:1: NetworkPolicy shop/a is defined twice; first at 1:1"
    )
    assert (
        complaint(Source("1", cnp("a", "default")), Source("2", cnp("a").replace(", namespace: shop", ""))).count("\n")
        == 0
    )


def test_other_namespaces_and_kinds_may_use_the_same_name() -> None:
    clusterwide = cnp("a").replace("NetworkPolicy", "ClusterwideNetworkPolicy").replace(", namespace: shop", "")
    found = load([Source("f", "---\n".join((cnp("a"), cnp("a", "other"), np("a"), clusterwide)))])
    assert [policy.name for policy in found] == ["shop/a", "other/a", "networkpolicy:shop/a", "a"]


def test_mistakes_of_all_files_are_told_at_once_and_nothing_is_loaded() -> None:
    told = complaint(
        Source("b.yaml", cnp("a", spec="{endpointSelector: {}, egres: []}")),
        Source("a.yaml", "a: [b"),
        Source("c.yaml", cnp("ok")),
    )
    assert [line.split(": ")[0] for line in told.splitlines()] == ["a.yaml:1:6", "b.yaml:4:30"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spec: [", "f:1:8: not YAML"),
        (cnp("a") + "kind: X\n", "f:5:1: key kind is repeated; first on line 2"),
        (
            cnp("a", spec="{endpointSelector: {}, ingres: [{}]}"),
            "f:4:30: unknown field ingres (hint: did you mean ingress?)",
        ),
        (
            cnp("a", spec="{endpointSelector: {}, egress: [{toCIDR: [192.0.2.0/24], toFQDNs: [{matchName: a}]}]}"),
            "f:4:64: combining toCIDR and toFQDNs is not supported (hint: write two elements; either may allow)",
        ),
        (
            cnp(
                "a",
                spec="{endpointSelector: {}, egress: [{toPorts: "
                "[{ports: [{port: '80', protocol: UDP}], rules: {http: [{}]}}]}]}",
            ),
            "f:4:82: L7 rules can only apply to TCP (not UDP) except for DNS rules (hint: write protocol: TCP)",
        ),
        (
            cnp(
                "a",
                spec="{endpointSelector: {}, egress: [{toPorts: "
                "[{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: '('}]}}]}]}",
            ),
            "f:4:111: path: RE2 refuses '(': missing ): (",
        ),
        (
            cnp("a", spec=f"{{endpointSelector: {{}}, egress: [{{toFQDNs: [{{matchPattern: '{'a' * 256}'}}]}}]}}"),
            "f:4:65: matchPattern: 256 characters are more than the 255 a DNS name can have",
        ),
    ],
)
def test_bad_input_is_a_clear_error_at_its_place(text: str, expected: str) -> None:
    assert expected in complaint(Source("f", text))


def test_the_examples_are_good_and_say_what_they_are_for() -> None:
    paths = sorted(EXAMPLES.glob("*.yaml"))
    found = {policy.name: policy for policy in load([Source(path.name, path.read_text("utf-8")) for path in paths])}
    assert sorted(found) == [
        "networkpolicy:shop/batch-closed",
        "shop/backend-ingress",
        "shop/batch-egress",
        "shop/frontend-egress",
    ]
    assert found["shop/frontend-egress"].default_deny(Direction.EGRESS)
    assert found["shop/backend-ingress"].default_deny(Direction.INGRESS)
    assert found["networkpolicy:shop/batch-closed"].default_deny(Direction.INGRESS)
    assert all(path.read_text("utf-8").startswith("# ") for path in paths)


def test_who_enforces_refuses_what_would_be_enforced_by_halves() -> None:
    sources = [Source("f", cnp("a", spec="{endpointSelector: {}, egressDeny: [{toNodes: [{}]}]}"))]
    assert load(sources)
    with pytest.raises(PolicyErrors, match=r"f:4:\d+: shop/a egressDeny\[0\]: l7d is not told who another node is"):
        load_enforced(sources)
    assert load_enforced([Source("f", cnp("a"))]) == load([Source("f", cnp("a"))])


def test_what_policies_refer_to_may_stand_behind_them_or_in_the_files_of_a_cluster() -> None:
    group = (
        "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: g}\nspec: {externalCIDRs: [192.0.2.0/24]}\n"
    )
    policy = cnp("a", spec="{endpointSelector: {}, egress: [{toCIDRSet: [{cidrGroupRef: g}]}]}")
    beside = load([Source("f", policy + "---\n" + group)])
    assert [found.name for found in beside] == ["shop/a"]
    assert load([Source("f", policy)], [Source("c", "kind: Pod\n---\n" + group)]) == beside
    assert "no CiliumCIDRGroup 'g' among the files" in complaint(Source("f", policy))
    assert "CiliumCIDRGroup g is defined twice" in complaint(Source("f", group), Source("h", group))


GROUP = "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: g}\nspec: {externalCIDRs: [192.0.2.0/24]}\n"
BY_GROUP = cnp("by-group", spec="{endpointSelector: {}, egress: [{toCIDRSet: [{cidrGroupRef: g}]}]}")


def test_what_has_not_changed_is_not_read_again() -> None:
    loader = Loader()
    text = "---\n".join((cnp("a"), cnp("b"), BY_GROUP))
    first = loader.load([Source("f", text), Source("g", GROUP)])
    second = loader.load([Source("f", text.replace("name: a", "name: c")), Source("g", GROUP)])
    assert [policy.name for policy in second] == ["shop/c", "shop/b", "shop/by-group"]
    assert [new is old for new, old in zip(second, first, strict=True)] == [False, True, True]


def test_a_file_that_is_the_same_is_the_same_policies_and_still_counts_for_others() -> None:
    loader = Loader()
    first = loader.load([Source("f", cnp("a")), Source("g", GROUP)])
    assert loader.load([Source("f", cnp("a")), Source("g", GROUP), Source("h", BY_GROUP)])[0] is first[0]
    with pytest.raises(PolicyErrors, match="defined twice"):
        loader.load([Source("f", cnp("a")), Source("f", cnp("a"))])


def test_a_policy_follows_the_group_it_refers_to() -> None:
    loader = Loader()
    for prefix in ("192.0.2.0/24", "198.51.100.0/24", "192.0.2.0/24"):
        sources = [Source("f", BY_GROUP), Source("g", GROUP.replace("192.0.2.0/24", prefix))]
        (found,) = loader.load(sources)
        assert found.rules[0].peers == (CidrPeer(prefix),)


def test_a_reading_that_failed_is_not_remembered() -> None:
    loader = Loader()
    (first,) = loader.load([Source("f", BY_GROUP), Source("g", GROUP)])
    with pytest.raises(PolicyErrors):
        loader.load([Source("f", BY_GROUP), Source("g", GROUP.replace("192", "198")), Source("h", "broken: [")])
    (second,) = loader.load([Source("f", BY_GROUP), Source("g", GROUP)])
    assert second is first


def test_a_policy_that_moved_in_its_file_is_told_where_it_is_now() -> None:
    loader = Loader()
    loader.load([Source("f", cnp("a") + "---\n" + cnp("b"))])
    moved = loader.load([Source("f", "# a comment\n" + cnp("a") + "---\n" + cnp("b"))])
    assert [policy.line for policy in moved] == [2, 7]


def test_a_quote_that_runs_over_the_end_of_a_document_is_told_where_the_whole_file_breaks() -> None:
    text = cnp("a", spec="{endpointSelector: {}, description: 'open") + "---\n" + cnp("b")
    assert complaint(Source("f", text)).startswith("f:5:1: not YAML: while scanning a quoted scalar")


@pytest.mark.parametrize(
    ("text", "wrong", "meant"),
    [
        ("metadata: {nme: a}\nspec: {endpointSelector: {}, egress: [{}]}", "nme", "name"),
        ("metadata: {name: a}\nspek: {endpointSelector: {}, egress: [{}]}", "spek", "spec"),
        ("metadat: {name: a}\nspec: {endpointSelector: {}, egress: [{}]}", "metadat", "metadata"),
        ("metadata: {name: a}\nspec: {endpointSelektor: {}, egress: [{}]}", "endpointSelektor", "endpointSelector"),
        ("metadata: {name: a}\nspec: {endpointSelector: {}, egres: [{}]}", "egres", "egress"),
        ("metadata: {name: a}\nspec: {endpointSelector: {}, egress: [{toPorts: [{port: []}]}]}", "port", "ports"),
        ("metadata: {name: a}\nspec: {endpointSelector: {}, egress: [{toCIDRSet: [{cdir: a}]}]}", "cdir", "cidr"),
        (
            "metadata: {name: a}\nspec: {endpointSelector: {matchExpressions: [{key: a, operater: In}]}, egress: [{}]}",
            "operater",
            "operator",
        ),
    ],
)
def test_a_misspelt_field_is_one_mistake_though_it_is_needed(text: str, wrong: str, meant: str) -> None:
    with pytest.raises(PolicyErrors) as refused:
        load([Source("f", f"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n{text}\n")])
    (error,) = refused.value.errors
    assert (error.message, error.hint) == (f"unknown field {wrong}", f"did you mean {meant}?")


def test_the_optional_examples_load_and_warn_of_nothing() -> None:
    folder = Path(__file__).parents[3] / "examples" / "policies" / "optional"
    sources = [Source(path.name, path.read_text("utf-8")) for path in sorted(folder.glob("*.yaml"))]
    assert {policy.file for policy in load(sources)} == {"host.yaml", "no-encrypted-dns.yaml", "nodes.yaml"}
    for source in sources:
        assert lint([source], load([source]), told=CONFIGURED) == ()
        assert source.text.startswith("# ")
