"""What the libraries below may say while they work."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


@contextmanager
def quiet(logger_name: str) -> Iterator[None]:
    """Without the warnings of a library's logger."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def texts_unprinted(pipeline: Any) -> AbstractContextManager[None]:
    """Diffusers quotes what it cuts from a text that is too long, and texts may be private."""
    return quiet(type(pipeline).__module__)
