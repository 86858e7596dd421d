"""What editors on a published diffusers pipeline share: weights from the hub or a folder, number
types, the device, and texts that no library may print."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.base import Editor

_INDEX = "model_index.json"
_READ_WHOLE = (".json", ".txt", ".model")
_SAMPLES, _SAMPLE_BYTES = 256, 4096


@component
class PipelineEditor(Editor):
    """An editor on a diffusers pipeline that is taken as it is."""

    weights: str = Field(description="Hub id, or local folder, of the base's diffusers pipeline.")
    revision: str | None = Field(
        default=None, description="Commit, tag or branch on the hub; null: its main branch."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="bfloat16",
        description="Number type of the weights; with float16 the autoencoder stays in float32.",
    )
    device: str = Field(default="cuda", description="Torch device of edits: cpu, cuda, cuda:1.")

    @abstractmethod
    def pipeline_class(self) -> Any:
        """The diffusers class that ``weights`` must be of."""

    def left_out(self) -> Mapping[str, Any]:
        """Parts of the pipeline that are not loaded, as its constructor's arguments."""
        return {}

    @property
    def local_folder(self) -> Path | None:
        """The folder that ``weights`` names, None if it is a hub id.

        Raises:
            UsageError: it is meant to be a folder and is none, or holds no pipeline.
        """
        folder = Path(self.weights).expanduser()
        if folder.is_dir():
            if not (folder / _INDEX).is_file():
                raise UsageError(f"editor.weights={self.weights} holds no pipeline (no {_INDEX})")
            return folder
        if self.weights.startswith(("/", "./", "../", "~")) or self.weights.count("/") != 1:
            raise UsageError(f"editor.weights={self.weights}: no such folder, and no hub id")
        return None

    def weights_content(self) -> Mapping[str, str]:
        """Of a folder, a hash of samples of its files. A hub id and its revision say it themselves.

        Raises:
            UsageError: ``weights`` is no such folder, or holds another kind of pipeline.
        """
        folder = self.local_folder
        if folder is None:
            return {}
        self._check_kind(_read_index(folder))
        return {"editor.weights": folder_digest(folder)}

    def number_types(self) -> dict[str, torch.dtype]:
        """Number type of each part: autoencoders overflow in float16."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return {"default": dtype, "vae": torch.float32 if dtype is torch.float16 else dtype}

    def load_pipeline(self) -> Any:
        """A new pipeline on ``device``, in eval mode, without gradients.

        Raises:
            UsageError: weights or device are not there, or do not fit.
        """
        folder, device = self.local_folder, checked_device(self.device)
        if self.dtype == "float16" and device.type == "cpu":
            raise UsageError("editor.dtype=float16 needs a GPU; use float32 or bfloat16 on the CPU")
        source = {
            "pretrained_model_name_or_path": str(folder or self.weights),
            "local_files_only": folder is not None,
            "revision": None if folder else self.revision,
        }
        kind = self.pipeline_class()
        try:
            self._check_kind(kind.load_config(**source))  # a small file, before the weights
            pipeline = kind.from_pretrained(
                **source,
                use_safetensors=True,
                dtype=self.number_types(),
                **self.left_out(),
            )
        except (OSError, ValueError, ImportError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(f"editor.weights={self.weights}: {said}") from None
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False).eval()
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline that edits, loaded on first use."""
        return self.load_pipeline()

    def _check_kind(self, index: Mapping[str, Any]) -> None:
        wanted, found = self.pipeline_class().__name__, index.get("_class_name")
        if found != wanted:
            raise UsageError(
                f"editor.weights={self.weights} is a {found}; editor={self.name} needs a {wanted}"
            )


def checked_device(device: str) -> torch.device:
    """The torch device of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise UsageError(
            f"editor.device={device} is not a torch device; use cpu, cuda or cuda:1"
        ) from None
    count = torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index or 0) >= count:
        raise UsageError(
            f"editor.device={device}: torch sees {count} CUDA devices; editor.device=cpu works, "
            "with patience"
        )
    return wanted


@contextmanager
def texts_unprinted(pipeline: Any) -> Iterator[None]:
    """Diffusers quotes what it cuts from a text that is too long, and texts may be private."""
    logger = logging.getLogger(type(pipeline).__module__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def encode_image(vae: Any, image: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] to the mode of its latents as the model sees them, float32."""
    posterior = vae.encode(image.to(vae.device, vae.dtype)).latent_dist
    latents: Tensor = (posterior.mode().float() - _shift(vae)) * vae.config.scaling_factor
    return latents


def decode_latents(vae: Any, latents: Tensor) -> NDArray[np.float32]:
    """One of what :func:`encode_image` gives, to (H, W, 3) in [0, 1] and a little beyond."""
    unscaled = latents / vae.config.scaling_factor + _shift(vae)
    image = vae.decode(unscaled.to(vae.dtype)).sample[0].permute(1, 2, 0)
    return cast(NDArray[np.float32], (image.float() / 2 + 0.5).cpu().numpy())


def _shift(vae: Any) -> float:
    return float(vae.config.get("shift_factor") or 0.0)


def folder_digest(folder: Path) -> str:
    """A hash of the settings in ``folder``, and of its weights' sizes and 256 samples of each.

    Weights of many gigabytes are not read twice for it; no training leaves all samples unchanged.
    """
    digest = blake2b(digest_size=8)
    for path in sorted(folder.rglob("*")):
        if path.suffix in (*_READ_WHOLE, ".safetensors"):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes() if path.suffix in _READ_WHOLE else _sampled(path))
    return digest.hexdigest()


def _sampled(path: Path) -> bytes:
    size = path.stat().st_size
    digest = blake2b(str(size).encode())
    with path.open("rb") as file:
        for index in range(_SAMPLES):
            file.seek(index * size // _SAMPLES)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()


def _read_index(folder: Path) -> Mapping[str, Any]:
    try:
        index = json.loads((folder / _INDEX).read_text("utf-8"))
    except (OSError, ValueError):
        index = None
    if not isinstance(index, dict):
        raise UsageError(f"{folder / _INDEX} is damaged")
    return index
