# SPDX-License-Identifier: Apache-2.0
"""An HTTP server on a unix socket that answers as docs/reference/api.md says, and l7ctl run against it."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner, Result
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from l7ctl.main import main

STATUS = {
    "version": "0.1.0",
    "pid": 4711,
    "uptime_seconds": 3725.5,
    "revision": 7,
    "policies": 3,
    "endpoints": 1,
    "identities": 12,
    "enforcement": "default",
    "policy_audit_mode": False,
    "label_rules": [],
    "pin_names": False,
    "ambiguous_paths": "reject",
    "secrets": "/etc/l7/secrets.d",
    "peers": [
        {"name": "node/node-1", "labels": ["k8s:role=gateway", "reserved:host"], "addresses": ["192.0.2.201"]},
        {"name": "node/node-2", "labels": ["k8s:role=db", "reserved:remote-node"], "addresses": ["192.0.2.202"]},
    ],
    "audited_endpoints": [],
    "audited": {"packets": 0, "bytes": 0},
    "node": {"hostname": "node-1", "kernel": "6.1.0"},
    "policy_load_error": "",
    "processes": [
        {
            "name": "http-0",
            "kind": "http",
            "pid": 4712,
            "state": "ready",
            "revision": 7,
            "restarts": 0,
            "adopted": True,
            "flows_lost": 0,
        }
    ],
    "maps": [{"name": "policy", "entries": 32, "capacity": 65536}],
    "maps_age_seconds": 3.2,
    "problems": [],
    "enforced": [
        {
            "name": "web",
            "state": "ready",
            "programs": ["from_endpoint", "to_endpoint"],
            "missing": [],
            "policy_id": 3,
            "revision": 7,
        }
    ],
    "datapath": {"layout": "v1", "attach": "tcx", "pins": "/sys/fs/bpf/l7"},
    "audit": {"path": "/var/log/l7/audit.jsonl", "written": 5, "lost": 0, "error": ""},
    "drops": [{"reason": "POLICY_DENIED", "packets": 4, "bytes": 240}],
    "events_lost": 0,
}
ENDPOINT = {
    "id": 1,
    "name": "web",
    "netns": "blue",
    "cgroup": "",
    "interface": "lxc1",
    "ifindex": 9,
    "addresses": ["192.0.2.1", "2001:db8::1"],
    "labels": ["k8s:app=web"],
    "identity": 256,
    "identity_labels": ["k8s:app=web"],
    "ports": ["http=8080/TCP"],
    "audit": False,
    "audit_set": None,
    "policy_id": 3,
    "revision": 7,
    "policies": ["default/web"],
    "enforcing": "egress",
    "state": "ready",
    "message": "",
    "source": "command",
}
CHANGE = {
    "revision": 8,
    "changed": True,
    "added": ["default/new"],
    "removed": ["default/old"],
    "modified": ["default/web"],
    "endpoints_changed": 1,
    "endpoints": ["web"],
    "milliseconds": 12.3,
}
PROBLEM = {
    "path": "/etc/l7/policies.d/web.yaml",
    "line": 7,
    "column": 5,
    "message": "unknown field 'toPort'",
    "hint": "did you mean toPorts?",
}
SOURCE = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
    - toFQDNs: [{matchName: api.example.com}]
      toPorts:
        - ports: [{port: "80", protocol: TCP}]
"""

GOOD = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: web
spec:
  endpointSelector:
    matchLabels:
      app: web
  egress:
    - toCIDR: [198.51.100.0/24]
