"""The work queue and the rate limiter."""

import asyncio

from archsearch_operator.queue import Backoff, RateLimiter, WorkQueue


async def taken(queue: WorkQueue[str]) -> str:
    key, _ = await asyncio.wait_for(queue.get(), 30)
    return key


async def test_a_key_is_in_the_queue_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    assert len(queue) == 2
    assert [await taken(queue), await taken(queue)] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_added_while_it_is_worked_on_comes_once_more_and_not_at_the_same_time() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await taken(queue)
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert len(queue) == 1
    assert await taken(queue) == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_back_off_doubles_up_to_its_bound_and_success_ends_it() -> None:
    queue: WorkQueue[str] = WorkQueue(Backoff(first=1.0, longest=5.0))
    delays = []
    for _ in range(5):
        queue.add("a")
        await taken(queue)
        delays.append(queue.failed("a"))
    assert delays == [1.0, 2.0, 4.0, 5.0, 5.0]
    queue.add("a")
    await taken(queue)
    queue.done("a")
    queue.add("a")
    await taken(queue)
    assert queue.failed("a") == 1.0
    queue.close()


async def test_the_servers_retry_after_is_honoured() -> None:
    queue: WorkQueue[str] = WorkQueue(Backoff(first=1.0))
    queue.add("a")
    await taken(queue)
    assert queue.failed("a", at_least=17.0) == 17.0
    queue.close()


async def test_a_delayed_key_comes_and_never_postpones_an_earlier_one() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a", delay=0.01)
    queue.add("a", delay=3600)
    assert await taken(queue) == "a"
    queue.done("a")
    queue.add("a", delay=3600)
    queue.add("a")
    assert await taken(queue) == "a"


async def test_what_is_forgotten_does_not_come_back() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a", delay=0.01)
    queue.forget("a")
    queue.add("b", delay=0.05)
    assert await taken(queue) == "b"
    assert len(queue) == 0


def test_the_rate_limiter_grants_a_burst_and_then_the_rate() -> None:
    now = [0.0]
    limiter = RateLimiter(rate=10.0, burst=3, clock=lambda: now[0])
    assert [limiter.reserve() for _ in range(3)] == [0.0, 0.0, 0.0]
    assert [round(limiter.reserve(), 3) for _ in range(2)] == [0.1, 0.2]
    now[0] = 100.0
    assert limiter.reserve() == 0.0
