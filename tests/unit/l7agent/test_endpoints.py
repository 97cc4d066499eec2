# SPDX-License-Identifier: Apache-2.0
"""Declared workloads: names, files, conflicts, restarts."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from l7agent import endpoints
from l7agent.endpoints import Conflict, EndpointError, Endpoints
from l7agent.workload import Attachment

WEB = endpoints.declare("web", ["app=web"])
PLACE = Attachment("lxc-web", 7, ("192.0.2.5", "2001:db8::5"), 4026532000)


def test_labels_become_canonical_and_the_namespace_names_the_endpoint() -> None:
    assert WEB.labels == ("k8s:app=web", "k8s:io.kubernetes.pod.namespace=default")
    assert WEB.name == "web"
    assert endpoints.declare("/run/netns/web", ["app=web"]).name == "web"


@pytest.mark.parametrize(
    ("netns", "labels", "name", "message"),
    [
        ("", ["app=web"], "", "either a network namespace"),
        ("a/b", ["app=web"], "", "neither the name"),
        ("a\0b", ["app=web"], "", "neither the name"),
        ("web", ["=x"], "", "label"),
        ("web", ["app=web"], "42", "cannot name"),
        ("web", ["app=web"], "a b", "cannot name"),
    ],
)
def test_what_cannot_be_an_endpoint_is_refused(netns: str, labels: list[str], name: str, message: str) -> None:
    with pytest.raises(EndpointError, match=message):
        endpoints.declare(netns, labels, name)


def test_a_cgroup_is_an_endpoint_too_under_one_spelling_of_its_path() -> None:
    declared = endpoints.declare("", ["app=backup"], cgroup="/system.slice//backup.service/")
    assert (declared.cgroup, declared.netns, declared.name) == ("/system.slice/backup.service", "", "backup.service")


@pytest.mark.parametrize(
    ("netns", "interface", "cgroup", "message"),
    [
        ("web", "", "/x.slice", "either a network namespace"),
        ("", "eth0", "/x.slice", "no interface"),
        ("", "", "/", "not the path of a cgroup"),
        ("", "", "x.slice", "not the path of a cgroup"),
        ("", "", "/a/../b", "not the path of a cgroup"),
        ("", "", "/a\0b", "not the path of a cgroup"),
    ],
)
def test_what_cannot_be_a_cgroup_is_refused(netns: str, interface: str, cgroup: str, message: str) -> None:
    with pytest.raises(EndpointError, match=message):
        endpoints.declare(netns, ["app=web"], "x", interface, cgroup=cgroup)


def test_endpoints_keep_their_ids_over_a_restart(tmp_path: Path) -> None:
    first = Endpoints(tmp_path / "endpoints.json")
    web, db = first.add(WEB), first.add(endpoints.declare("db", ["app=db"]))
    first.remove(web)
    first.save()
    second = Endpoints(tmp_path / "endpoints.json")
    assert [(one.id, one.declared.name) for one in second] == [(db.id, "db")]
    assert second.find("db") == second.find(str(db.id))
    assert second.find("web") is None


def test_a_name_or_a_namespace_can_be_taken_once(tmp_path: Path) -> None:
    table = Endpoints(tmp_path / "endpoints.json")
    table.add(WEB)
    with pytest.raises(Conflict, match="exists already"):
        table.add(WEB)
    with pytest.raises(Conflict, match="is endpoint 'web' already"):
        table.add(endpoints.declare("web", ["app=web"], name="other"))


def test_an_endpoint_is_found_by_address_while_it_is_there(tmp_path: Path) -> None:
    table = Endpoints(tmp_path / "endpoints.json")
    web = table.located(table.add(WEB), PLACE)
    assert web.state == "ready"
    assert table.at("192.0.2.5") == web
    gone = table.located(web, None, "no network namespace 'web'")
    assert gone.state == "waiting"
    assert table.at("192.0.2.5") is None


def test_a_folder_declares_one_or_several_endpoints_per_file(tmp_path: Path) -> None:
    (tmp_path / "10-one.yaml").write_text("netns: web\nlabels: {app: web}\n")
    two = "- {netns: db, labels: [app=db]}\n- {netns: mq, name: queue, labels: [app=mq]}\n"
    (tmp_path / "20-two.yaml").write_text(two)
    assert [one.name for one in endpoints.read_folder(tmp_path)] == ["web", "db", "queue"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("netns: web\nlabel: {app: web}\n", "one.yaml:2:1"),
        ("netns: web\n", "one.yaml:1:1"),
        ("netns: web\nlabels: [a=b, '=']\n", "one.yaml"),
        ("- {netns: a, labels: [x=y]}\n- {netns: a, labels: [x=y]}\n", "two endpoints are named 'a'"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "one.yaml").write_text(text)
    with pytest.raises(EndpointError, match=message):
        endpoints.read_folder(tmp_path)


def test_a_fifo_in_the_folder_is_named_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "one.yaml")
    with pytest.raises(EndpointError, match=r"one\.yaml: cannot be read: Not a regular file"):
        endpoints.read_folder(tmp_path)


def test_a_folder_that_does_not_exist_declares_nothing(tmp_path: Path) -> None:
    assert endpoints.read_folder(tmp_path / "none") == ()


def test_a_removal_can_be_undone_and_other_labels_keep_the_number(tmp_path: Path) -> None:
    table = Endpoints(tmp_path / "endpoints.json")
    web = table.located(table.add(WEB), PLACE)
    table.remove(web)
    assert table.at("192.0.2.5") is None
    table.put_back(web)
    assert (table.find("web"), table.at("192.0.2.5")) == (web, web)
    table.remove(web)
    assert table.add(endpoints.declare("web", ["app=other"]), web).id == web.id


def test_named_ports_are_read_in_one_form() -> None:
    declared = endpoints.declare("web", ["app=web"], ports=["http=8080", "dns=53/udp", "http=8080/TCP"])
    assert [endpoints.port_text(port) for port in declared.ports] == ["http=8080/TCP", "dns=53/UDP"]


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        (["8080"], "'8080' names no port; write NAME=NUMBER/TCP"),
        (["http=8080/ICMP"], "names no port"),
        (["http=0"], "'0' is not a port"),
        (["http=x/TCP"], "'x' is not a port"),
        (["8080=8080"], "'8080' cannot name a port"),
        (["-a=1"], "'-a' cannot name a port"),
        (["http=1", "http=2/TCP"], "port http of TCP has two numbers, 1 and 2"),
        ([f"p{number}={number}" for number in range(1, 258)], "257 named ports are more than 256"),
    ],
)
def test_ports_that_are_none_are_refused(ports: list[str], message: str) -> None:
    with pytest.raises(EndpointError, match=re.escape(message)):
        endpoints.declare("web", ["app=web"], ports=ports)


@pytest.mark.parametrize(
    ("add", "delete", "labels"),
    [
        (["tier=front"], [], {"k8s:app=web", "k8s:tier=front"}),
        (["app=other"], [], {"k8s:app=other"}),
        (["k8s:app=other"], ["app"], {"k8s:app=other"}),
        (["tier=front"], ["k8s:app=web"], {"k8s:tier=front"}),
        (["container:app=x"], [], {"k8s:app=web", "container:app=x"}),
    ],
)
def test_labels_change_by_key(add: list[str], delete: list[str], labels: set[str]) -> None:
    changed = endpoints.relabelled(endpoints.declare("web", ["app=web"], ports=["http=80"], audit=True), add, delete)
    assert set(changed.labels) == labels | {"k8s:io.kubernetes.pod.namespace=default"}
    assert (len(changed.ports), changed.audit) == (1, True)


@pytest.mark.parametrize(
    ("add", "delete", "message"),
    [
        ([], ["tier"], "'web' has no label 'tier'"),
        ([], ["app=other"], "'web' has no label 'app=other'"),
        (["reserved:host"], [], "cannot carry labels of source reserved"),
        (["a b=c"], [], "a b"),
    ],
)
def test_labels_that_cannot_be_changed_like_this_are_said(add: list[str], delete: list[str], message: str) -> None:
    with pytest.raises(EndpointError, match=message):
        endpoints.relabelled(endpoints.declare("web", ["app=web"]), add, delete)


def test_labels_of_a_file_are_changed_in_the_file() -> None:
    with pytest.raises(Conflict, match=r"web\.yaml: change its labels there"):
        endpoints.relabelled(endpoints.declare("web", ["app=web"], source="web.yaml"), ["a=b"], [])


@pytest.mark.parametrize(
    ("command", "declared", "configured", "audited"),
    [(None, None, True, True), (None, False, True, False), (True, False, False, True), (False, True, True, False)],
)
def test_a_command_speaks_before_the_declaration_and_that_before_the_configuration(
    tmp_path: Path, command: bool | None, declared: bool | None, configured: bool, audited: bool
) -> None:
    table = Endpoints(tmp_path / "endpoints.json")
    web = table.add(endpoints.declare("web", ["app=web"], audit=declared))
    table.put_back(replace(web, audit=command))
    assert [one.audited(configured) for one in table] == [audited]
    table.save()
    assert [one.audited(configured) for one in Endpoints(tmp_path / "endpoints.json")] == [audited]


def test_what_an_earlier_version_saved_is_read(tmp_path: Path) -> None:
    saved = '{"endpoints": {"3": {"name": "web", "netns": "web", "labels": ["k8s:app=web"]}}}'
    (tmp_path / "endpoints.json").write_text(saved)
    (web,) = Endpoints(tmp_path / "endpoints.json")
    assert (web.id, web.declared.ports, web.declared.audit, web.audit) == (3, (), None, None)
