# SPDX-License-Identifier: Apache-2.0
"""Guardian: a process that has everything loaded, holds the listeners, and forks the one that works.

A worker that is killed is followed by the next one within milliseconds, with the agent down as well as up. Until then
queries wait in the listeners, which the guardian keeps open. It has one thread and no event loop, does nothing else,
and tells its worker when it dies: by ORPHANED, which ends a worker that does not know better. One that does goes on,
and renews itself (`l7agent.renewal`).

Failure verdict: a worker that ends by itself, with whatever status, ends the guardian with the same; the agent sees to
the rest. One that is killed again and again is started again after growing pauses.
"""

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
ORPHANED: Final = signal.SIGUSR1
_TOLD: Final = (signal.SIGTERM, signal.SIGINT)
_STABLE_SECONDS: Final = 1.0
_LONGEST_PAUSE: Final = 5.0


def guard(work: Callable[[], int]) -> int:
    """Runs `work` in a child, again whenever a signal killed it. Returns the exit status for this process.

    SIGTERM and SIGINT go to the child, which is expected to end.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    child = 0
    told: list[int] = []

    def tell(number: int, _frame: object) -> None:
        told.append(number)
        if child:
            os.kill(child, number)  # there is one: it is not reaped before `child` says so

    for number in _TOLD:
        signal.signal(number, tell)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # What is loaded by now is shared by all children; looking for garbage in it would make each a copy of its own.
    gc.collect()
    gc.freeze()
    pause = 0.0
    # Blocked except while there is a child to tell, so that none is lost in between.
    signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD)
    while True:
        began = time.monotonic()
        guardian = os.getpid()
        child = os.fork()
        if not child:
            _follow(libc, guardian)
            os._exit(_worked(work))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD)
        _, ended = os.waitpid(child, 0)
        child = 0
        status = os.waitstatus_to_exitcode(ended)
        if status >= 0:
            return status
        if told or signal.sigpending().intersection(_TOLD):
            return 128 - status
        pause = 0.0 if time.monotonic() - began > _STABLE_SECONDS else min(max(pause * 2, 0.05), _LONGEST_PAUSE)
        if pause and (late := signal.sigtimedwait(_TOLD, pause)) is not None:
            return 128 + late.si_signo


def _worked(work: Callable[[], int]) -> int:
    """The child's exit status. A bug is told here, because nothing above may run in the child."""
    try:
        return work()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:  # noqa: BLE001 - reported as the interpreter would
        sys.excepthook(*sys.exc_info())
        return 1


def _follow(libc: ctypes.CDLL, guardian: int) -> None:
    """Hears when the guardian dies; dies if it is dead already."""
    for number in _TOLD:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD)
    libc.prctl(_PR_SET_PDEATHSIG, ORPHANED, 0, 0, 0)
    if os.getppid() != guardian:
        os._exit(1)
