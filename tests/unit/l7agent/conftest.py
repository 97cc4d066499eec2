# SPDX-License-Identifier: Apache-2.0
"""Kernel tables of the tests' own, small enough to fill: loaded once per session, on a bpffs that nobody else sees."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l7bpf import bpffs, loader
from l7bpf.layouts import LAYOUT
from l7bpf.maps import Maps

SIZES = loader.Constants(
    max_endpoints=4,
    max_endpoint_addresses=6,
    max_ipcache=16,
    max_policy=32,
    max_conntrack=64,
    max_fqdn_identities=8,
    max_event_bytes=4096,
)


@pytest.fixture(scope="session")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the tables are pinned."""
    folder = tmp_path_factory.mktemp("bpffs")
    assert bpffs.ensure(folder) == folder
    try:
        loader.load(folder / LAYOUT, SIZES, cache=tmp_path_factory.getbasetemp().parent / "compiled")
        yield folder / LAYOUT
    finally:
        bpffs.unmount(folder)


@pytest.fixture
def maps(pins: Path) -> Iterator[Maps]:
    """The tables, empty."""
    with Maps.open(pins) as opened:
        tables: tuple[Any, ...] = (
            opened.endpoints,
            opened.endpoint_by_ifindex,
            opened.endpoint_by_address,
            opened.ipcache,
            opened.policy,
            opened.fqdn_identities,
        )
        for table in tables:
            for key, _ in list(table.items()):
                table.delete(key)
        opened.config.update(0)
        yield opened
