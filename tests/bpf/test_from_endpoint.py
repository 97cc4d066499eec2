# SPDX-License-Identifier: Apache-2.0
"""What a workload sends: from_endpoint, one packet at a time."""

import pytest


def test_simple(node, build):
    r = node.run("from_endpoint", build.tcp(node.web, node.server, 40000, 80), mark=0xA00)
    assert r.passed
    assert r.mark == 0
    print(list(node.maps.conntrack.items()))
    node.enforce(web="egress")
    r = node.run("from_endpoint", build.tcp(node.web, node.server, 40000, 80), mark=0xA00)
    assert r.reason == 133
    print(r)
