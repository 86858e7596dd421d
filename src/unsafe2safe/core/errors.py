"""Errors that a user can act on, and the exit status each of them leads to."""

from __future__ import annotations


class Unsafe2SafeError(Exception):
    """Base of all errors that are told in one line, without a stack trace."""


class UsageError(Unsafe2SafeError):
    """Arguments, configuration or folders that cannot be used as they are (exit status 2)."""


class ConfigError(UsageError):
    """A configuration key or value that does not exist or has the wrong type."""


class StorageError(Unsafe2SafeError):
    """A file could not be written: the disk is full, a quota is reached (exit status 2)."""


class ItemError(Unsafe2SafeError):
    """One item could not be processed; the run goes on and records ``reason``.

    ``reason`` is written to the public side, so it never quotes private content.
    """

    def __init__(self, image_id: str, reason: str) -> None:
        super().__init__(f"{image_id}: {reason}")
        self.image_id = image_id
        self.reason = reason


class UnreadableImage(ItemError):  # noqa: N818 - the name the field uses
    """The file is not an image that can be decoded safely."""


def describe_fault(error: BaseException) -> str:
    """Type and place of a foreign error, without its message, which may quote private content."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    place = f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"
    return f"{type(error).__name__} at {place}"
