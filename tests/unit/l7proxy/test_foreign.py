# SPDX-License-Identifier: Apache-2.0
import pytest

from l7proxy import foreign
from l7proxy.foreign import name, undecided


@pytest.mark.parametrize(
    ("start", "protocol"),
    [
        (b"\x16\x03\x01\x00", foreign.TLS),
        (b"\x16\x04", "not an HTTP request"),
        (b"SSH-2.0", "SSH"),
        (b"*1\r\n", "Redis"),
        (b"\x05\x01", "SOCKS5"),
        (b"garbage", "not an HTTP request"),
    ],
)
def test_what_is_not_http_has_a_name_in_the_audit_record(start: bytes, protocol: str) -> None:
    assert name(start) == protocol


def test_only_the_first_byte_of_tls_leaves_a_doubt() -> None:
    assert undecided(b"\x16")
    assert not undecided(b"\x16\x03")
    assert not undecided(b"x")
