"""How long the threads that share an operator wait for the next one before they sleep."""

from __future__ import annotations

import os

# Of GNU's OpenMP, which torch comes with on Linux. On two cores steps of many small operators took
# 113 ms with its own 300,000 rounds, 172 ms with none and 128 ms with these; beside a process that
# wants one of the cores it was 390, 217 and 269 ms.
_ROUNDS = "1000"


def wait_briefly() -> None:
    """Let waiting threads give their core away soon, but not between two operators of one step.

    Read once, when the OpenMP library loads: to be called before torch is imported. What the user
    has set in the environment stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # of other OpenMP libraries, which have no rounds
        os.environ.setdefault("GOMP_SPINCOUNT", _ROUNDS)
