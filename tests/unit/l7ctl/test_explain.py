# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.explain: options, exit codes and words. What is answered is tested with l7policy.explain."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
    - toEndpoints: [{matchLabels: {app: api}}]
      toPorts:
        - ports: [{port: "80", protocol: TCP}]
          rules: {http: [{method: GET, path: "/a", host: api, headers: ["X-Key: 1"]}]}
    - toCIDR: [192.0.2.10/32]
      toPorts:
        - ports: [{port: "53", protocol: ANY}]
          rules: {dns: [{matchName: api.example.com}]}
"""
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: NAME-1, namespace: shop, labels: {app: NAME}}
spec: {containers: [{ports: [{name: http, containerPort: 80}]}]}
"""
FROM = "app=web,io.kubernetes.pod.namespace=shop"
TO = "app=api,io.kubernetes.pod.namespace=shop"


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "web.yaml").write_text(POLICY)
    cluster = tmp_path / "pods.yaml"
    deployment = "apiVersion: apps/v1\nkind: Deployment\n"
    cluster.write_text("---\n".join((POD.replace("NAME", "web"), POD.replace("NAME", "api"), deployment)))
    return str(tmp_path / "policies"), str(cluster)


def test_an_allowed_request_exits_with_zero_and_says_why(run: Run, files: tuple[str, str]) -> None:
    request = ("--http", "GET /a", "--host", "api", "--header", "x-key: 1")
    result = run("rules", "explain", "-f", files[0], "--from", FROM, "--to", TO, "--port", "80/TCP", *request)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{FROM} -> {TO} 80/TCP, GET /a host api",
        "  egress   REDIRECTED to the HTTP proxy (TCP)",
        f"    by     shop/web egress[0].toPorts[0] ({files[0]}/web.yaml:9)",
        "    of     shop/web",
        f"  ingress  not enforced: no policy limits the ingress of {TO}",
        "  L7       allowed",
        "",
        "allowed (REDIRECTED)",
    ]


def test_a_denied_request_exits_with_one_and_says_what_would_allow_it(run: Run, files: tuple[str, str]) -> None:
    where = ("--from", FROM, "--to", "192.0.2.10", "--port", "53/ANY")
    result = run("rules", "explain", "-f", files[0], *where, "--dns", "b.example.com")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-4:] == [
        "  L7       refused, answered REFUSED",
        "",
        "denied (DROPPED): DNS_DENIED, No DNS rule allows the name",
        f"nearest: add matchName: b.example.com to rules.dns of shop/web egress[1].toPorts[0] ({files[0]}/web.yaml:13)",
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--to", "203.0.113.1", "--port", "80"), "    by     default deny: no rule covers it"),
        (("--to", "203.0.113.1", "--port", "80"), "  L7       never reached"),
        (("--to", TO, "--port", "80"), "  L7       each is judged on its own: ask with --http"),
        (("--to", TO, "--port", "80", "--http", "GET /a//b"), "  L7       refused, answered 400"),
        (("--to", TO, "--port", "80", "--sni", ""), "  L7       refused, no answer"),
    ],
)
def test_the_text_says(run: Run, files: tuple[str, str], arguments: tuple[str, ...], line: str) -> None:
    assert line in run("rules", "explain", "-f", files[0], "--from", FROM, *arguments).stdout.splitlines()


