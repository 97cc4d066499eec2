# SPDX-License-Identifier: Apache-2.0
"""Request heads that are valid but not canonical: read by h11, checked, and written anew from what was understood.

h11 accepts more than may pass here (folded lines, bare LF, controls in values, equal lengths twice), so what is known
to be read differently by some server is refused before and after it. What is written has one spelling for each thing:
one blank after the colon, a plain decimal length, ``chunked`` in lower case.

- *Absolute form* (a client that believes it talks to a forward proxy) stays in absolute form, for the server may be
  one; its authority must be that of Host. The path is what is judged.
- *Paths* that a server could read differently are written in the one way in which none can, if that is configured.
- *CONNECT* is judged with its target as path; Host, if sent, must be the same.
- *Upgrade* is relayed if it names one protocol that is not HTTP again: after the 101 the bytes are opaque. An offer to
  go on in another HTTP (``h2c``, ``HTTP/2.0``) or in TLS would carry requests past the rules. It is taken out together
  with HTTP2-Settings: a server is free to ignore an offer (RFC 9110 §7.8), so the client gets its answer in HTTP/1.1.

Failure verdict: 400, HTTP_MALFORMED.
"""

import re
from typing import Final

import h11

from l7proxy import request_path
from l7proxy.head import CHUNKED, NO_BODY, Malformed, RequestHead

_LINE: Final = re.compile(rb"([A-Z][A-Z-]{0,31}+) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
_CONTROL: Final = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FOLD: Final = re.compile(rb"\r\n[ \t]")
_BLANK_BEFORE_COLON: Final = re.compile(rb"\r\n[^:\r]*[ \t]:")
_LOOKALIKE: Final = re.compile(rb"(?i)\n(?:content_length|transfer_encoding):")
_TOKEN: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
_AUTHORITY: Final = re.compile(rb"([0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_ABSOLUTE: Final = re.compile(rb"[Hh][Tt][Tt][Pp]://([^/?#]*)([/?]?.*)")

_HOP_BY_HOP: Final = frozenset({b"close", b"keep-alive", b"upgrade", b"te", b"http2-settings", b"proxy-connection"})
"""A server drops what Connection names: anything else there could undo a header that was judged."""

_HTTP_AGAIN: Final = re.compile(rb"(?i)(?:h2c?|h3|http|https|tls|ssl)(?:[/-].*)?")


def malformed(detail: str, head: bytes) -> Malformed:
    """The refusal, with what of the head an audit record may show: never a header but Host."""
    line = _LINE.match(head)
    if line is None:
        return Malformed(detail)
    hosts = re.findall(rb"(?i)\r\nhost:[ \t]*([!-~]+)[ \t]*\r\n", head)
    host = hosts[0].decode("ascii") if len(hosts) == 1 else ""
    return Malformed(detail, line[1].decode("ascii"), host, line[2].decode("ascii"))


def read(head: bytes, size: int, *, normalise: bool = False) -> RequestHead | Malformed:
    """Reads one whole head, up to and with its empty line. `size` is what it took from the connection.

    `normalise`: a path that is not certain as it is sent is written anew, too.
    """
    result = _read(head, size, normalise=normalise)
    return malformed(result, head) if isinstance(result, str) else result


def _read(head: bytes, size: int, *, normalise: bool) -> RequestHead | str:
    if _CONTROL.search(head) is not None:
        return "control character in head"
    if _FOLD.search(head) is not None:
        return "folded header line"
    if _BLANK_BEFORE_COLON.search(head) is not None:
        return "blank before colon"
    line = _LINE.match(head)
    if line is None:
        return "malformed request line"
    if line[3] != b"1" or line[4] not in (b"0", b"1"):
        return "HTTP/2 preface" if head.startswith(b"PRI * HTTP/2.0") else "unknown HTTP version"
    if _LOOKALIKE.search(head) is not None:
        return "header that some servers take for another"
    fields: dict[bytes, list[bytes]] = {}
    for field in head[line.end() : -4].split(b"\r\n"):
        name, _, value = field.partition(b":")
        fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    method, target, minor = line[1], line[2], int(line[4])
    framing = _framing(fields, minor)
    if isinstance(framing, str):
        return framing
    where = _authority_and_path(method, target, fields.get(b"host", []), minor, normalise=normalise)
    if isinstance(where, str):
        return where
    host, path, target_out = where
    if method == b"CONNECT" and framing != NO_BODY:
        return "CONNECT with a body"

    connection = {token.lower() for token in _items(fields.get(b"connection", []))}
    if any(_TOKEN.fullmatch(token) is None for token in connection):
        return "malformed Connection"
    if not connection <= _HOP_BY_HOP:
        return "Connection names a field that a server would drop"
    expectations = fields.get(b"expect", [])
    if [value.lower() for value in expectations] not in ([], [b"100-continue"]):
        return "unknown Expect"
    upgrade = _upgrade(fields, connection, method, minor)
    request = _h11_request(head)
    if request is None:
        return "refused by h11"

    raw = _write(method, target_out, minor, request, framing, drop_upgrade=b"upgrade" in fields and not upgrade)
    return RequestHead(
        method=method,
        target=target,
        path=path,
        host=host,
        framing=framing,
        keep_alive=b"close" not in connection and (minor == 1 or b"keep-alive" in connection),
        minor=minor,
        raw=raw,
        size=size,
        expect=bool(expectations) and minor == 1,
        upgrade=upgrade,
    )


def _h11_request(head: bytes) -> h11.Request | None:
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head))
    try:
        reader.receive_data(head)
        event = reader.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


