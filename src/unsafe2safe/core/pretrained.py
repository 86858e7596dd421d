"""Weights and processors from the hub or a folder, with one-line errors for what is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unsafe2safe.core.errors import UsageError


def load(
    read: Callable[..., Any],
    name: str,
    *,
    revision: str,
    trust_remote_code: bool,
    key: str = "model",
    **settings: Any,
) -> Any:
    """``read(name, ...)`` for a hub id or a local folder, read as data unless code is trusted.

    With ``local_files_only=True`` among the settings nothing is asked of the hub. ``key`` is the
    setting that gave the name, for errors.

    Raises:
        UsageError: one line that says what is missing, and what to do.
    """
    folder = Path(name).expanduser()
    local = folder.exists()
    if not local and name.startswith(("/", "./", "../", "~")):
        raise UsageError(f"{key}={name}: no such folder")
    if local and not (folder / "config.json").is_file():
        raise UsageError(f"{key}={name}: the folder holds no model (no config.json)")
    if revision and not local:
        settings["revision"] = revision
    try:
        return read(str(folder) if local else name, trust_remote_code=trust_remote_code, **settings)
    except ImportError as error:
        raise UsageError(f"{key}={name}: a library is missing: {_first_line(error)}") from None
    except (OSError, ValueError, KeyError) as error:
        asked = not (local or settings.get("local_files_only"))
        raise UsageError(_explain(key, name, local, asked, error)) from None


def _explain(key: str, name: str, local: bool, asked: bool, error: Exception) -> str:
    said = str(error)
    if "trust_remote_code" in said:
        return (
            f"{key}={name} brings Python code of its own; choose a form that transformers knows "
            "(often the one ending in -hf), or set trust_remote_code=true if you trust its authors"
        )
    if local:
        return f"{key}={name}: transformers cannot load this folder: {_first_line(error)}"
    if isinstance(error, OSError):
        hub = " and the hub gave no answer or does not know it" if asked else ""
        return (
            f"{key}={name} is not in the local cache{hub}; download it once with "
            f"`hf download {name}`, or set {key} to a local folder"
        )
    return f"{key}={name}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def public_name(name: str) -> str:
    """A hub id as it is and a file or folder by its last part: what others may read of it."""
    if not name or len(name) > 255:  # no name of a file
        return name
    path = Path(name).expanduser()
    is_path = name.startswith(("/", "./", "../", "~")) or path.exists()
    return path.name if is_path else name


def without_place(message: str, name: str) -> str:
    """``message`` with :func:`public_name` of what ``name`` names."""
    for written in (str(Path(name).expanduser()), name):
        message = message.replace(written, public_name(name))
    return message
