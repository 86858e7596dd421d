"""When the next request may be sent: rate limit, backoff and the server's own wishes."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

_LONGEST_BACKOFF = 60.0
_LONGEST_RETRY_AFTER = 300.0


class Pace:
    """Grants requests one after another, at most ``per_minute`` of them a minute (None: any)."""

    def __init__(
        self,
        per_minute: float | None,
        sleep: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = 60.0 / per_minute if per_minute else 0.0
        self._sleep = sleep
        self._clock = clock
        self._next = -math.inf
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when one request may be sent."""
        while True:
            with self._lock:
                now = self._clock()
                delay = self._next - now
                if delay <= 0:
                    self._next = now + self._interval
                    return
            self._sleep(delay)

    def hold(self, seconds: float) -> None:
        """Nobody sends for ``seconds``: the server asked for it."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


def backoff_delay(retry: int, first: float, draw: Callable[[], float] = random.random) -> float:
    """Seconds before the ``retry``-th retry (from 0): ``first`` doubled each time, less up to half.

    The jitter keeps requests that failed together from coming back together.
    """
    whole = min(first * 2.0 ** min(retry, 30), _LONGEST_BACKOFF)
    return whole * (1.0 - 0.5 * draw())


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a ``Retry-After`` header (a number or a date) asks for, else 0; bounded."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER) if math.isfinite(seconds) else 0.0
