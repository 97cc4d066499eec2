# SPDX-License-Identifier: Apache-2.0
"""How many HTTP workers this node runs."""

import os
from typing import Final

from l7agent.config import Config

MOST_WORKERS: Final = 8
"""Slots the datapath looks through for a live listener (bpf/programs/redirect.h)."""


def worker_count(config: Config) -> int:
    """One per usable core unless the configuration says otherwise."""
    if isinstance(config.http_workers, int):
        return min(config.http_workers, MOST_WORKERS)
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)
