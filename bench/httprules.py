# SPDX-License-Identifier: Apache-2.0
"""The same HTTP rules in the language of each proxy: l7gate's policy, Envoy, HAProxy, mitmproxy.

A set of n rules is n - 1 for services that nobody asks for and, last, the one that lets the bench through. So whoever
tries them one after the other tries all of them.
"""

import json
from typing import Any, Final

COUNTS: Final = {10: 8010, 100: 8100, 1000: 9000}
"""Port that each number of rules is enforced on."""
OPEN_PORT: Final = 8001
"""Allowed without HTTP rules."""
TLS_PORT: Final = 8443
"""Where TLS is limited to a server name."""
SERVER_NAME: Final = "bench.example"
ALLOWED: Final = "/public/"
DENIED: Final = "/private/"


def rules(count: int) -> list[tuple[tuple[str, ...], str]]:
    """Methods, and an expression for the whole path with its query."""
    others = [(("GET",), f"/service-{number}/items/[0-9]+") for number in range(count - 1)]
    return [*others, (("GET", "PUT"), f"{ALLOWED}.*")]


def policy(server: str) -> str:
    """A CiliumNetworkPolicy for the lab's frontend (JSON is YAML)."""
    ports: list[dict[str, Any]] = [{"ports": [{"port": str(OPEN_PORT), "protocol": "TCP"}]}]
    ports.append({"ports": [{"port": str(TLS_PORT), "protocol": "TCP"}], "serverNames": [SERVER_NAME]})
    for count, port in COUNTS.items():
        http = [{"method": "|".join(methods), "path": path} for methods, path in rules(count)]
        ports.append({"ports": [{"port": str(port), "protocol": "TCP"}], "rules": {"http": http}})
    spec = {
        "endpointSelector": {"matchLabels": {"app": "frontend"}},
        "egress": [{"toCIDR": [f"{server}/32"], "toPorts": ports}],
    }
    document = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "bench", "namespace": "shop"},
        "spec": spec,
    }
    return json.dumps(document, indent=1)


def envoy(address: str, server: str, log: str) -> str:
    """Envoy's configuration: RBAC on method and path as Cilium's Envoy has it, and an access log."""
    return json.dumps(
        {
            "static_resources": {
                "listeners": [
                    *(_envoy_listener(address, port, count, log) for count, port in COUNTS.items()),
                    _envoy_tls(address),
                ],
                "clusters": [_envoy_cluster(server, port) for port in (*COUNTS.values(), TLS_PORT)],
            }
        }
    )


def _envoy_listener(address: str, port: int, count: int, log: str) -> dict[str, Any]:
    http = "envoy.extensions.filters.http"
    policies = {
        f"rule-{number:04}": {
            "permissions": [
                {
                    "and_rules": {
                        "rules": [
                            {"header": _envoy_matches(":method", "|".join(methods))},
                            {"header": _envoy_matches(":path", path)},
                        ]
                    }
                }
            ],
            "principals": [{"any": True}],
        }
        for number, (methods, path) in enumerate(rules(count))
    }
    fields = {
        "time": "%START_TIME%",
        "source": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "destination": "%DOWNSTREAM_LOCAL_ADDRESS%",
        "method": "%REQ(:METHOD)%",
        "host": "%REQ(:AUTHORITY)%",
        "path": "%REQ(:PATH)%",
        "status": "%RESPONSE_CODE%",
        "detail": "%RESPONSE_CODE_DETAILS%",
    }
    manager = {
        "@type": "type.googleapis.com/"
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": f"rules{count}",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "access_log": [
            {
                "name": "file",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                    "path": log,
                    "log_format": {"json_format": fields},
                },
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": f"server{port}", "timeout": "3600s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "rbac",
                "typed_config": {
                    "@type": f"type.googleapis.com/{http}.rbac.v3.RBAC",
                    "rules": {"action": "ALLOW", "policies": policies},
                },
            },
            {"name": "router", "typed_config": {"@type": f"type.googleapis.com/{http}.router.v3.Router"}},
        ],
    }
    return {
        "name": f"rules{count}",
        "address": {"socket_address": {"address": address, "port_value": port}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }


def _envoy_tls(address: str) -> dict[str, Any]:
    extensions = "type.googleapis.com/envoy.extensions.filters"
    proxy = {
        "@type": f"{extensions}.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tls",
        "cluster": f"server{TLS_PORT}",
    }
    inspector = {"@type": f"{extensions}.listener.tls_inspector.v3.TlsInspector"}
    return {
        "name": "tls",
        "address": {"socket_address": {"address": address, "port_value": TLS_PORT}},
        "listener_filters": [{"name": "tls_inspector", "typed_config": inspector}],
        "filter_chains": [
            {
                "filter_chain_match": {"server_names": [SERVER_NAME]},
                "filters": [{"name": "tcp", "typed_config": proxy}],
            }
        ],
    }


def _envoy_matches(header: str, expression: str) -> dict[str, Any]:
    return {"name": header, "string_match": {"safe_regex": {"regex": expression}}}


def _envoy_cluster(server: str, port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"socket_address": {"address": server, "port_value": port}}}}
    unlimited = {"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}
    return {
        "name": f"server{port}",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [unlimited]},
        "load_assignment": {"cluster_name": f"server{port}", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def haproxy(address: str, server: str) -> str:
    """HAProxy's configuration: one thread, rules as ACLs, every request logged to standard output."""
    lines = [
        "global",
        " nbthread 1",
        " maxconn 4000",
        " log stdout format raw local0",
        "defaults",
        " mode http",
        " log global",
        " option httplog",
        " timeout connect 5s",
        " timeout client 60s",
        " timeout server 60s",
    ]
    for count, port in COUNTS.items():
        lines += [f"frontend rules{count}", f" bind {address}:{port} backlog 4096"]
        for methods, path in rules(count):
            lines.append(f" http-request allow if {{ method {' '.join(methods)} }} {{ pathq -m reg ^{path}$ }}")
        lines += [" http-request deny", f" default_backend server{port}"]
        lines += [f"backend server{port}", f" server one {server}:{port}"]
    lines += ["frontend tls", " mode tcp", " option tcplog", f" bind {address}:{TLS_PORT}"]
    lines += [" tcp-request inspect-delay 5s", f" tcp-request content accept if {{ req_ssl_sni -i {SERVER_NAME} }}"]
    lines += [" tcp-request content reject if { req_ssl_hello_type 1 }", " default_backend tls"]
    lines += ["backend tls", " mode tcp", f" server one {server}:{TLS_PORT}"]
    return "\n".join(lines) + "\n"


def mitmproxy(count: int) -> str:
    """An addon of mitmproxy that refuses what no rule allows, and says what passed."""
    return (
        "import re\n"
        "from mitmproxy import http\n"
        f"RULES = [(frozenset(m), re.compile(p)) for m, p in {rules(count)!r}]\n"
        "class Rules:\n"
        "    def requestheaders(self, flow):\n"
        "        method, path = flow.request.method, flow.request.path\n"
        "        if not any(method in m and p.fullmatch(path) for m, p in RULES):\n"
        "            flow.response = http.Response.make(403, 'Access denied\\r\\n')\n"
        "addons = [Rules()]\n"
    )
