# SPDX-License-Identifier: Apache-2.0
"""Whether the target of a CNAME counts for toFQDNs when only the alias was asked for: the operator's choice."""

from pathlib import Path

import pytest

from l7lab import Lab, traffic
from l7lab.gate import Gate

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toCIDR: [192.0.2.10/32]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules: {dns: [{matchPattern: "**.example.*"}]}
  - toFQDNs: [{matchName: edge.cdn.example.net}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"""
ADDRESS = "198.51.100.2"


@pytest.mark.parametrize("bind", [False, True])
def test_a_target_counts_only_where_the_operator_says_so(tmp_path: Path, bind: bool) -> None:
    source = tmp_path / "policies"
    source.mkdir()
    (source / "names.yaml").write_text(POLICY)
    with Lab() as lab:
        gate = Gate(lab, source, {"dns": {"bind_aliases": bind}})
        gate.start()
        gate.add_all()
        frontend = lab.frontend.namespace

        def opens() -> bool:
            return traffic.connect(frontend, ADDRESS, 80, timeout=0.4).open

        assert not opens()
        assert traffic.dns(frontend, "www.cdn.example.com").addresses == (ADDRESS,)
        assert opens() == bind
        listed = {row["name"] for row in gate.must("fqdn", "cache", "list", "-o", "json").json}
        assert listed == {"www.cdn.example.com", *(["edge.cdn.example.net"] if bind else [])}
        assert traffic.dns(frontend, "edge.cdn.example.net").addresses == (ADDRESS,)
        assert opens()
        assert "Traceback" not in (lab.folder / "l7d.log").read_text()
