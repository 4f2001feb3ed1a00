"""Workers that wait until there is something for them, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """A queue of those who wait. On one event loop; a waiter that is cancelled loses nobody's turn.

    Args:
        all_at_once: what one finds is not what another looks for: whoever is woken, all are.
    """

    def __init__(self, all_at_once: bool) -> None:
        self._all_at_once = all_at_once
        self._waiters: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return sum(not waiter.done() for waiter in self._waiters)

    def wake(self, every: bool = False) -> None:
        """Let the first one (or every one) go on."""
        every = every or self._all_at_once
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                if not every:
                    return

    async def wait(self, seconds: float) -> None:
        """Wait for a turn, and no longer than this."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await asyncio.wait_for(asyncio.shield(waiter), seconds)
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            if waiter.done():
                self.wake()  # what woke this one is another's turn
            raise
        finally:
            waiter.cancel()
