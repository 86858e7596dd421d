"""Models at their true size on the meta device: shapes without weights.

What a model is made of lies in ``configs/true_size/<name>.yaml``, its parts in
``configs/true_size/part``. The class defaults of diffusers are not the published sizes.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import yaml
from pydantic import PositiveInt, ValidationError
from torch import nn

from unsafe2safe.core.config.components import Strict, explain, nearest
from unsafe2safe.core.config.compose import config_dir
from unsafe2safe.core.errors import UsageError

_FOLDER = "true_size"
InputKind = Literal["unet", "flux", "flux2", "qwen", "sd3"]
Section = TypeVar("Section", bound=Strict)


class PartFile(Strict):
    """``configs/true_size/part/<name>.yaml``: a class of diffusers or transformers with its
    configuration."""

    builds: str
    config: dict[str, Any]


class ModelSize(Strict):
    """``configs/true_size/<name>.yaml``: the parts of a model and what its training step is given.

    ``latent_scale`` is pixels per latent, ``text_width`` the width of the embedded text as the
    network takes it, ``pooled_width`` that of the pooled one. ``source`` is how the source image
    enters: as input channels, as a second run of tokens, or not at all.
    """

    network: str
    vae: str
    text_encoders: tuple[str, ...]
    inputs: InputKind
    source: Literal["channel", "token", "none"]
    latent_channels: PositiveInt
    latent_scale: PositiveInt = 8
    text_tokens: PositiveInt
    text_width: PositiveInt
    pooled_width: int = 0
    resolution: PositiveInt
    targets: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SizedModel:
    """A model on the meta device; ``network`` is what training moves."""

    name: str
    size: ModelSize
    network: nn.Module
    vae: nn.Module
    text_encoders: Mapping[str, nn.Module] = field(default_factory=dict)


def true_sizes() -> list[str]:
    """The names that ``plan.model`` takes."""
    return sorted(path.stem for path in (config_dir() / _FOLDER).glob("*.yaml"))


def read_size(name: str) -> ModelSize:
    """The true size called ``name``.

    Raises:
        UsageError: there is none of that name.
        ConfigError: its file is damaged.
    """
    if name not in true_sizes():
        raise UsageError(f"plan.model={name} does not exist{nearest(name, true_sizes())}")
    return _read(config_dir() / _FOLDER / f"{name}.yaml", ModelSize)


def build_true_size(name: str) -> SizedModel:
    """The model called ``name`` on the meta device, in fp32.

    Raises:
        UsageError: there is none of that name.
    """
    size = read_size(name)
    return SizedModel(
        name,
        size,
        build_part(size.network),
        build_part(size.vae),
        {part: build_part(part) for part in size.text_encoders},
    )


def build_part(name: str) -> nn.Module:
    """The part ``configs/true_size/part/<name>.yaml`` on the meta device, in fp32."""
    file = _read(config_dir() / _FOLDER / "part" / f"{name}.yaml", PartFile)
    library, _, class_name = file.builds.rpartition(".")
    cls = getattr(importlib.import_module(library), class_name)
    with torch.device("meta"):
        if library == "transformers":
            model: nn.Module = cls(cls.config_class(**file.config))
        else:
            model = cls(**file.config)
    return model


def _read(path: Path, schema: type[Section]) -> Section:
    try:
        return schema.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except ValidationError as error:
        raise explain(error, path.stem, schema.model_fields) from None


def parameter_count(module: nn.Module) -> int:
    """How many weights ``module`` has; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())
