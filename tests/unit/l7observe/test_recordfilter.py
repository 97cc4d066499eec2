# SPDX-License-Identifier: Apache-2.0
"""Tests of l7observe.recordfilter: values of one field are alternatives, fields must all fit."""

from typing import Any

import msgspec
import pytest

from l7observe.record import AuditDns, AuditEndpoint, AuditHttp, AuditPeer, AuditRecord, AuditTls
from l7observe.recordfilter import End, FilterError, RecordFilter, expressions, status

BASE = AuditRecord(
    time="2026-01-31T12:00:00.000000Z",
    node="n",
    layer="http",
    verdict="DROPPED",
    reason="HTTP_DENIED",
    reason_text="",
    direction="egress",
    protocol="TCP",
    endpoint=AuditEndpoint(1, "web", ()),
    source=AuditPeer("192.0.2.1", 40000, 256, ("k8s:app=web",), "web"),
    destination=AuditPeer("198.51.100.1", 80, 2, ("reserved:world",)),
    rule="shop/web egress[0]",
    policies=("shop/web",),
    revision=1,
    detail="",
    type="l7",
    http=AuditHttp("GET", "api.example.com", "/public/items?x=1", 403),
)


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({}, True),
        ({"types": frozenset({"l7", "drop"}), "verdicts": frozenset({"DROPPED"})}, True),
        ({"types": frozenset({"drop"}), "verdicts": frozenset({"DROPPED"})}, False),
        ({"reasons": frozenset({"DNS_DENIED"})}, False),
        ({"directions": frozenset({"egress"})}, True),
        ({"protocols": frozenset({"HTTP"})}, True),
        ({"protocols": frozenset({"UDP", "TCP"})}, True),
        ({"protocols": frozenset({"UDP"})}, False),
        ({"families": frozenset({4})}, True),
        ({"families": frozenset({6})}, False),
        ({"source": End(names=frozenset({"web"}))}, True),
        ({"source": End(names=frozenset({"192.0.2.1"}), labels=frozenset({"app=web"}))}, True),
        ({"source": End(labels=frozenset({"k8s:app=web"}), identities=frozenset({2}))}, False),
        ({"destination": End(names=frozenset({"web"}))}, False),
        ({"destination": End(ports=frozenset({80, 443}))}, True),
        ({"either": End(names=frozenset({"198.51.100.1"}))}, True),
        ({"either": End(labels=frozenset({"any:app=web"}))}, False),
        ({"rules": expressions(["^shop/web"])}, True),
        ({"rules": expressions(["^other"])}, False),
        ({"methods": frozenset({"GET"}), "paths": expressions([r"items\?"])}, True),
        ({"paths": expressions(["^items"])}, False),
        ({"hosts": expressions([r"\.example\.com$"])}, True),
        ({"statuses": frozenset({"404", "403"})}, True),
        ({"statuses": frozenset({"4"})}, True),
        ({"statuses": frozenset({"5", "404"})}, False),
        ({"queries": expressions(["."])}, False),
        ({"server_names": expressions([""])}, False),
        ({"since": "2026-01-31T12:00:00.000000Z", "until": "2026-01-31T12:00:00.000001Z"}, True),
        ({"since": "2026-01-31T12:00:00.000001Z"}, False),
        ({"until": "2026-01-31T12:00:00.000000Z"}, False),
    ],
)
def test_what_fits(fields: dict[str, Any], fits: bool) -> None:
    assert RecordFilter(**fields).accepts(BASE) == fits


def test_names_that_were_asked_for_and_server_names_are_expressions_too() -> None:
    asked = msgspec.structs.replace(BASE, http=msgspec.UNSET, dns=AuditDns("api.example.com", "A", "REFUSED"))
    assert RecordFilter(queries=expressions([r"\.example\.com$"])).accepts(asked)
    assert not RecordFilter(queries=expressions(["^example"])).accepts(asked)
    assert not RecordFilter(methods=frozenset({"GET"})).accepts(asked)
    hello = msgspec.structs.replace(BASE, http=msgspec.UNSET, tls=AuditTls("", "1.3", ()))
    assert RecordFilter(server_names=expressions(["^$"])).accepts(hello)


@pytest.mark.parametrize(("text", "kept"), [("404", "404"), ("4+", "4"), ("40+", "40"), ("404+", "404")])
def test_a_status_or_a_range_of_them(text: str, kept: str) -> None:
    assert status(text) == kept


@pytest.mark.parametrize("text", ["", "+", "4", "40", "4040", "4x+", "٤٠٤"])
def test_what_is_no_status_is_refused(text: str) -> None:
    with pytest.raises(FilterError, match="write 404, 4"):
        status(text)


def test_what_is_no_expression_is_refused() -> None:
    with pytest.raises(FilterError, match="is not an expression of RE2"):
        expressions(["("])
