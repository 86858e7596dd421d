"""Where a base's weights come from: a repository of the hub at a commit, or a local folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import torch

from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.quantization import (
    Quantize,
    gather_on_cpu,
    loading_settings,
    quantizing,
)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_INDEX = "model_index.json"
_READ_AT_ONCE = 1 << 22
# What of a folder decides what it computes; model cards and examples do not.
_COUNTED = (".safetensors", ".json", ".txt", ".model")
# Larger files are not read twice: no training leaves all samples of them unchanged.
_READ_WHOLE = 1 << 26
_SAMPLES, _SAMPLE_BYTES = 256, 4096


@dataclass(frozen=True)
class BaseWeights:
    """A diffusers pipeline on the hub or in a folder.

    ``revision`` is a commit, tag or branch of the hub's; None in a folder. ``key`` is the setting
    that gave it, for errors.
    """

    location: str
    revision: str | None
    key: str = "editor.weights"

    @classmethod
    def of(
        cls,
        given: str,
        revision: str | None,
        pinned: Mapping[str, str] | None = None,
        key: str = "editor.weights",
    ) -> BaseWeights:
        """``given`` as a folder if it is one, else as a hub id.

        Without a ``revision`` it is the one that ``pinned`` knows for the id, else ``main``.

        Raises:
            UsageError: it is neither.
        """
        if Path(given).expanduser().is_dir():
            return cls(str(Path(given).expanduser()), None, key)
        if not HUB_ID.fullmatch(given):
            raise UsageError(f"{key}={given} is no folder, and no id of the hub (owner/name)")
        return cls(given, revision or (pinned or {}).get(given, "main"), key)

    @property
    def is_folder(self) -> bool:
        """Whether it lies on this machine, outside the hub's cache."""
        return self.revision is None

    @property
    def told(self) -> str:
        """The base as a run names it."""
        return self.location if self.is_folder else f"{self.location}@{self.revision}"

    def content(self, parts: Iterable[str] = (".",)) -> str:
        """What the weights are, for a run's fingerprint: id and revision, or a hash of the files
        of ``parts`` (folders of the pipeline)."""
        if not self.is_folder:
            return self.told
        folder = Path(self.location)
        digest = blake2b(digest_size=8)
        found = {path for part in parts for path in (folder / part).rglob("*")}
        for path in sorted(found):
            if path.suffix in _COUNTED:
                digest.update(path.relative_to(folder).as_posix().encode())
                digest.update(sampled_hash(path))
        return digest.hexdigest()

    def check_kind(self, needed: str | tuple[str, ...], editor: str) -> str:
        """The class of the pipeline, which is of ``needed``, by its index, a small file.

        Raises:
            UsageError: it is of another class, or has no index.
        """
        kind = self.index().get("_class_name")
        needed = (needed,) if isinstance(needed, str) else needed
        if not isinstance(kind, str) or kind not in needed:
            raise UsageError(
                f"editor.weights={self.location} is a {kind}; "
                f"editor={editor} needs a {' or a '.join(needed)}"
            )
        return kind

    def index(self) -> Mapping[str, Any]:
        """``model_index.json``: the pipeline's class and those of its parts.

        Raises:
            UsageError: there is none.
        """
        if self.is_folder:
            return _read_index(Path(self.location))
        from diffusers import DiffusionPipeline

        try:
            found: Mapping[str, Any] = DiffusionPipeline.load_config(
                self.location, revision=self.revision
            )
        except (OSError, ValueError) as error:
            raise self._unusable(error) from None
        return found

    def component_config(self, kind: Any, part: str) -> dict[str, Any]:
        """``config.json`` of one part, of the diffusers class ``kind``; no weight is loaded.

        Raises:
            UsageError: there is none.
        """
        try:
            config: dict[str, Any] = kind.load_config(
                self.location,
                subfolder=part,
                revision=self.revision,
                local_files_only=self.is_folder,
            )
        except (OSError, ValueError) as error:
            raise self._unusable(error) from None
        return config

    def empty_part(self, part: str) -> torch.nn.Module:
        """The model of one part on the meta device, by its config: its layers without weights.

        Raises:
            UsageError: there is none, or none of diffusers or transformers.
        """
        import diffusers
        import transformers

        found: Sequence[Any] = self.index().get(part) or ("", "")
        library, name = found
        if library == "diffusers":
            kind = getattr(diffusers, name)
            config = self.component_config(kind, part)
            with torch.device("meta"):
                return cast(torch.nn.Module, kind.from_config(config))
        if library != "transformers":
            raise UsageError(f"{self.key}={self.told} has no {part} that can be trained")
        try:
            config = transformers.AutoConfig.from_pretrained(
                self.location,
                subfolder=part,
                revision=self.revision,
                local_files_only=self.is_folder,
            )
        except (OSError, ValueError) as error:
            raise self._unusable(error) from None
        with torch.device("meta"):
            return cast(torch.nn.Module, getattr(transformers, name)(config))

    def load_quantized(
        self, pipeline_class: Any, quantize: Quantize, denoiser: str, **settings: Any
    ) -> Any:
        """As :meth:`load`, with ``denoiser`` and large text encoders packed as ``quantize`` says;
        all on the CPU."""
        if quantize == "none":
            return self.load(pipeline_class, **settings)
        dtype = settings["dtype"]
        computed = dtype
        if isinstance(dtype, dict):
            computed = dtype[denoiser if denoiser in dtype else "default"]
        packing = loading_settings(quantize, self.index(), denoiser, computed)
        with quantizing(quantize):
            pipeline = self.load(pipeline_class, **settings, **packing)
        gather_on_cpu(pipeline)
        return pipeline

    def left_out(self, parts: Iterable[str]) -> dict[str, Any]:
        """Arguments of :meth:`load` that keep the weights of ``parts`` from being loaded.

        The pipeline then has an autoencoder of its config alone, whose scale and shape it goes on
        knowing, and None in place of the others.
        """
        import diffusers

        left: dict[str, Any] = dict.fromkeys(parts)
        if "vae" in left:
            config = self.component_config(diffusers.AutoencoderKL, "vae")
            with torch.device("meta"):
                left["vae"] = getattr(diffusers, config["_class_name"]).from_config(config)
        return left

    def load(self, pipeline_class: Any, **settings: Any) -> Any:
        """A pipeline of ``pipeline_class``, from safetensors alone.

        Raises:
            UsageError: it is not there, is damaged, or is a pipeline of another kind.
        """
        try:
            return pipeline_class.from_pretrained(
                self.location,
                revision=self.revision,
                local_files_only=self.is_folder,
                use_safetensors=True,
                **settings,
            )
        except (OSError, ValueError, TypeError, ImportError) as error:
            raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> UsageError:
        where = self.location if self.is_folder else f"{self.location} (revision {self.revision})"
        return UsageError(f"{self.key}={where}: {first_line(error)}")


