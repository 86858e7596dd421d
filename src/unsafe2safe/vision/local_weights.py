"""Weights that a user puts in place: none is fetched here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unsafe2safe.core.errors import UsageError


def local_weights(given: str | None, usual: str, key: str = "weights") -> Path:
    """The file ``given``, or the one called ``usual`` among the checkpoints in torch's hub folder.

    Raises:
        UsageError: it is not there. The message names the file, not where it would lie.
    """
    import torch

    if given is not None:
        path = Path(given).expanduser()
        if not path.is_file():
            raise UsageError(f"{key}: there is no file {path.name} where it is said to be")
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / usual
    if not path.is_file():
        raise UsageError(
            f"{usual} is not among the checkpoints in torch's hub folder; put it there, or set "
            f"{key} to the file"
        )
    return path


def load_tensors(path: Path, key: str = "weights") -> dict[str, Any]:
    """The tensors by name of a safetensors file or of one that torch saved, read as data alone.

    Raises:
        UsageError: it holds something else.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise UsageError(f"{key}: {path.name} cannot be read ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise UsageError(f"{key}: {path.name} holds no tensors by name")
    return found


def weights_version(network: Any, device: str, *settings: object) -> str:
    """Tells what a network (a ``torch.nn.Module``) computes with its weights and ``settings`` from
    what others would; in the last bits that depends on device and threads too."""
    from hashlib import blake2b

    import torch

    digest = blake2b(repr(settings).encode(), digest_size=16)
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return f"{digest.hexdigest()} {device} {torch.get_num_threads()}"
