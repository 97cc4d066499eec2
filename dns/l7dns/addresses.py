# SPDX-License-Identifier: Apache-2.0
"""Addresses as text and packed. May not do I/O."""

import socket


def address_text(address: bytes) -> str:
    """``192.0.2.1`` or ``2001:db8::1``."""
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def address_bytes(address: str) -> bytes:
    """Packed, 4 or 16 bytes."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