def test_json_is_the_whole_answer(run: Run, files: tuple[str, str]) -> None:
    where = ("--cluster", files[1], "--from", "shop/web-1", "--to", "shop/api-1", "--port", "http")
    result = run("rules", "explain", "-f", files[0], *where, "--http", "PUT /a", "-o", "json")
    answer = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (answer["allowed"], answer["reason"], answer["l7"]) == (
        False,
        "HTTP_DENIED",
        {"allowed": False, "response": 403},
    )
    assert result.stderr == "l7ctl: passed over in --cluster: 1 Deployment\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "shop/no", "--to", TO, "--port", "80"), "namespace/name needs --cluster"),
        (("--from", FROM, "--to", TO, "--port", "80/XYZ"), "unknown protocol"),
        (("--from", FROM, "--to", TO, "--port", "80", "--host", "a"), "give --http too"),
        (("--from", FROM, "--to", TO), "Missing option '--port'"),
        (("--from", FROM, "--to", TO, "--port", "80", "-f", "/no/such.yaml"), "/no/such.yaml: cannot be read"),
        (("--from", FROM, "--to", TO, "--port", "80", "--cluster", "/no/such.yaml"), "/no/such.yaml: cannot be read"),
    ],
)
def test_a_wrong_question_exits_with_two(
    run: Run, files: tuple[str, str], arguments: tuple[str, ...], message: str
) -> None:
    result = run("rules", "explain", "-f", files[0], *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_an_invalid_policy_exits_with_two_and_names_the_place(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(POLICY.replace("toCIDR", "toCIDRR"))
    result = run("rules", "explain", "-f", str(bad), "--from", FROM, "--to", TO, "--port", "80")
    assert result.exit_code == 2
    assert f"{bad}:11:7: " in result.stderr


def test_without_files_the_rules_in_force_and_what_the_daemon_knows_are_asked(l7ctl: Run, agent: Any) -> None:
    (web,) = agent.answers["GET /v1/endpoints"]
    labels = ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=default"]
    agent.answers["GET /v1/endpoints"] = [{**web, "identity_labels": labels}]
    where = ("rules", "explain", "--from", "web", "--port", "80/TCP", "-o", "json")
    allowed = l7ctl(*where, "--to", "fqdn:api.example.com")
    assert allowed.exit_code == 0
    assert json.loads(allowed.stdout)["matched"][0]["file"] == "/etc/l7/policies.d/web.yaml"
    assert l7ctl(*where, "--to", "198.51.100.7").exit_code == 0  # learnt under api.example.com
    assert l7ctl(*where, "--to", "198.51.100.8").exit_code == 1


@pytest.mark.parametrize(
    ("endpoint", "status", "port", "code", "verdict"),
    [
        ({}, {}, "81/TCP", 1, "DROPPED"),
        ({"audit": True}, {}, "81/TCP", 0, "AUDIT"),
        ({"audit": False}, {"policy_audit_mode": True}, "81/TCP", 1, "DROPPED"),
        ({}, {"enforcement": "never"}, "81/TCP", 0, "FORWARDED"),
        ({"ports": ["http=80/TCP"]}, {}, "80/TCP", 1, "DROPPED"),
    ],
)
def test_the_daemons_modes_decide_too(
    l7ctl: Run, agent: Any, endpoint: dict[str, Any], status: dict[str, Any], port: str, code: int, verdict: str
) -> None:
    (web,) = agent.answers["GET /v1/endpoints"]
    labels = ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=default"]
    agent.answers["GET /v1/endpoints"] = [{**web, "identity_labels": labels, **endpoint}]
    agent.answers["GET /v1/status"] = {**agent.answers["GET /v1/status"], **status}
    asked = ("rules", "explain", "--from", "web", "--to", "198.51.100.9", "--port", port)
    result = l7ctl(*asked, "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["verdict"]) == (code, verdict)
    assert ("passes only because of audit mode" in l7ctl(*asked).stdout) == (verdict == "AUDIT")


def test_whoever_has_only_labels_is_audited_as_the_configuration_says(l7ctl: Run, agent: Any) -> None:
    agent.answers["GET /v1/status"] = {**agent.answers["GET /v1/status"], "policy_audit_mode": True}
    result = l7ctl("rules", "explain", "--from", "app=web", "--to", "198.51.100.9", "--port", "81")
    assert (result.exit_code, "POLICY_DENIED" in result.stdout) == (0, True)


def test_ports_have_the_names_that_the_daemon_knows(l7ctl: Run, agent: Any) -> None:
    result = l7ctl("rules", "explain", "--from", "reserved:world", "--to", "web", "--port", "http")
    assert result.stdout.startswith("reserved:world -> web 8080/TCP")


def test_a_name_counts_only_for_workloads_that_may_ask_who_said_it(l7ctl: Run, agent: Any) -> None:
    (web,) = agent.answers["GET /v1/endpoints"]
    labels = ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=default"]
    agent.answers["GET /v1/endpoints"] = [{**web, "identity_labels": labels}]
    question = ("rules", "explain", "--from", "app=web", "--to", "198.51.100.7", "--port", "80/TCP")
    assert l7ctl(*question).exit_code == 0
    agent.answers["GET /v1/fqdn/cache"] = [
        {**one, "open_for": ["other"]} for one in agent.answers["GET /v1/fqdn/cache"]
    ]
    assert l7ctl(*question).exit_code == 1


def test_labels_that_do_not_count_select_nothing_and_are_told(l7ctl: Run, agent: Any) -> None:
    question = ("rules", "explain", "--from", "app=web", "--to", "198.51.100.9", "--port", "81")
    assert (l7ctl(*question).exit_code, l7ctl(*question).stderr) == (1, "")
    agent.answers["GET /v1/status"] = {**agent.answers["GET /v1/status"], "label_rules": ["!k8s:app"]}
    result = l7ctl(*question)
    assert (result.exit_code, result.stderr) == (0, "l7ctl: app=web: no policy sees k8s:app=web\n")


@pytest.mark.parametrize(
    ("to", "allowed", "nearest"),
    [
        ("192.0.2.201", True, ""),
        ("reserved:host", True, ""),
        ("192.0.2.202", False, "toEntities remote-node"),
        ("node/node-2", False, "toEntities remote-node"),
    ],
)
def test_nodes_are_known_by_the_labels_that_the_daemon_knows(
    l7ctl: Run, agent: Any, to: str, allowed: bool, nearest: str
) -> None:
    text = (
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web}\nspec:\n"
        "  endpointSelector: {matchLabels: {app: web}}\n  egress: [{toNodes: [{matchLabels: {role: gateway}}]}]\n"
    )
    agent.answers["GET /v1/rules/sources"] = {"sources": [{"path": "p.yaml", "text": text}]}
    result = l7ctl("rules", "explain", "--from", "app=web", "--to", to, "--port", "81")
    assert result.exit_code == (0 if allowed else 1), result.output
    assert nearest in result.stdout


def test_a_namespace_that_was_forgotten_is_told(run: Run, files: tuple[str, str]) -> None:
    question = ("rules", "explain", "-f", files[0], "--to", "192.0.2.9", "--port", "80", "--from")
    result = run(*question, "app=web")
    assert result.exit_code == 0
    hint = "in namespace default no policy selects it; did you mean app=web,io.kubernetes.pod.namespace=shop?"
    assert result.stderr == f"l7ctl: app=web: {hint}\n"
    for told in (FROM, "app=other", "192.0.2.1"):
        assert run(*question, told).stderr == ""


@pytest.mark.parametrize(("mode", "code"), [("default", 0), ("always", 1), ("never", 0)])
def test_files_are_explained_in_any_mode(run: Run, files: tuple[str, str], mode: str, code: int) -> None:
    question = ("rules", "explain", "-f", files[0], "--from", "app=none", "--to", "192.0.2.9", "--port", "80")
    assert run(*question, "--enforcement", mode).exit_code == code


def test_files_are_explained_as_if_audited(run: Run, files: tuple[str, str]) -> None:
    question = ("rules", "explain", "-f", files[0], "--from", FROM, "--to", "192.0.2.9", "--port", "80")
    assert run(*question).exit_code == 1
    result = run(*question, "--audit", "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)["verdict"]) == (0, "AUDIT")


def test_a_daemon_has_modes_of_its_own(l7ctl: Run) -> None:
    result = l7ctl("rules", "explain", "--from", "web", "--to", "192.0.2.9", "--port", "80", "--audit")
    assert result.exit_code == 2
    assert "--enforcement, --audit and --secrets go with files" in result.stderr


def test_a_header_is_compared_with_the_secret_that_was_given(run: Run, tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a, namespace: shop}\n"
        "spec: {endpointSelector: {}, egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: "
        "[{headerMatches: [{name: X-Key, secret: {namespace: shop, name: key}}]}]}}]}]}\n"
    )
    file = tmp_path / "secrets" / "shop" / "key"
    file.parent.mkdir(parents=True)
    file.write_text("opensesame\n")
    file.chmod(0o600)
    question = ("rules", "explain", "-f", str(policy), "--from", "app=a,io.kubernetes.pod.namespace=shop")
    question += ("--to", "192.0.2.9", "--port", "80", "--http", "GET /", "--header", "X-Key: opensesame")
    assert run(*question).exit_code == 1
    assert run(*question, "--secrets", str(tmp_path / "secrets")).exit_code == 0
    missing = run(*question, "--secrets", str(tmp_path))
    assert missing.exit_code == 1
    assert "shop/key: no such file or directory; no header agrees with it here" in missing.stderr


def test_a_daemon_that_fails_is_no_deny(l7ctl: Run, run: Run, agent: Any, tmp_path: Path) -> None:
    question = ("rules", "explain", "--from", "web", "--to", "192.0.2.9", "--port", "80/TCP")
    agent.errors["GET /v1/fqdn/cache"] = (503, {"error": "the DNS process does not answer"})
    assert l7ctl(*question).exit_code == 2
    assert run("--socket", str(tmp_path / "no.sock"), *question).exit_code == 3
