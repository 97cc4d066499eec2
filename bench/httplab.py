# SPDX-License-Identifier: Apache-2.0
"""The paths that `bench_http` compares, all of them standing at the same time so that rounds can interleave.

    frontend (a workload's namespace) ── node ── outside (nginx)

Each variant of l7gate has a lab of its own with `l7d` on the node. The peers share one lab without l7gate. They listen
on addresses of the node and connect to the server from the node's own address, with connections that they keep and
share, as such proxies do; everybody records every request, the peers in a file, l7gate in the agent's memory. l7gate is
transparent: one connection upstream for each downstream, from the client's.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final

import httprules
from httpload import MEBIBYTE, Scenario

from l7lab import Lab, traffic
from l7lab.gate import READY_WITHIN, Gate, program
from l7lab.namespace import Namespace, run

SERVER: Final = "198.51.100.1"
PEERS: Final = {"envoy": "198.51.100.11", "haproxy": "198.51.100.12", "mitmproxy": "198.51.100.13"}
VENV: Final = Path(__file__).parents[1] / ".venv-bench" / "bin"
NAMES: Final = ("direct", "l4", "l7gate", "l7gate2", "envoy", "haproxy", "mitmproxy")
OTHER: Final = "other"
"""l7gate of another source tree, with one worker: what a change of the code is worth."""
PARTS: Final = ("agent", "bpf", "cli", "dns", "observe", "policy", "proxy")
LARGE: Final = 100 * MEBIBYTE

NGINX: Final = """\
user root;
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    sendfile on;
    default_type text/plain;
    ssl_certificate {certificates}/certificate.pem;
    ssl_certificate_key {certificates}/key.pem;
    server {{
        {listen}
        location / {{ return 200 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\\n"; }}
        location = /public/1m {{ alias {folder}/1m; }}
        location = /public/100m {{ alias {folder}/100m; }}
        location /public/up/ {{ alias {folder}/up/; dav_methods PUT; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """One path to the server."""

    name: str
    client: Namespace
    address: str
    pids: tuple[int, ...] = ()
    """Processes that the traffic passes through, or that record it."""
    logs: tuple[Path, ...] = ()
    """Emptied between measurements."""
    counts: tuple[int, ...] = tuple(httprules.COUNTS)
    """Numbers of rules that it can be measured with; none: it has no rules."""
    tls: bool = True
    """Whether it can judge TLS that it does not open."""

    def port(self, scenario: Scenario) -> int | None:
        """Where the scenario can be measured, None if it cannot."""
        if scenario.kind == "large-tls":
            return httprules.TLS_PORT if self.tls else None
        if self.counts:
            return httprules.COUNTS[scenario.rules] if scenario.rules in self.counts else None
        return None if scenario.denied or scenario.rules != 10 else httprules.OPEN_PORT

    def tidy(self) -> None:
        """Keeps the disk free."""
        for log in self.logs:
            if log.exists():
                log.open("r+").truncate(0)


class OtherGate(Gate):
    """``l7d`` of another source tree, with the libraries of this one."""

    def __init__(self, lab: Lab, policies: Path, settings: Mapping[str, object], tree: Path) -> None:
        super().__init__(lab, policies, settings)
        self._path = ":".join(str(tree.resolve() / part) for part in PARTS)

    def start(self, timeout: float = READY_WITHIN) -> None:
        argv = ["env", f"PYTHONPATH={self._path}", program("l7d"), "--config", str(self.config), "agent"]
        self.agent = self.lab.start(self.lab.node, argv, "l7d")
        self.agent.wait(self.ready, "ready", timeout)


class HttpLab:
    """All targets that were asked for."""

    def __init__(self, names: Sequence[str], settings: dict[str, object], other: Path | None = None) -> None:
        """`other`: a source tree to measure beside this one."""
        self.names = names
        self._other = other
        self.targets: list[Target] = []
        self.upload = Path()
        """A file of 100 MiB."""
        self._settings = settings
        self._stack = ExitStack()

    def __enter__(self) -> "HttpLab":
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _build(self) -> None:
        for variant, workers in (("l7gate", 1), ("l7gate2", 2)):
            if variant in self.names or (variant == "l7gate" and "l4" in self.names):
                self._gate(variant, workers)
        if self._other is not None:
            self._gate(OTHER, 1, self._other)
        plain = {"direct", *PEERS}.intersection(self.names)
        if plain:
            lab = self._lab()
            if "direct" in plain:
                self.targets.append(Target("direct", lab.frontend.namespace, SERVER, counts=()))
            for name in PEERS:
                if name in plain:
                    self._peer(lab, name)
        self.targets.sort(key=lambda target: (*NAMES, OTHER).index(target.name))

    def _lab(self) -> Lab:
        lab = self._stack.enter_context(Lab())
        folder = lab.folder / "bench"
        folder.mkdir()
        # Bodies in memory: what is compared is the way there, not the disk.
        run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder)])
        (folder / "up").mkdir()
        for name, size in (("1m", MEBIBYTE), ("100m", LARGE)):
            (folder / name).write_bytes(bytes(range(256)) * (size // 256))
        self.upload = folder / "100m"
        ports = (httprules.OPEN_PORT, *httprules.COUNTS.values())
        listen = " ".join(f"listen {port} backlog=4096;" for port in ports) + f" listen {httprules.TLS_PORT} ssl;"
        config = folder / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, listen=listen, certificates=lab.web.folder))
        argv = ["nginx", "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
        lab.start(lab.outside, argv, "bench-nginx").wait_listening(*ports)
        # A connection for each request must not run out of ports.
        for host in (lab.node, lab.frontend):
            run(host.namespace.inside(["sysctl", "-qw", "net.ipv4.ip_local_port_range=10000 65000"]))
            host.namespace.sysctl({"net.ipv4.tcp_tw_reuse": 1})
        return lab

    def _gate(self, variant: str, workers: int, tree: Path | None = None) -> None:
        lab = self._lab()
        policies = lab.folder / "given"
        policies.mkdir()
        (policies / "bench.yaml").write_text(httprules.policy(SERVER))
        settings = {"http_workers": workers, "access_log": True, **self._settings}
        gate = Gate(lab, policies, settings) if tree is None else OtherGate(lab, policies, settings, tree)
        gate.start()
        gate.add(lab.frontend)
        pids = (gate.agent.pid, *gate.workers().values())
        target = Target(variant, lab.frontend.namespace, SERVER, pids, (gate.audit_log,))
        if variant in self.names or tree is not None:
            self.targets.append(target)
        if variant == "l7gate" and "l4" in self.names:
            self.targets.append(replace(target, name="l4", counts=(), tls=False))

    def _peer(self, lab: Lab, name: str) -> None:
        address, client = PEERS[name], lab.frontend.namespace
        lab.node.namespace.ip([f"addr add {address}/32 dev lo"])
        folder = lab.folder / "bench"
        log, output = folder / f"{name}.access", lab.folder / f"{name}.log"
        counts = tuple(httprules.COUNTS)
        if name == "envoy":
            config = folder / "envoy.json"
            config.write_text(httprules.envoy(address, SERVER, str(log)))
            argv = [str(VENV / "envoy"), "-c", str(config), "--concurrency", "1", "--disable-hot-restart"]
            argv += ["--log-level", "warning"]
        elif name == "haproxy":
            config = folder / "haproxy.cfg"
            config.write_text(httprules.haproxy(address, SERVER))
            argv = ["haproxy", "-f", str(config), "-db"]
        else:
            counts = counts[:1]
            script, port = folder / "rules.py", httprules.COUNTS[counts[0]]
            script.write_text(httprules.mitmproxy(counts[0]))
            argv = [str(VENV / "mitmdump"), "--mode", f"reverse:http://{SERVER}:{port}", "-s", str(script)]
            argv += ["--listen-host", address, "--listen-port", str(port), "--set", "stream_large_bodies=64k"]
            argv += ["--set", "keep_host_header=true", "--set", f"confdir={folder}/mitmproxy"]
        process = lab.start(lab.node, argv, name)
        for count in counts:
            port = httprules.COUNTS[count]
            process.wait(lambda: traffic.connect(client, address, port).open, f"port {port}", 60.0)  # noqa: B023
        self.targets.append(Target(name, client, address, (process.pid,), (log, output), counts, name != "mitmproxy"))
