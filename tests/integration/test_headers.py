# SPDX-License-Identifier: Apache-2.0
"""Rules that look at headers, change them on their way, and take values from secrets."""

from collections.abc import Callable
from pathlib import Path

from l7lab import traffic
from l7lab.gate import Gate
from l7lab.process import wait_until
from l7lab.scenario import API_V4

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toCIDR: [198.51.100.1/32]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - path: /headers
          headerMatches:
          - {name: X-Team, value: shop, mismatch: REPLACE}
          - {name: X-Token, secret: {name: token}, mismatch: REPLACE}
          - {name: X-Debug, mismatch: DELETE, value: never}
        - path: /only
          headerMatches: [{name: X-Token, secret: {name: token}}]
"""


def secret(gate: Gate, folder: Path, value: str, mode: int = 0o600) -> None:
    path = folder / "shop" / "token"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value + "\n")
    path.chmod(mode)


def get(gate: Gate, path: str, *headers: str) -> traffic.HttpResult:
    return traffic.http(
        gate.lab.frontend.namespace, f"http://api.example.com{path}", address=API_V4, headers=list(headers)
    )


def test_headers_are_changed_on_their_way_and_secrets_follow_a_reload(
    unstarted_gate: Callable[..., Gate], tmp_path: Path
) -> None:
    gate = unstarted_gate({"api.yaml": POLICY}, {"secrets": str(tmp_path), "http_workers": 1})
    secret(gate, tmp_path, "first-s3cret")
    gate.start()
    gate.add_all()
    sent = get(gate, "/headers", "X-Team: admin", "X-Debug: 1", "X-Token: forged")
    assert (sent.status, sent.body) == (200, "team=shop token=first-s3cret debug=\n")
    assert get(gate, "/headers").body == "team=shop token=first-s3cret debug=\n"
    assert get(gate, "/only", "X-Token: first-s3cret").status == 200
    assert get(gate, "/only", "X-Token: other").status == 403

    secret(gate, tmp_path, "second-s3cret")
    assert get(gate, "/only", "X-Token: second-s3cret").status == 403
    gate.must("rules", "reload")
    assert get(gate, "/only", "X-Token: second-s3cret").status == 200
    assert get(gate, "/only", "X-Token: first-s3cret").status == 403
    assert get(gate, "/headers").body == "team=shop token=second-s3cret debug=\n"

    secret(gate, tmp_path, "third-s3cret", 0o644)
    gate.must("rules", "reload")
    assert get(gate, "/only", "X-Token: third-s3cret").status == 403
    assert get(gate, "/headers").status == 403
    log = (gate.lab.folder / "l7d.log").read_text()
    assert "mode 0644 lets others at it: chmod 0600" in log
    wait_until(lambda: len(gate.audit()) >= 4, "the audit records")
    everything = log + gate.audit_log.read_text() + "".join(str(p.read_bytes()) for p in state_files(gate))
    assert "s3cret" not in everything


def state_files(gate: Gate) -> list[Path]:
    files = [path for path in (gate.lab.folder / "state").rglob("*") if path.is_file()]
    assert files
    return files
