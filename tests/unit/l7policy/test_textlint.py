# SPDX-License-Identifier: Apache-2.0
"""Tests of l7policy.textlint."""

import pytest

from l7policy import textlint, yamltree

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {}
  egress:
    - PEER
      toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules:
            http:
              - {HTTP}
"""


def found(text: str) -> list[tuple[int, int, str]]:
    (document,) = yamltree.parse("p.yaml", text)
    return [(one.line, one.column, one.rule) for one in textlint.warnings(document)]


def http(rule: str) -> list[tuple[int, int, str]]:
    return found(POLICY.replace("{HTTP}", rule).replace("- PEER\n     ", "-"))


def peer(text: str) -> list[tuple[int, int, str]]:
    return found(POLICY.replace("PEER", text).replace("{HTTP}", "{method: GET}"))


@pytest.mark.parametrize("path", ["/status", "^/status", "/a/", "/a|/b.*", "/a-b_c", "/"])
def test_a_path_that_matches_only_itself_is_told(path: str) -> None:
    assert http(f"{{path: '{path}'}}") == [(11, 24, "unanchored-path")]


@pytest.mark.parametrize(
    "path", ["/status$", "^/status$", "/status.*", r"/status(\?.*)?", "/a[0-9]", "/a|/b$", r"/a\d", "/a?", ".*"]
)
def test_a_path_that_says_where_it_ends_is_fine(path: str) -> None:
    assert http(f"{{path: '{path}'}}") in ([], [(11, 24, "unanchored-path")] if path == "/a|/b$" else [])


@pytest.mark.parametrize(
    ("host", "warned"),
    [
        ("api.example.com", True),
        (r"api\.example.com", True),
        (r"api\.example\.com", False),
        ("api[.]example[.]com", False),
        (".*", False),
        (r".+\.example\.com", False),
        ("localhost", False),
        (r"a\\.b", True),
    ],
)
def test_a_dot_of_a_host_that_matches_anything_is_told(host: str, warned: bool) -> None:
    assert http(f"{{host: '{host}'}}") == ([(11, 24, "unescaped-dot")] if warned else [])


def test_the_hint_for_a_dot_is_the_expression_that_was_meant() -> None:
    (document,) = yamltree.parse("p.yaml", POLICY.replace("{HTTP}", "{host: 'a.b'}").replace("PEER", "toCIDR: []"))
    assert [one.hint for one in textlint.warnings(document)] == [r"write a\.b"]


@pytest.mark.parametrize(
    ("selector", "warned"),
    [
        ("{matchPattern: '*.co.uk'}", True),
        ("{matchPattern: '**.com.'}", True),
        ("{matchPattern: 'img*.GitHub.io'}", True),
        ("{matchPattern: '*'}", True),
        ("{matchPattern: '*.example.com'}", False),
        ("{matchPattern: 'api.*.example.com'}", False),
        ("{matchPattern: '*.svc'}", False),
        ("{matchName: co.uk}", False),
    ],
)
def test_a_pattern_as_wide_as_a_registry_is_told(selector: str, warned: bool) -> None:
    column = 17 + selector.index(" ") + 1
    assert peer(f"toFQDNs: [{selector}]") == ([(7, column, "wide-name")] if warned else [])


def test_every_name_may_be_asked_for_without_a_warning() -> None:
    dns = POLICY.replace("http:", "dns:").replace("- PEER\n     ", "-")
    assert found(dns.replace("{HTTP}", '{matchPattern: "*"}')) == []
    assert found(dns.replace("{HTTP}", '{matchPattern: "*.com"}')) == [(11, 32, "wide-name")]


@pytest.mark.parametrize("key", ["serverNames", "domainNames"])
def test_server_names_and_domain_names_are_patterns_too(key: str) -> None:
    assert found(f"spec:\n  egress:\n    - {key}: ['*.net', a.com]\n") == [(3, 10 + len(key), "wide-name")]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("- method: GET\n              - headers: ['X: 1']", (12, 17)),
        ("- method: GET\n            headers: ['X: 1']", (12, 13)),
        ("- method: GET\n          headers: ['X: 1']", (12, 11)),
    ],
)
def test_headers_that_slipped_out_of_their_rule_are_told(text: str, place: tuple[int, int]) -> None:
    policy = POLICY.replace("- {HTTP}", text).replace("- PEER\n     ", "-")
    assert found(policy) == [(*place, "misplaced-headers")]


def test_headers_inside_of_a_rule_or_alone_in_the_list_are_fine() -> None:
    assert http("{method: GET, headers: ['X: 1']}") == []
    assert http("{headers: ['X: 1']}") == []
    assert http("{headers: ['X: 1']}\n              - {headers: ['Y: 1']}") == []


@pytest.mark.parametrize("text", ["''", "' '", ""])
def test_an_empty_pattern_is_told(text: str) -> None:
    assert [rule for _, _, rule in peer(f"toFQDNs: [{{matchPattern: {text}}}]")] == ["empty-pattern"]


def test_lists_of_policies_are_unpacked() -> None:
    inner = POLICY.replace("{HTTP}", "{path: /a}").replace("PEER", "toCIDR: []").replace("\n", "\n    ")
    assert len(found(f"kind: List\nitems:\n  - {inner}")) == 1
