# SPDX-License-Identifier: Apache-2.0
"""Tasks: the one place that starts asyncio tasks.

The event loop keeps only weak references to tasks, and an exception in one that nobody awaits is a line at garbage
collection. Here each task is named and kept until it ends, and an exception in it is a bug that is logged with the
task's name, counted and handed to the owner. Peer failures are values and never come this way.

Failure verdict: none of its own. An owner that gives no `on_error` gets the exceptions back from `close`.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Tasks:
    """The tasks of one owner, which ends them with `close`."""

    def __init__(self, on_error: Callable[[str, BaseException], None] | None = None) -> None:
        """`on_error` gets the task's name and its exception; without it they are raised again by `close`."""
        self._on_error = on_error
        self._running: set[asyncio.Task[Any]] = set()
        self._unreported: list[Exception] = []
        self._closed = False
        self.errors = 0
        """Tasks that ended with an unhandled exception."""

    def __len__(self) -> int:
        """How many are running."""
        return len(self._running)

    def start(self, coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Runs `coro` as a task of this owner. Whoever awaits the task gets its exception as well."""
        if self._closed:
            coro.close()
            raise RuntimeError(f"task {name!r} started after its owner was closed")
        task = asyncio.create_task(coro, name=name)  # noqa: TID251 - this is the wrapper
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self) -> None:
        """Cancels every task and waits until all have ended. May be called by one of them, and more than once."""
        self._closed = True
        current = asyncio.current_task()
        while waiting := [task for task in self._running if task is not current]:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)
            # The callbacks that empty the set run in the loop's next round.
            await asyncio.sleep(0)
        errors, self._unreported = self._unreported, []
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup("several tasks failed", errors)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        self.errors += 1
        _log.error("task %s failed", task.get_name(), exc_info=error)
        if self._on_error is not None:
            self._on_error(task.get_name(), error)
        elif isinstance(error, Exception):
            # SystemExit and KeyboardInterrupt have already gone through the loop.
            self._unreported.append(error)
