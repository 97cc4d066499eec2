# SPDX-License-Identifier: Apache-2.0
"""Real HTTP servers, each of which writes down every request as it understood it: one JSON object per line.

Run as a program, this file is the Python server: http.server, with bodies read as its documentation tells people to.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NGINX = """\
user root; worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  log_format seen escape=json '{{"method":"$request_method","target":"$request_uri","path":"$uri","host":"$http_host",'
    '"status":"$status"}}';
  access_log {folder}/seen.log seen;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; client_max_body_size 0; underscores_in_headers on;
  server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ return 200 "ok\\n"; }} }}
}}
"""
APACHE = """\
ServerRoot {folder}
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {folder}/pid
DefaultRuntimeDir {folder}
ErrorLog {folder}/error.log
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule rewrite_module /usr/lib/apache2/modules/mod_rewrite.so
LogFormat '{{"line":"%r","method":"%m","path":"%U","host":"%{{Host}}i","status":"%>s"}}' seen
CustomLog {folder}/seen.log seen
MaxKeepAliveRequests 0
AllowEncodedSlashes NoDecode
RewriteEngine On
RewriteRule .* - [R=204,L]
"""
LIGHTTPD = """\
server.document-root = "{folder}"
server.bind = "127.0.0.1"
server.port = {port}
server.errorlog = "{folder}/error.log"
server.modules = ("mod_accesslog")
accesslog.filename = "{folder}/seen.log"
accesslog.format = {format}
"""
LIGHTTPD_LOG = '{"line":"%r","method":"%m","path":"%U","host":"%{Host}i","status":"%>s"}'
NODE = """\
const http = require("http"), fs = require("fs");
const log = fs.openSync(process.argv[3], "a");
http.createServer((request, answer) => {
  const seen = {method: request.method, target: request.url, path: request.url, host: request.headers.host || ""};
  fs.writeSync(log, JSON.stringify({...seen, status: "200"}) + "\\n");
  request.resume();
  request.on("end", () => answer.end("ok\\n"));
}).listen(Number(process.argv[2]), "127.0.0.1");
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as a server understood it."""

    method: str
    target: str
    path: str
    """As it would be served."""
    host: str
    refused: bool = False
    decoded: bool = False
    """Whether the path is told after decoding."""


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Origin:
    """A running server. A context manager."""

    def __init__(self, name: str, folder: Path) -> None:
        """Raises FileNotFoundError if it is not installed."""
        self.name = name
        self.port = free_port()
        self._log = folder / "seen.log"
        self._log.touch()
        argv = COMMANDS[name](folder, self.port)
        if shutil.which(argv[0]) is None:
            raise FileNotFoundError(f"{argv[0]} is not installed: scripts/setup smuggling")
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self._listens():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__()
                raise RuntimeError(f"{name} does not start: see {folder}/error.log")
            time.sleep(0.05)

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def __enter__(self) -> "Origin":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    def seen(self) -> list[Seen]:
        """Everything so far, oldest first. Waits for the server's buffers, so it can be asked once: at the end."""
        if self.name == "lighttpd":
            self.__exit__()
        return [self._seen(line) for line in self._log.read_text("utf-8", "backslashreplace").splitlines() if line]

    def _seen(self, line: str) -> Seen:
        try:
            # Apache and lighttpd escape bytes as \\xe4, which is no JSON.
            found = json.loads(re.sub(r"\\x([0-9a-fA-F]{2})", r"\\u00\1", line), strict=False)
        except ValueError:
            # A log that does not escape: whatever it was, it names its case, and is looked at as a whole.
            return Seen("?", line, line, "")
        target = found.get("target")
        if target is None:
            target = found["line"].partition(" ")[2].rpartition(" ")[0]
        refused = found["status"].startswith(("4", "5"))
        decoded = self.name in ("nginx", "apache", "lighttpd")
        return Seen(found["method"], target, found["path"], found["host"], refused, decoded)


def _configured(name: str, text: str, folder: Path, port: int) -> Path:
    path = folder / name
    path.write_text(text.format(folder=folder, port=port, format=json.dumps(LIGHTTPD_LOG)))
    return path


def _nginx(folder: Path, port: int) -> list[str]:
    return [
        "nginx",
        "-p",
        str(folder),
        "-c",
        str(_configured("nginx.conf", NGINX, folder, port)),
        "-e",
        f"{folder}/error.log",
    ]


def _apache(folder: Path, port: int) -> list[str]:
    return ["apache2", "-DFOREGROUND", "-f", str(_configured("apache.conf", APACHE, folder, port))]


def _lighttpd(folder: Path, port: int) -> list[str]:
    return ["lighttpd", "-D", "-f", str(_configured("lighttpd.conf", LIGHTTPD, folder, port))]


def _node(folder: Path, port: int) -> list[str]:
    script = folder / "server.js"
    script.write_text(NODE)
    return ["node", str(script), str(port), str(folder / "seen.log")]


def _python(folder: Path, port: int) -> list[str]:
    return [sys.executable, "-I", __file__, str(port), str(folder / "seen.log")]


COMMANDS: dict[str, Callable[[Path, int], list[str]]] = {
    "nginx": _nginx,
    "python": _python,
    "apache": _apache,
    "lighttpd": _lighttpd,
    "node": _node,
}


class Handler(BaseHTTPRequestHandler):
    """Writes requests down."""

    protocol_version = "HTTP/1.1"
    log: Path

    def answer(self) -> None:
        seen = {"method": self.command, "target": self.path, "path": self.path, "host": self.headers.get("Host", "")}
        with self.log.open("a") as file:
            file.write(json.dumps(seen | {"status": "200"}) + "\n")
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the standard library's
        """Says nothing else."""


class Server(ThreadingHTTPServer):
    """Clients that break off are what this is for."""

    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        """Nobody has to read that."""


if __name__ == "__main__":
    Handler.log = Path(sys.argv[2])
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
