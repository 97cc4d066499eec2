# SPDX-License-Identifier: Apache-2.0
"""Tells systemd what the daemon is doing (sd_notify(3)); silent when systemd did not start it."""

import os
import socket
import time


def notify(*lines: str) -> None:
    """Sends one datagram to ``$NOTIFY_SOCKET``. A service manager that does not listen is no reason to fail."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto("\n".join(lines).encode(), address)
        except OSError:
            return


def ready(status: str) -> None:
    """Start-up or a reload is complete."""
    notify("READY=1", f"STATUS={status}")


def reloading() -> None:
    """A reload begins. Without the time in the same datagram `systemctl reload` would wait until it times out."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """The agent leaves; enforcement goes on without it."""
    notify("STOPPING=1")
