"""Work that goes on beside the caller's own: the next items prepared, the last ones written.

Order is the caller's, whatever the threads' timing; memory is bounded; no exception is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import BoundedSemaphore
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")


def prepared_ahead(
    items: Iterable[Item], prepare: Callable[[Item], Prepared], ahead: int
) -> Generator[Prepared, None, None]:
    """``map(prepare, items)``, with up to ``ahead`` results made beforehand in one other thread.

    ``prepare`` runs in that thread alone, one item after the other, so it may keep state. What it
    raises is raised here, at its item's turn; whoever stops early waits for the item in work only.
    ``ahead=0`` prepares here.
    """
    if ahead == 0:
        yield from map(prepare, items)
        return
    remaining = iter(items)
    pool = ThreadPoolExecutor(1, thread_name_prefix="prepare")
    try:
        waiting = deque(pool.submit(prepare, item) for item in islice(remaining, ahead))
        while waiting:
            result = waiting.popleft().result()
            # the next one begins only when this one is taken, so that no more than `ahead` wait
            waiting.extend(pool.submit(prepare, item) for item in islice(remaining, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class BackgroundWriter:
    """Runs writes in one other thread, in the order in which they are given.

    Once one has failed the others are left out; :meth:`drain` raises what it raised. To be used in
    a ``with`` block, which waits for the thread.
    """

    def __init__(self, most: int) -> None:
        """At most ``most`` writes wait; whoever gives one more waits for room."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._room = BoundedSemaphore(most)
        self._given: deque[Future[None]] = deque()
        self._failed = False

    def submit(self, write: Callable[[], None]) -> None:
        """Have ``write`` run; never raises for it."""
        self._room.acquire()
        self._given.append(self._pool.submit(self._run, write))
        while len(self._given) > 1 and self._given[0].done() and not self._failed:
            self._given.popleft()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            if not self._failed:
                write()
        except BaseException:
            self._failed = True
            raise
        finally:
            self._room.release()

    def drain(self) -> None:
        """Wait until all is written.

        Raises:
            Exception: the first one that a write has raised since the last call.
        """
        given, self._given = self._given, deque()
        errors = [error for future in given if (error := future.exception()) is not None]
        self._failed = False
        if errors:
            raise errors[0]

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True)