def drop_weights(pipeline: Any, part: str) -> None:
    """Let go of the weights of a part of ``pipeline``: what is left is as if it had been loaded
    with :meth:`BaseWeights.left_out`."""
    left = getattr(pipeline, part).to("meta") if part == "vae" else None
    pipeline.register_modules(**{part: left})


def first_line(error: Exception) -> str:
    """What ``error`` says, without its further lines."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _read_index(folder: Path) -> Mapping[str, Any]:
    if not (folder / _INDEX).is_file():
        raise UsageError(f"editor.weights={folder} holds no diffusers pipeline (no {_INDEX})")
    try:
        index = json.loads((folder / _INDEX).read_text("utf-8"))
    except (OSError, ValueError):
        index = None
    if not isinstance(index, dict):
        raise UsageError(f"{folder / _INDEX} is damaged")
    return index


def sampled_hash(path: Path) -> bytes:
    """A hash of a file: of all it holds, or of samples where it is large."""
    size = path.stat().st_size
    digest = blake2b(str(size).encode())
    with path.open("rb") as file:
        if size <= _READ_WHOLE:
            digest.update(file.read())
            return digest.digest()
        for index in range(_SAMPLES):
            file.seek(index * size // _SAMPLES)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()


def sampled_digest(folder: Path, paths: Iterable[Path]) -> str:
    """As :func:`files_digest`, and of large files by samples of what they hold."""
    digest = blake2b(digest_size=8)
    for path in sorted(paths):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(sampled_hash(path))
    return digest.hexdigest()


def files_digest(folder: Path, paths: Iterable[Path]) -> str:
    """A hash of what ``paths`` below ``folder`` are called and hold."""
    digest = blake2b(digest_size=8)
    for path in sorted(paths):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while piece := file.read(_READ_AT_ONCE):
                digest.update(piece)
    return digest.hexdigest()
