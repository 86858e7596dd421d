"""A base whose weights are one safetensors file in Stability AI's layout, as CosXL is published.

The file holds the weights alone: configurations and tokenizers are those of a repository or folder
in diffusers' layout, beside which it is read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.base_weights import (
    HUB_ID,
    BaseWeights,
    drop_weights,
    first_line,
    sampled_hash,
)
from unsafe2safe.editors.library_logs import quiet

SUFFIX = ".safetensors"
_CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"
_CONFIGS = ["*.json", "**/*.json", "*.txt", "**/*.txt", "**/*.model"]


@dataclass(frozen=True)
class SingleFile:
    """The file ``location``: a path, or with a ``revision`` ``owner/name/file`` of the hub.

    ``layout`` has the configurations and tokenizers.
    """

    location: str
    revision: str | None
    layout: BaseWeights

    @classmethod
    def of(cls, given: str, revision: str | None, layout: BaseWeights) -> SingleFile:
        """``given`` as a file if it is one, else as a file of the hub.

        Raises:
            UsageError: it is neither.
        """
        path = Path(given).expanduser()
        if path.is_file():
            return cls(str(path), None, layout)
        repository, _, _ = given.rpartition("/")
        if Path(given).is_absolute() or not HUB_ID.fullmatch("/".join(repository.split("/")[:2])):
            raise UsageError(
                f"editor.weights={given} is no file, and no file of the hub (owner/name/file)"
            )
        return cls(given, revision or "main", layout)

    @property
    def told(self) -> str:
        """The base as a run names it."""
        return self.location if self.revision is None else f"{self.location}@{self.revision}"

    def content(self, parts: tuple[str, ...]) -> str:
        """What the weights are, for a run's fingerprint: see :meth:`BaseWeights.content`; with
        what of ``parts`` the layout holds."""
        file = self.told
        if self.revision is None:
            digest = blake2b(digest_size=8)
            digest.update(sampled_hash(Path(self.location)))
            file = digest.hexdigest()
        return f"{file}+{self.layout.content(parts)}"

    def component_config(self, kind: Any, part: str) -> dict[str, Any]:
        """As :meth:`BaseWeights.component_config`, the UNet's input channels as the file has them.

        Raises:
            UsageError: there is none, or the file is no such base.
        """
        config = self.layout.component_config(kind, part)
        if part == "unet":
            config = {**config, "in_channels": self._channels}
        return config

    def empty_part(self, part: str) -> torch.nn.Module:
        """As :meth:`BaseWeights.empty_part`, of the layout."""
        return self.layout.empty_part(part)

    def number(self, name: str) -> float | None:
        """The number called ``name`` in the file, where it is there."""
        with self._opened() as file:
            return round(float(file.get_tensor(name)), 6) if name in file.keys() else None  # noqa: SIM118

    def load(
        self,
        pipeline_class: Any,
        dtype: Mapping[str, torch.dtype],
        without: Collection[str] = (),
        **settings: Any,
    ) -> Any:
        """A pipeline of ``pipeline_class``, ``dtype`` by the names of its parts and ``default``.
        Parts ``without`` are left out as in :meth:`BaseWeights.left_out`.

        Raises:
            UsageError: it is not there, is damaged, or does not fit the layout.
        """
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from diffusers.loaders.single_file_utils import SingleFileComponentError

        try:
            of_file = {"config": str(self._layout_folder), "local_files_only": True}
            # Two parts are read apart: one has a number type of its own, one its own channels.
            parts: dict[str, Any] = dict.fromkeys(without)
            with quiet("diffusers.models.modeling_utils"):  # it warns of every cast
                if "unet" not in without:
                    parts["unet"] = UNet2DConditionModel.from_single_file(
                        str(self._path),
                        subfolder="unet",
                        in_channels=self._channels,
                        dtype=dtype["unet"],
                        **of_file,
                    )
                parts["vae"] = AutoencoderKL.from_single_file(
                    str(self._path), subfolder="vae", dtype=dtype.get("vae"), **of_file
                )
                pipeline = pipeline_class.from_single_file(
                    str(self._path), **parts, dtype=dtype["default"], **of_file, **settings
                )
        except (
            OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError,
            SingleFileComponentError,
        ) as error:  # fmt: skip
            raise UsageError(f"editor.weights={self.told}: {first_line(error)}") from None
        if "vae" in without:
            drop_weights(pipeline, "vae")
        return pipeline

    @cached_property
    def _channels(self) -> int:
        with self._opened() as file:
            if _CONV_IN not in file.keys():  # noqa: SIM118
                raise UsageError(
                    f"editor.weights={self.told} holds no UNet in Stability AI's layout "
                    f"({_CONV_IN})"
                )
            return int(file.get_slice(_CONV_IN).get_shape()[1])

    def _opened(self) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(str(self._path), framework="pt")
        except (OSError, SafetensorError) as error:
            raise UsageError(f"editor.weights={self.told}: {first_line(error)}") from None

    @cached_property
    def _path(self) -> Path:
        if self.revision is None:
            return Path(self.location)
        from huggingface_hub import hf_hub_download

        owner, name, file = self.location.split("/", 2)
        try:
            return Path(hf_hub_download(f"{owner}/{name}", file, revision=self.revision))
        except (OSError, ValueError) as error:
            raise UsageError(f"editor.weights={self.told}: {first_line(error)}") from None

    @cached_property
    def _layout_folder(self) -> Path:
        if self.layout.is_folder:
            return Path(self.layout.location)
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                self.layout.location, revision=self.layout.revision, allow_patterns=_CONFIGS
            )
        )
