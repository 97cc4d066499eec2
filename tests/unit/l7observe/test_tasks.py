# SPDX-License-Identifier: Apache-2.0
"""Tests of l7observe.tasks."""

import asyncio
import gc
import logging

import pytest

from l7observe.tasks import Tasks


async def _fail(message: str) -> None:
    await asyncio.sleep(0)
    raise ValueError(message)


async def _forever() -> None:
    await asyncio.Event().wait()


def test_a_task_carries_its_name_and_returns_its_result() -> None:
    async def answer() -> int:
        return 42

    async def scenario() -> None:
        tasks = Tasks()
        task = tasks.start(answer(), name="answer")
        assert task.get_name() == "answer"
        assert await task == 42
        await asyncio.sleep(0)
        assert len(tasks) == 0
        await tasks.close()

    asyncio.run(scenario())


def test_a_task_nobody_else_refers_to_survives_garbage_collection() -> None:
    async def scenario() -> None:
        tasks = Tasks()
        done = asyncio.Event()

        async def work() -> None:
            await asyncio.sleep(0.01)
            done.set()

        tasks.start(work(), name="work")
        gc.collect()
        await asyncio.wait_for(done.wait(), 5)
        await tasks.close()

    asyncio.run(scenario())


def test_an_exception_is_logged_with_the_name_counted_and_handed_over(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[str, str]] = []

    async def scenario() -> None:
        tasks = Tasks(on_error=lambda name, error: seen.append((name, str(error))))
        await asyncio.wait([tasks.start(_fail("broken"), name="reader")])
        await tasks.close()
        assert tasks.errors == 1

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert seen == [("reader", "broken")]
    assert "task reader failed" in caplog.text
    assert "ValueError: broken" in caplog.text


def test_without_a_handler_close_raises_what_a_task_raised() -> None:
    async def scenario() -> None:
        tasks = Tasks()
        await asyncio.wait([tasks.start(_fail("broken"), name="reader")])
        with pytest.raises(ValueError, match="broken"):
            await tasks.close()
        await tasks.close()

    asyncio.run(scenario())


def test_without_a_handler_close_raises_a_group_of_several() -> None:
    async def scenario() -> None:
        tasks = Tasks()
        await asyncio.wait([tasks.start(_fail(str(n)), name=f"reader-{n}") for n in range(2)])
        with pytest.raises(ExceptionGroup) as caught:
            await tasks.close()
        assert sorted(str(error) for error in caught.value.exceptions) == ["0", "1"]

    asyncio.run(scenario())


def test_close_cancels_what_runs_and_waits_for_its_cleanup() -> None:
    async def scenario() -> None:
        cleaned = []

        async def work() -> None:
            try:
                await _forever()
            finally:
                await asyncio.sleep(0)
                cleaned.append(True)

        tasks = Tasks()
        tasks.start(work(), name="work")
        await asyncio.sleep(0)
        await tasks.close()
        assert cleaned == [True]
        assert len(tasks) == 0
        assert tasks.errors == 0

    asyncio.run(scenario())


def test_an_exception_during_cancellation_is_reported() -> None:
    async def scenario() -> None:
        async def work() -> None:
            try:
                await _forever()
            finally:
                raise ValueError("in cleanup")

        tasks = Tasks()
        tasks.start(work(), name="work")
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="in cleanup"):
            await tasks.close()

    asyncio.run(scenario())


def test_a_task_may_close_its_own_owner() -> None:
    async def scenario() -> None:
        tasks = Tasks()
        other = tasks.start(_forever(), name="other")

        async def stop() -> None:
            await tasks.close()

        await asyncio.wait_for(tasks.start(stop(), name="stop"), 5)
        assert other.cancelled()

    asyncio.run(scenario())


def test_starting_after_close_is_refused_without_a_warning() -> None:
    async def scenario() -> None:
        tasks = Tasks()
        await tasks.close()
        with pytest.raises(RuntimeError, match="'late' started after"):
            tasks.start(_forever(), name="late")
        gc.collect()

    asyncio.run(scenario())
