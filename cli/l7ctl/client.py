# SPDX-License-Identifier: Apache-2.0
"""Client: the agent's API over its unix socket.

Knows HTTP and the shape of errors (docs/reference/api.md), nothing of what the answers mean. Every way in which a
daemon can fail to answer is `Unreachable` (exit code 3); every answer that is an error is a `Failure`.
"""

import http.client
import json
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from l7ctl.errors import Failure, Unreachable


class _Connection(http.client.HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """One agent."""

    def __init__(self, socket_path: Path, timeout: float) -> None:
        self._path = socket_path
        self._timeout = timeout

    def get(self, path: str, **query: str) -> Any:
        """The resource, as plain values."""
        return self._request("GET", path + (f"?{urlencode(query)}" if query else ""))

    def post(self, path: str, body: object) -> Any:
        """What the agent answers to the body."""
        return self._request("POST", path, body)

    def patch(self, path: str, key: str, part: str, body: object) -> Any:
        """Changes a part of the resource `key` below `path`. What the agent answers."""
        return self._request("PATCH", f"{path}/{quote(key, safe='')}/{part}", body)

    def delete(self, path: str, key: str) -> None:
        """Removes the resource `key` below `path`."""
        self._request("DELETE", f"{path}/{quote(key, safe='')}")

    def stream(self, path: str, query: Iterable[tuple[str, str]]) -> Iterator[bytes]:
        """The resource's lines as they come, until the agent ends them or goes. It may be silent for long."""
        connection = _Connection(self._path, self._timeout)
        try:
            try:
                connection.request("GET", f"/v1{path}?{urlencode(list(query))}", headers={"Connection": "close"})
                socket_ = connection.sock  # the connection forgets it once it knows that nothing follows
                response = connection.getresponse()
                if response.status != http.HTTPStatus.OK:
                    raise _failure(response.status, self._decode(response.read()))
                socket_.settimeout(None)
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from error
            try:
                # read1 and not readline: http.client's readline asks for a byte at a time while it waits.
                rest = b""
                while data := response.read1(1 << 16):
                    *lines, rest = (rest + data).split(b"\n")
                    yield from lines
            except (OSError, http.client.HTTPException):
                return  # it went in the middle of a line, which is nobody's loss: what it says comes again
        finally:
            connection.close()

    def _request(self, method: str, path: str, body: object = None) -> Any:
        connection = _Connection(self._path, self._timeout)
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "Connection": "close"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, f"/v1{path}", data, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        if response.status == http.HTTPStatus.NO_CONTENT:
            return None
        value = self._decode(answer)
        if 200 <= response.status < 300:
            return value
        raise _failure(response.status, value)

    def _unreachable(self, error: OSError | http.client.HTTPException) -> Unreachable:
        hint = f"is l7d running? socket {self._path}, `systemctl status l7d`; by hand: `l7d agent`"
        match error:
            case TimeoutError():
                return Unreachable(f"l7d did not answer within {self._timeout:g} s", hint)
            case PermissionError():
                return Unreachable(f"no permission to talk to l7d at {self._path}", "run as root, or join the group l7")
            case FileNotFoundError():
                return Unreachable("cannot reach l7d: the socket does not exist", hint)
            case ConnectionRefusedError():
                return Unreachable("cannot reach l7d: nobody listens on the socket", hint)
            case OSError():
                return Unreachable(f"cannot reach l7d: {error.strerror or error}", hint)
            case _:
                return Unreachable(f"l7d broke off its answer: {error or type(error).__name__}", hint)

    def _decode(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError as error:
            raise Failure("the answer is not what l7d would say", f"is it l7d that listens on {self._path}?") from error


def _failure(status: int, value: object) -> Failure:
    if not isinstance(value, dict):
        value = {}
    message = str(value.get("error") or f"l7d answered with HTTP status {status}")
    problems = value.get("problems")
    listed = [problem for problem in problems if isinstance(problem, dict)] if isinstance(problems, list) else []
    return Failure(message, str(value.get("hint") or ""), listed)
