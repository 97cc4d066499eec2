# SPDX-License-Identifier: Apache-2.0
"""Names what speaks on an HTTP port but is not HTTP, for the audit record. It decides nothing: all of it is refused."""

from typing import Final

_TLS_HANDSHAKE: Final = b"\x16\x03"
TLS: Final = "TLS ClientHello: HTTP rules cannot see into TLS, limit this port by serverNames"

# Apart from TLS, which is waited for, each must be told by the bytes up to the first that no request begins with.
_PREFIXES: Final = (
    (_TLS_HANDSHAKE, TLS),
    (b"SSH-", "SSH"),
    (b"\x00", "binary protocol"),
    (b"\x05", "SOCKS5"),
    (b"\x04", "SOCKS4"),
    (b"*", "Redis"),
)


def undecided(start: bytes) -> bool:
    """Whether a few more bytes would tell what it is."""
    return len(start) < len(_TLS_HANDSHAKE) and _TLS_HANDSHAKE.startswith(start)


def name(start: bytes) -> str:
    """The protocol that begins like this, or just that it is not HTTP."""
    for prefix, protocol in _PREFIXES:
        if start.startswith(prefix):
            return protocol
    return "not an HTTP request"