def _framing(fields: dict[bytes, list[bytes]], minor: int) -> int | str:
    lengths, codings = fields.get(b"content-length", []), fields.get(b"transfer-encoding", [])
    if lengths and codings:
        return "both Content-Length and Transfer-Encoding"
    if codings:
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            return "unknown Transfer-Encoding"
        return CHUNKED if minor == 1 else "Transfer-Encoding in HTTP/1.0"
    if lengths:
        if len(lengths) > 1:
            return "more than one Content-Length"
        return int(lengths[0]) if _DIGITS.fullmatch(lengths[0]) is not None else "malformed Content-Length"
    return NO_BODY


def _authority_and_path(
    method: bytes, target: bytes, hosts: list[bytes], minor: int, *, normalise: bool
) -> tuple[bytes, bytes, bytes] | str:
    """The host and the path to judge, and the target to send; or what is wrong."""
    if len(hosts) > 1:
        return "more than one Host"
    if not hosts and minor == 1:
        return "no Host"
    host = hosts[0] if hosts else b""
    if hosts and _AUTHORITY.fullmatch(host) is None:
        return "malformed Host"
    if method == b"CONNECT":
        authority = _AUTHORITY.fullmatch(target)
        if authority is None or authority[2] is None:
            return "CONNECT without host and port"
        if host and host.lower() not in (target.lower(), authority[1].lower()):
            return "CONNECT target and Host disagree"
        return host or target, target, target
    if target == b"*":
        return (host, target, target) if method == b"OPTIONS" else "malformed request target"
    prefix, path = b"", target
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            return "malformed request target"
        if _AUTHORITY.fullmatch(absolute[1]) is None or (host and _default(host) != _default(absolute[1])):
            return "authority of target and Host disagree"
        host = host or absolute[1]
        prefix, path = b"http://" + absolute[1], absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    path, fault = request_path.settled(path, normalise=normalise)
    return fault or (host, path, prefix + path)


def _default(authority: bytes) -> bytes:
    return authority.lower().removesuffix(b":80")


def _upgrade(fields: dict[bytes, list[bytes]], connection: set[bytes], method: bytes, minor: int) -> bytes:
    offers = _items(fields.get(b"upgrade", []))
    if len(offers) != 1 or b"upgrade" not in connection or minor == 0 or method == b"CONNECT":
        return b""
    return b"" if _HTTP_AGAIN.fullmatch(offers[0]) is not None else offers[0].lower()


def _items(values: list[bytes]) -> list[bytes]:
    return [item for value in values for part in value.split(b",") if (item := part.strip(b" \t"))]


def _write(
    method: bytes, target: bytes, minor: int, request: h11.Request, framing: int, *, drop_upgrade: bool
) -> bytes:
    lines = [b"%b %b HTTP/1.%d" % (method, target, minor)]
    for name, value in request.headers.raw_items():
        lowered = name.lower()
        if lowered == b"content-length":
            value = b"%d" % framing
        elif drop_upgrade and lowered in (b"upgrade", b"http2-settings"):
            continue
        elif drop_upgrade and lowered == b"connection":
            kept = [t for t in _items([value]) if t.lower() not in (b"upgrade", b"http2-settings")]
            if not kept:
                continue
            value = b", ".join(kept)
        lines.append(name + b": " + value)
    return b"\r\n".join(lines) + b"\r\n\r\n"
