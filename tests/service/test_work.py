"""Work in threads with a queue of bounded length, and memory with a limit."""

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsearch.service import work as module
from imgsearch.service.bounded import Bounded
from imgsearch.service.metrics import Metrics
from imgsearch.service.problems import HttpError
from imgsearch.service.work import Work


def test_a_full_queue_refuses_what_comes_and_admits_again_once_something_ended(monkeypatch):
    monkeypatch.setattr(module, "MOST_WAITING", 1)
    may_end = threading.Event()

    async def scenario() -> list[object]:
        work = Work(1, Metrics())
        under_way = [asyncio.create_task(work.run(may_end.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(HttpError, match="waiting already"):
            await work.run(lambda: None)
        may_end.set()
        found = await asyncio.gather(*under_way)
        found.append(await work.run(lambda: "admitted"))
        work.close()
        return found

    assert asyncio.run(scenario()) == [True, True, "admitted"]


def test_a_request_that_was_given_up_keeps_its_thread_until_the_work_has_ended(monkeypatch):
    monkeypatch.setattr(module, "MOST_WAITING", 0)
    may_end = threading.Event()

    async def scenario() -> object:
        work = Work(1, Metrics())
        given_up = asyncio.create_task(work.run(may_end.wait))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        with pytest.raises(HttpError):
            await work.run(lambda: None)
        may_end.set()
        while True:
            try:
                found = await work.run(lambda: "admitted")
            except HttpError:
                await asyncio.sleep(0)
                continue
            work.close()
            return found

    assert asyncio.run(scenario()) == "admitted"


def test_an_error_in_a_thread_is_the_error_of_the_request():
    async def scenario() -> None:
        work = Work(1, Metrics())
        try:
            await work.run(lambda: 1 // 0)
        finally:
            work.close()

    with pytest.raises(ZeroDivisionError):
        asyncio.run(scenario())


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=6))), st.integers(0, 12))
def test_memory_never_holds_more_than_its_limit_and_gives_back_what_was_put_last(puts, most):
    bounded: Bounded[int, bytes] = Bounded(most, len)
    for key, value in puts:
        bounded.put(key, value)

        found = {key: held for key in range(6) if (held := bounded.get(key)) is not None}
        assert sum(map(len, found.values())) <= most
        assert found.get(key) == (value if len(value) <= most else None)


def test_the_least_recently_used_goes_first():
    bounded: Bounded[str, int] = Bounded(2, lambda _: 1)
    for key in ("a", "b"):
        bounded.put(key, 0)
    bounded.get("a")
    bounded.put("c", 0)

    assert [bounded.get(key) for key in ("a", "b", "c")] == [0, None, 0]


def test_a_request_that_was_given_up_while_it_waited_is_not_worked_on():
    may_end, done = threading.Event(), []

    async def scenario() -> None:
        work = Work(1, Metrics())
        first = asyncio.create_task(work.run(may_end.wait))
        given_up = asyncio.create_task(work.run(lambda: done.append("given up")))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        may_end.set()
        await first
        await work.run(lambda: done.append("last"))
        work.close()

    asyncio.run(scenario())

    assert done == ["last"]
