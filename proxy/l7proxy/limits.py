# SPDX-License-Identifier: Apache-2.0
"""Every bound of the proxy in one place: what a client or a server can make it wait, hold, count or put right."""

import msgspec

from l7proxy.head import MAX_HEAD


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times are seconds, sizes are bytes."""

    head_timeout: float = 15.0
    """From the connection's beginning (or a later request's first byte) to the end of the request head."""
    keep_alive_timeout: float = 300.0
    """Between two requests of a connection."""
    connect_timeout: float = 5.0
    """Until the server accepts the connection."""
    idle_timeout: float = 3600.0
    """Without a byte in either direction while a request or a tunnel is open (Cilium's request timeout)."""
    stall_timeout: float = 300.0
    """Without a byte of a request's body that the server would take, or of an answer that the client does not read."""
    min_body_rate: int = 240
    """Bytes per second that a client must send of a body, or read of an answer that waits for it, on average and once
    `stall_timeout` is used up (Kestrel's default; Apache's is 500). 0: any byte grants `stall_timeout` anew."""
    request_timeout: float = 3600.0
    """From a request's head to the end of its answer, however busy both are. Not of tunnels."""
    linger_timeout: float = 2.0
    """How long the client's bytes are thrown away after a refusal, so that a reset does not overtake the answer."""
    close_timeout: float = 60.0
    """How long a client may take to read the end of the last answer."""

    max_connections: int = 16384
    """Of the process. Lowered to what the file-descriptor limit allows: a connection takes two, a pump four."""
    max_connections_per_client: int = 2048
    max_head: int = MAX_HEAD
    normalise_paths: bool = False
    """Paths that a server could read differently are written anew (`request_path`) and not refused."""
    hold: int = 64 * 1024
    """Of a client's bytes whose turn has not come (pipelined requests, a body before the server is connected)."""
    discard: int = 64 * 1024
    """Of a refused request's body, to keep the connection."""
    write_buffer: int = 256 * 1024
    """Waiting for a slow reader before the other side is no longer read."""
    pump_from: int = 1024 * 1024
    """Bytes that must be to come, or have passed where nobody knows what comes, before they are moved by a pump."""
    max_pumps: int = 512
    """Of the process, and never more than take an eighth of its descriptors. Each holds up to 1 MiB in the kernel."""
