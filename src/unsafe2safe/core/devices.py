"""Devices by name, checked before anything is loaded onto them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unsafe2safe.core.errors import UsageError

if TYPE_CHECKING:
    import torch


def checked_device(device: str, key: str, choices: str = "cpu, cuda or cuda:1") -> torch.device:
    """The torch device of that name; ``key`` is the setting that gave it, for errors.

    Raises:
        UsageError: there is none.
    """
    import torch  # settings are read without it

    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise UsageError(f"{key}={device} is not a torch device; use {choices}") from None
    count = torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index or 0) >= count:
        raise UsageError(
            f"{key}={device}: torch sees {count} CUDA devices; {key}=cpu works, with patience"
        )
    return wanted