"""
BAD = GOOD.replace("toCIDR", "toCIDRR")

ANSWERS: dict[str, Any] = {
    "GET /v1/status": STATUS,
    "GET /v1/endpoints": [ENDPOINT],
    "POST /v1/endpoints": ENDPOINT,
    "GET /v1/endpoints/web": ENDPOINT,
    "PATCH /v1/endpoints/web/labels": ENDPOINT | {"labels": ["k8s:app=web", "k8s:pod-template-hash=1"]},
    "PATCH /v1/endpoints/web/config": ENDPOINT | {"audit": True, "audit_set": True},
    "DELETE /v1/endpoints/web": None,
    "GET /v1/identities": [{"id": 2, "labels": ["reserved:world"], "kind": "reserved", "endpoints": 0}],
    "GET /v1/rules": {
        "revision": 7,
        "policies": [
            {
                "name": "default/web",
                "kind": "CiliumNetworkPolicy",
                "file": "/etc/l7/policies.d/web.yaml",
                "line": 1,
                "rules": 2,
                "directions": ["egress"],
                "endpoints": 1,
            }
        ],
    },
    "GET /v1/rules/sources": {"revision": 7, "sources": [{"path": "/etc/l7/policies.d/web.yaml", "text": SOURCE}]},
    "GET /v1/rules/revisions": [
        {"revision": 6, "time": 1767225600.5, "policies": 2, "active": False, "note": "start"},
        {"revision": 7, "time": 1767225660.0, "policies": 3, "active": True, "note": "reload"},
    ],
    "POST /v1/rules/reload": CHANGE,
    "POST /v1/rules/rollback": CHANGE,
    "POST /v1/rules/diff": {
        "added": ["default/new"],
        "removed": [],
        "modified": [],
        "endpoints": [{"name": "web", "direction": "egress", "before": "any", "after": "default/new"}],
    },
    "GET /v1/fqdn/cache": [
        {
            "name": "api.example.com",
            "address": "198.51.100.7",
            "ttl": 60,
            "expires": 1767225660.0,
            "identity": 25165824,
            "selectors": ["fqdn:*.example.com"],
            "resolver": "192.0.2.10:53",
            "open_for": ["web"],
            "source": "lookup",
            "endpoint": "web",
        },
        {
            "name": "other.example",
            "address": "198.51.100.8",
            "ttl": 60,
            "expires": 1767225660.0,
            "identity": 25165825,
            "selectors": ["fqdn:other.example"],
            "resolver": "192.0.2.10:53",
            "open_for": ["web"],
            "source": "lookup",
            "endpoint": "db",
        },
    ],
    "POST /v1/fqdn/cache/clean": {"forgotten": 2},
    "GET /v1/fqdn/names": [
        {"selector": "*.example.com", "names": ["api.example.com"], "addresses": ["198.51.100.7"]},
        {"selector": "unused.example", "names": [], "addresses": []},
    ],
    "GET /v1/fqdn/audit": [
        {
            "endpoint": "web",
            "address": "198.51.100.99",
            "port": 443,
            "protocol": "TCP",
            "identity": 2,
            "flows": 1,
            "packets": 12,
            "bytes": 3456,
        },
    ],
    "GET /v1/fqdn/status": {"queries": 12, "learn_p99_ms": 0.2, "learn_seconds": [[0.1, 3]], "checkpoint_error": ""},
    "GET /v1/fqdn/explain": {
        "name": "api.example.com",
        "patterns": [
            {
                "pattern": "*.example.com",
                "in": "toFQDNs",
                "matches": True,
                "rules": ["shop/web egress[1]"],
                "endpoints": ["web"],
            },
            {
                "pattern": "other.example",
                "in": "rules.dns",
                "matches": False,
                "rules": ["shop/web egress[0]"],
                "endpoints": ["web"],
            },
        ],
        "addresses": [
            {
                "address": "198.51.100.7",
                "ttl": 60,
                "resolver": "192.0.2.10:53",
                "identity": 25165824,
                "asked_by": ["web"],
                "open_for": ["web"],
            }
        ],
    },
    "GET /v1/metrics": [
        {
            "name": "l7gate_drop_count_total",
            "labels": {"reason": "POLICY_DENIED"},
            "value": 4,
            "type": "counter",
        },
        {
            "name": "l7gate_dns_response_duration_seconds_bucket",
            "labels": {"le": "0.0032"},
            "value": 7,
            "type": "histogram",
        },
        {"name": "l7gate_bpf_map_pressure", "labels": {"map_name": "policy"}, "value": 0.000488, "type": "gauge"},
    ],
    "GET /v1/bpf/policy": [
        {
            "policy_id": 3,
            "endpoints": ["web"],
            "direction": "egress",
            "identity": 25165824,
            "labels": ["fqdn:*.example.com"],
            "protocol": "TCP",
            "port": "8080-8083",
            "verdict": "redirect",
            "proxy": "http",
            "precedence": 154,
            "packets": 10,
            "bytes": 4200,
            "rule": "default/web egress[0].toPorts[0]",
        }
    ],
    "GET /v1/bpf/conntrack": [
        {
            "protocol": "TCP",
            "source": "192.0.2.1",
            "source_port": 40112,
            "source_name": "web",
            "destination": "198.51.100.7",
            "destination_port": 80,
            "destination_name": "",
            "proxy": "http",
            "upstream": False,
            "flags": ["local"],
            "packets": 12,
            "bytes": 3400,
            "idle": 0.5,
            "revision": 7,
        }
    ],
    "GET /v1/bpf/ipcache": [{"prefix": "192.0.2.1/32", "identity": 256, "established": 0, "labels": ["k8s:app=web"]}],
}


class FakeAgent:
    """Answers requests from a table, which a test may change, and keeps what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.forget()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        application = Starlette(
            routes=[Route("/{path:path}", self._answer, methods=["GET", "POST", "PATCH", "DELETE"])]
        )
        config = uvicorn.Config(application, log_config=None, access_log=False, lifespan="off", loop="asyncio")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._thread.start()

    def forget(self) -> None:
        """Starts anew for another test."""
        self.answers: dict[str, Any] = dict(ANSWERS)
        self.errors: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, Any]] = []

    def close(self) -> None:
        """Stops the server."""
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        what = f"{request.method} {request.url.path}"
        self.asked.append((f"{what}?{request.url.query}".rstrip("?"), json.loads(body) if body else None))
        if what in self.errors:
            status, error = self.errors[what]
            return Response(error, status) if isinstance(error, bytes) else JSONResponse(error, status)
        if what not in self.answers:
            return JSONResponse({"error": f"no {what}"}, 404)
        value = self.answers[what]
        if value is None:
            return Response(status_code=204)
        if isinstance(value, bytes):
            return Response(value)
        return JSONResponse(value, 201 if request.method == "POST" and what.endswith("endpoints") else 200)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeAgent]:
    """One server for all tests: starting takes longer than a test."""
    running = FakeAgent(tmp_path_factory.mktemp("agent") / "agent.sock")
    yield running
    running.close()


@pytest.fixture
def agent(server: FakeAgent) -> FakeAgent:
    server.forget()
    return server


@pytest.fixture
def run() -> Callable[..., Result]:
    """Runs l7ctl with these arguments, as a shell would."""

    def invoke(*args: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner(env={"L7_CONFIG": None, "L7_SOCKET": None}).invoke(main, args, input=stdin)

    return invoke


@pytest.fixture
def l7ctl(agent: FakeAgent, run: Callable[..., Result]) -> Callable[..., Result]:
    """Runs l7ctl against the agent."""

    def invoke(*args: str, stdin: str | bytes | None = None) -> Result:
        return run("--socket", str(agent.path), *args, stdin=stdin)

    return invoke


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A valid policy's file."""
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """The same with a mistake at 10:7."""
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    return path
