# SPDX-License-Identifier: Apache-2.0
"""Renewal: a worker whose guardian has died goes on, and starts the successor that has a guardian again.

The successor takes over as any other does (`--replace`), so that no query is lost. Failure verdict: one that ends
before that is started again after growing pauses, and the worker goes on.
"""

import asyncio
import logging
import os
import signal
import sys
from typing import Final

from l7agent.guardian import ORPHANED

_MERCY: Final = 0.2
"""Seconds in which whoever ended the guardian on purpose ends the worker, too (`l7agent.dataprocess`)."""
_STEP: Final = 0.05
_LONGEST_PAUSE: Final = 5.0

_log = logging.getLogger(__name__)


class Guardianship:
    """Who looks after this process."""

    def __init__(self) -> None:
        """Of the process that was forked by its guardian; within its loop."""
        self._parent = os.getppid()
        self._gone = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(ORPHANED, self._gone.set)

    @property
    def guardian(self) -> int:
        """Its pid, 0 if it has died."""
        return self._parent if os.getppid() == self._parent else 0

    async def renew(self) -> None:
        """Waits for the guardian's death, then sees to it that there is a successor. Does not return."""
        await self._gone.wait()
        await asyncio.sleep(_MERCY)
        pause = _STEP
        while True:
            _log.warning("the guardian has died; starting a successor")
            await _ended(_start())
            pause = min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)


def _start() -> int:
    """The command that this process was started with, in a session of its own. Its pid."""
    more = () if "--replace" in sys.orig_argv else ("--replace",)
    return os.posix_spawn(
        sys.executable,
        [sys.executable, *sys.orig_argv[1:], *more],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)],
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGHUP],
    )


async def _ended(pid: int) -> None:
    while not os.waitpid(pid, os.WNOHANG)[0]:  # noqa: ASYNC222 - it does not wait
        await asyncio.sleep(_STEP)
