# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.tally: what one workload did, and the policy that would allow just that."""

from typing import Any

import msgspec
import yaml

from l7ctl.tally import LIMIT, Tally
from l7observe.record import (
    AuditDns,
    AuditEndpoint,
    AuditHttp,
    AuditPeer,
    AuditRecord,
    AuditTls,
)
from l7policy import documents
from l7policy.policydoc import Source


def made(address: str, port: int, **changed: Any) -> AuditRecord:
    record = AuditRecord(
        time="",
        node="",
        layer="packet",
        verdict="AUDIT",
        reason="POLICY_DENIED",
        reason_text="",
        direction="egress",
        protocol="TCP",
        endpoint=AuditEndpoint(1, "job", ()),
        source=AuditPeer("192.0.2.1", 40000, 256, ()),
        destination=AuditPeer(address, port, 2, ()),
        rule="",
        policies=(),
        revision=1,
        detail="",
        type="policy-verdict",
    )
    return msgspec.structs.replace(record, **changed)


def asked(name: str, *addresses: str, server: str = "192.0.2.10", **changed: Any) -> AuditRecord:
    dns = AuditDns(name, "A", "NOERROR", addresses)
    return made(server, 53, layer="dns", type="l7", protocol="UDP", verdict="FORWARDED", dns=dns, **changed)


def tallied(*records: AuditRecord) -> Tally:
    tally = Tally("job")
    for record in records:
        tally.add(record)
    return tally


def test_addresses_are_told_by_the_names_that_led_to_them() -> None:
    tally = tallied(asked("a.example", "198.51.100.1"), made("198.51.100.1", 443), made("198.51.100.2", 443))
    assert [line.what for line in tally.sorted()] == ["198.51.100.2:443/TCP", "a.example:443/TCP", "DNS a.example A"]
    assert tally.denied == 2


def test_every_layer_is_told_in_its_words_and_denies_come_first() -> None:
    http = AuditHttp("POST", "a.example", "/x", 403)
    tls = AuditTls("b.example", "1.3", ())
    tally = tallied(
        made("192.0.2.9", 22, verdict="FORWARDED", reason="NONE", rule="p egress[0]"),
        made("192.0.2.9", 80, type="l7", verdict="DROPPED", reason="HTTP_DENIED", http=http),
        made("192.0.2.9", 443, type="l7", verdict="DROPPED", reason="SNI_DENIED", tls=tls),
        made("2001:db8::9", 443, type="drop", verdict="DROPPED", reason="RAW_SOCKET"),
    )
    assert [(line.what, line.because) for line in tally.sorted()] == [
        ("POST a.example/x", "HTTP_DENIED"),
        ("TLS b.example", "SNI_DENIED"),
        ("[2001:db8::9]:443/TCP", "RAW_SOCKET"),
        ("192.0.2.9:22/TCP", "p egress[0]"),
    ]


def test_a_dropped_packet_counts_once_and_a_proxied_flow_by_what_it_carries() -> None:
    tally = tallied(
        made("192.0.2.9", 22, verdict="DROPPED"),
        made("192.0.2.9", 22, verdict="DROPPED", type="drop"),
        made("192.0.2.9", 80, verdict="REDIRECTED", reason="NONE", proxy="http"),
    )
    assert [(line.what, line.count) for line in tally.sorted()] == [("192.0.2.9:22/TCP", 1)]


def test_other_workloads_are_passed_over() -> None:
    assert tallied(made("192.0.2.9", 22, endpoint=AuditEndpoint(2, "other", ()))).sorted() == []


def test_kinds_beyond_the_limit_are_counted_together() -> None:
    tally = tallied(*(made("192.0.2.9", port + 1) for port in range(LIMIT + 5)))
    assert (len(tally.lines), tally.others, len(tally.reached)) == (LIMIT, 5, LIMIT)


def test_the_suggested_policy_is_valid_and_allows_just_what_was_begun() -> None:
    tally = tallied(
        asked("a.example", "198.51.100.1"),
        asked("b.example", "198.51.100.1", "2001:db8::1", server="127.0.0.53"),
        made("192.0.2.10", 53, protocol="UDP", verdict="REDIRECTED", reason="NONE", proxy="dns"),
        made("2001:db8::1", 443),
        made("2001:db8::1", 80),
        made("198.51.100.7", 443),
        made("127.0.0.1", 5432),
        made("198.51.100.8", 0, protocol="ICMP"),
        made("192.0.2.1", 8080, direction="ingress"),
    )
    text = tally.policy({"app": "job"}, "job")
    assert "&id" not in text
    (policy,) = documents.load_enforced([Source("suggested.yaml", text)])
    assert policy.name == "job"
    ports = [{"port": "443", "protocol": "TCP"}]
    names = {"dns": [{"matchName": "a.example"}, {"matchName": "b.example"}]}
    resolving = [{"ports": [{"port": "53", "protocol": "ANY"}], "rules": names}]
    assert yaml.safe_load(text)["spec"] == {
        "endpointSelector": {"matchLabels": {"app": "job"}},
        "egress": [
            {"toCIDR": ["192.0.2.10/32"], "toPorts": resolving},
            {"toEntities": ["host"], "toPorts": resolving},
            {"toEntities": ["host"], "toPorts": [{"ports": [{"port": "5432", "protocol": "TCP"}]}]},
            {"toCIDR": ["198.51.100.7/32"], "toPorts": [{"ports": ports}]},
            {
                "toFQDNs": [{"matchName": "b.example"}],
                "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}, *ports]}],
            },
        ],
    }
