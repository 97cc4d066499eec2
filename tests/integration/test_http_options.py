# SPDX-License-Identifier: Apache-2.0
"""Options for requests: names that are pinned, paths that are normalised, records that are redacted."""

from collections.abc import Callable

import pytest

from l7lab import traffic
from l7lab.gate import Gate
from l7lab.scenario import CDN_V4
from l7lab.services import RESOLVER_V4

POLICY = f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: cdn, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: frontend}}}}
  egress:
  - toCIDR: ["{RESOLVER_V4}/32"]
    toPorts:
    - ports: [{{port: "53", protocol: ANY}}]
      rules: {{dns: [{{matchPattern: "*"}}]}}
  - toFQDNs: [{{matchName: www.cdn.example.com}}]
    toPorts:
    - ports: [{{port: "80", protocol: TCP}}]
      rules: {{http: [{{path: "/public/.*"}}]}}
"""
NAME = "www.cdn.example.com"


@pytest.fixture(scope="module")
def gate(module_gate: Callable[..., Gate]) -> Gate:
    redact = {"query": True, "headers": ["*"]}
    http = {"pin_names": True, "ambiguous_paths": "normalise", "redact": redact}
    made = module_gate({"cdn.yaml": POLICY}, {"http": http, "access_log": True})
    assert traffic.dns(made.lab.frontend.namespace, NAME).addresses
    return made


def get(gate: Gate, path: str, host: str = NAME, **options: str) -> traffic.HttpResult:
    return traffic.http(gate.lab.frontend.namespace, f"http://{host}{path}", address=CDN_V4, **options)


def test_a_name_that_shares_the_address_is_not_the_name_that_was_allowed(gate: Gate) -> None:
    assert get(gate, "/public/").status == 200
    assert get(gate, "/public/", NAME.upper()).status == 200
    assert get(gate, "/public/", "www.example.com").status == 403
    gate.wait_audit(lambda one: one["layer"] == "http" and one["http"]["host"] == "www.example.com", "the other name")
    assert not [one for one in gate.lab.web.seen() if one.host == "www.example.com"]


def test_a_path_is_judged_and_sent_on_as_it_is_written_plainly(gate: Gate) -> None:
    assert get(gate, "/private/%2e%2e//public/./one").status == 200
    assert gate.lab.web.seen()[-1].uri == "/public/one"
    assert get(gate, "/public/%2e%2e/private/two").status == 403
    assert not [one for one in gate.lab.web.seen() if "two" in one.uri]


def test_records_show_no_query_and_no_password(gate: Gate) -> None:
    assert get(gate, "/public/three?token=s3cret").status == 200
    assert gate.lab.web.seen()[-1].uri == "/public/three?token=s3cret"
    assert get(gate, "/private/four?token=s3cret").status == 403
    record = gate.wait_audit(lambda one: one["layer"] == "http" and "four" in one["http"]["path"], "four")
    assert record["http"]["path"] == "/private/four?[redacted]"
    shown = gate.must("monitor", "--last", "100", "--no-follow", "-o", "json", "--type", "l7").out
    assert "/public/three?[redacted]" in shown
    assert "s3cret" not in shown + gate.audit_log.read_text()
