# SPDX-License-Identifier: Apache-2.0
"""Services: the real servers of a lab, nginx and dnsmasq, each with its own configuration in the lab's folder.

nginx answers any path with one line that says what reached it, ``GET /x from 203.0.113.11 to 198.51.100.1 host NAME``,
so that a test sees the request and the client's address as the server saw them; /headers tells some headers. dnsmasq
knows a fixed set of names and asks nobody. They may not read the machine's own configuration. A
server that does not start raises `LabError`.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from l7lab.namespace import LabError, Namespace, run
from l7lab.process import Process
from l7lab.topology import IN_CIDR, RESOLVER_V4, RESOLVER_V6

BIG_BYTES: Final = 8 << 20
"""Length of what /big returns."""

OUTSIDE_PORTS: Final = (80, 443, 8080)
BACKEND_PORTS: Final = (8080, 8443, 9090)
TLS_PORTS: Final = (443, 8443)

# Addresses of each name; the lab's web server listens on all of them.
ZONE: Final[dict[str, tuple[str, ...]]] = {
    "api.example.com": ("198.51.100.1", "2001:db8:100::1"),
    "www.example.com": ("198.51.100.2", "2001:db8:100::2"),
    "edge.cdn.example.net": ("198.51.100.2", "2001:db8:100::2"),
    "img.cdn.example.com": ("198.51.100.4", "2001:db8:100::4"),
    "tracker.example.net": ("198.51.100.3", "2001:db8:100::3"),
    "short.example.com": (IN_CIDR,),
}
ALIASES: Final = {"www.cdn.example.com": "edge.cdn.example.net"}
SHORT_TTL: Final = 2
LONG_TTL: Final = 60

CERTIFICATE: Final = (
    *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"),
    *("-subj", "/CN=l7lab", "-addext", f"subjectAltName={','.join(f'DNS:{name}' for name in (*ZONE, *ALIASES))}"),
)

NGINX_CONFIG = """\
user root;
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    log_format seen escape=json '{{"method":"$request_method","uri":"$request_uri","host":"$http_host",'
        '"remote":"$remote_addr","remote_port":"$remote_port","address":"$server_addr","port":"$server_port",'
        '"server_name":"$ssl_server_name","request_length":$request_length,"status":$status,"connection":$connection}}';
    access_log {folder}/access.log seen;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    keepalive_requests 1000000;
    keepalive_timeout 600s;
    default_type text/plain;
    ssl_certificate {folder}/certificate.pem;
    ssl_certificate_key {folder}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ecdh_curve X25519:prime256v1;
    server {{
        {listen}
        location / {{
            return 200 "$request_method $request_uri from $remote_addr to $server_addr host $http_host\\n";
        }}
        location = /headers {{
            return 200 "team=$http_x_team token=$http_x_token debug=$http_x_debug\\n";
        }}
        location = /big {{ alias {folder}/big; }}
        location /upload/ {{
            alias {folder}/upload/;
            dav_methods PUT DELETE;
            create_full_put_path on;
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as the server saw it."""

    method: str
    uri: str
    host: str
    remote: str
    remote_port: str
    address: str
    port: str
    server_name: str
    """As the TLS client asked for it; empty without TLS or without a name."""
    request_length: int
    """Bytes of head and body that arrived."""
    status: int
    connection: int
    """Number of the server's TCP connection: equal for requests on one kept-alive connection."""


class Nginx:
    """A web server on all addresses of a namespace."""

    def __init__(self, namespace: Namespace, folder: Path, ports: tuple[int, ...]) -> None:
        self.folder = folder
        (folder / "upload").mkdir(parents=True)
        pattern = bytes(range(256)) * 4096
        (folder / "big").write_bytes(pattern * (BIG_BYTES // len(pattern)))
        listen = " ".join(
            f"listen {address}{port}{' ssl' if port in TLS_PORTS else ''} backlog=4096;"
            for port in ports
            for address in ("", "[::]:")
        )
        run([*CERTIFICATE, "-out", str(self.certificate), "-keyout", str(folder / "key.pem")])
        config = folder / "nginx.conf"
        config.write_text(NGINX_CONFIG.format(folder=folder, listen=listen))
        argv = ["nginx", "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
        self.process = Process(namespace, argv, folder / "output.log")
        self.process.wait_listening(*ports)

    @property
    def certificate(self) -> Path:
        """Its own, signed by itself: a client that trusts it has proof of whom it talks to."""
        return self.folder / "certificate.pem"

    def seen(self) -> list[Seen]:
        """Every request that reached it, oldest first."""
        log = self.folder / "access.log"
        return [Seen(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []

    def uploaded(self, name: str) -> bytes | None:
        """What was PUT to ``/upload/NAME``."""
        path = self.folder / "upload" / name
        return path.read_bytes() if path.exists() else None


@dataclass(frozen=True, slots=True)
class SeenQuery:
    """One query as the name server saw it."""

    qtype: str
    name: str
    remote: str


class Dnsmasq:
    """A name server that knows `ZONE` and nothing else; unknown names do not exist."""

    def __init__(
        self, namespace: Namespace, folder: Path, listen: tuple[str, ...] = (RESOLVER_V4, RESOLVER_V6)
    ) -> None:
        folder.mkdir(parents=True)
        self._log = folder / "queries.log"
        lines = [
            "keep-in-foreground",
            "no-resolv",
            "no-hosts",
            "user=root",
            "port=53",
            "bind-interfaces",
            f"listen-address={','.join(listen)}",
            f"pid-file={folder}/dnsmasq.pid",
            "log-queries",
            f"log-facility={self._log}",
            f"local-ttl={LONG_TTL}",
            *(f"local=/{top}/" for top in ("com", "net", "org", "example", "test", "arpa")),
            *(f"cname={alias},{target},{LONG_TTL}" for alias, target in ALIASES.items()),
        ]
        for name, addresses in ZONE.items():
            ttl = SHORT_TTL if name.startswith("short.") else LONG_TTL
            lines.append(f"host-record={name},{','.join(addresses)},{ttl}")
        config = folder / "dnsmasq.conf"
        config.write_text("\n".join(lines) + "\n")
        self.process = Process(namespace, ["dnsmasq", f"--conf-file={config}"], folder / "output.log")
        self.process.wait_listening(53, protocol="udp")
        self.process.wait_listening(53, protocol="tcp")

    def seen(self) -> list[SeenQuery]:
        """Every query that reached it, oldest first."""
        if not self._log.exists():
            return []
        pattern = re.compile(r"query\[(\S+)\] (\S+) from (\S+)")
        return [SeenQuery(*match.groups()) for match in pattern.finditer(self._log.read_text(errors="replace"))]


def addresses(name: str) -> tuple[str, ...]:
    """What the lab's name server answers for a name, IPv4 and IPv6."""
    known = ZONE.get(ALIASES.get(name, name))
    if known is None:
        raise LabError(f"the lab's name server does not know {name}")
    return known
