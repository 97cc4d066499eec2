# SPDX-License-Identifier: Apache-2.0
from l7policy.changes import Changes, EndpointChange, compare, endpoint_changes
from l7policy.model import EntityPeer, HttpRule, Operator, Origin, Port, Requirement, Rule
from l7policy.policydoc import Policy
from l7policy.verdict import Direction, Protocol

IS_WEB = (Requirement("k8s:app", Operator.IN, ("web",)),)
WEB = frozenset({"k8s:app=web"})
DB = frozenset({"k8s:app=db"})


def policy(name: str, path: str = "", line: int = 1, part: str = "", default_deny: bool = True) -> Policy:
    rule = Rule(
        Direction.EGRESS,
        Origin(name, "egress[0]", "a.yaml", line),
        peers=(EntityPeer("world"),),
        ports=(Port(Protocol.TCP, 80, 80),),
        http=(HttpRule(method="GET", path=path),) if path else None,
    )
    return Policy(
        name=name,
        namespace="shop",
        kind="CiliumNetworkPolicy",
        subject=IS_WEB,
        rules=(rule,),
        default_deny_egress=default_deny,
        part=part,
        file="a.yaml",
        line=line,
    )


def test_policies_that_came_went_or_mean_something_else_are_named_in_order() -> None:
    before = (policy("d", "/old"), policy("gone"), policy("same"), policy("b"))
    after = (policy("same", line=9), policy("new"), policy("b", default_deny=False), policy("d", "/new"))
    assert compare(before, after) == Changes(added=("new",), removed=("gone",), modified=("b", "d"))


def test_a_policy_that_only_moved_has_not_changed() -> None:
    assert compare((policy("a"),), (policy("a", line=40),)).empty
    assert endpoint_changes((policy("a"),), (policy("a", line=40),), {"web-1": WEB}) == ()


def test_parts_of_one_document_count_together() -> None:
    before = (policy("a", "/1", part="specs[0]"), policy("a", "/2", part="specs[1]"))
    assert compare(before, before[::-1]).empty
    assert compare(before, before[:1]).modified == ("a",)


def test_each_endpoint_is_told_what_is_judged_otherwise_and_nothing_else() -> None:
    before = (policy("same"), policy("d", "/old"))
    after = (policy("same"), policy("d", "/new"))
    assert endpoint_changes(before, after, {"web-2": WEB, "web-1": WEB, "db": DB}) == tuple(
        EndpointChange(
            name,
            Direction.EGRESS,
            "allow TCP 80 to world with HTTP GET /old",
            "allow TCP 80 to world with HTTP GET /new",
        )
        for name in ("web-1", "web-2")
    )


def test_the_first_policy_of_an_endpoint_enforces_a_direction() -> None:
    change = endpoint_changes((), (policy("a"),), {"web": WEB})
    assert change == (EndpointChange("web", Direction.EGRESS, "not enforced", "allow TCP 80 to world"),)


def test_a_direction_that_only_starts_to_allow_the_rest_names_that_rule() -> None:
    change = endpoint_changes((policy("a"),), (policy("a", default_deny=False),), {"web": WEB})
    assert change == (EndpointChange("web", Direction.EGRESS, "enforced", "allow everything to anyone"),)
