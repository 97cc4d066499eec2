# SPDX-License-Identifier: Apache-2.0
"""Clock: the only place where this package reads the time.

Expiries are counted in seconds since boot: that clock never jumps, goes on while the machine sleeps, and means the
same to a restarted process.
"""

import time


def boottime() -> float:
    """Seconds since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> float:
    """Seconds since the epoch, for people."""
    return time.time()
