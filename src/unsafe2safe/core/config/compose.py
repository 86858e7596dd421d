"""From overrides to a checked configuration, with one clear line for each mistake."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from unsafe2safe.core.config.components import explain, nearest
from unsafe2safe.core.config.schema import SCRIPTS
from unsafe2safe.core.config.schema_common import Common
from unsafe2safe.core.errors import ConfigError
from unsafe2safe.core.ledger import flatten


def config_dir() -> Path:
    """The configuration tree: inside the installed package, or beside ``src`` in a checkout."""
    package = Path(__file__).resolve().parents[2]
    for candidate in (package / "configs", package.parents[1] / "configs"):
        if (candidate / "base.yaml").is_file():
            return candidate
    raise ConfigError("the package was installed without its configs folder")


def compose_config(script: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose ``configs/<script>.yaml`` with Hydra overrides.

    Raises:
        ConfigError: one line with the nearest right key or group choice.
    """
    try:
        return _compose(script, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain_hydra(script, error) from None


def _compose(script: str, overrides: Sequence[str]) -> DictConfig:
    around = GlobalHydra.instance().hydra  # of the script that asks, while it runs
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return compose(config_name=script, overrides=list(overrides))
    finally:
        GlobalHydra.instance().hydra = around


def compose_choice(
    group: str,
    choice: str,
    overrides: Mapping[str, Any] | None = None,
    paths: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The settings of one choice of a group, resolved, as ``group=choice`` would give them.

    ``overrides`` replace values of its keys (nested ones as ``a.b``), without looking whether they
    exist: building the component does. ``paths`` stands for the section of that name.

    Raises:
        ConfigError: one line with the nearest right choice or key.
    """
    try:
        config = compose_config("anonymize", [f"+{group}@chosen={choice}"])
        for key, value in (overrides or {}).items():
            OmegaConf.update(config.chosen, key, value, force_add=True)
        if paths is not None:
            OmegaConf.update(config, "paths", dict(paths))
        unset = sorted(OmegaConf.missing_keys(config.chosen))
        if unset:
            raise ConfigError(f"{unset[0]} is not set (give {unset[0]}=... in its overrides)")
        return cast(dict[str, Any], OmegaConf.to_container(config.chosen, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group}={choice}: {str(error).splitlines()[0]}") from None
    except ConfigError as error:
        told = str(error)
        raise ConfigError(told if choice in told else f"{group}={choice}: {told}") from None


def explain_hydra(script: str, error: Exception) -> ConfigError:
    """Hydra's and OmegaConf's complaints as one line."""
    text = str(error)
    missing = re.search(r"Could not find '([^']+)'", text)
    if missing:
        group, _, choice = missing[1].rpartition("/")
        if group == "hydra/launcher" and (package := _launcher_package(choice)):
            return ConfigError(
                f"launcher={choice} needs {package}: pip install 'unsafe2safe[launchers]'"
            )
        choices = [path.stem for path in (config_dir() / group).glob("*.yaml")]
        return ConfigError(f"{group}={choice} does not exist{nearest(choice, choices)}")
    override = re.search(r"Could not override '\+?([^'=]+)'", text)
    unknown = override or re.search(r"Key '([^']+)' is not in struct", text)
    if unknown:
        key = unknown[1]
        if "/" in key and (config_dir() / key).is_dir():
            group, _, part = key.rpartition("/")
            having = [
                path.stem
                for path in sorted((config_dir() / group).glob("*.yaml"))
                if f"- {part}:" in path.read_text("utf-8")
            ]
            told = " or ".join(f"{group}={name}" for name in having)
            return ConfigError(f"{key} needs a {group} that has it: give {told} as well")
        try:
            base = OmegaConf.to_container(_compose(script, ()), resolve=False)
            known = list(flatten(cast(Mapping[str, Any], base)))
        except (HydraException, OmegaConfBaseException):
            known = []
        groups = [name.split(".")[0] for name in known]
        return ConfigError(f"unknown key {key!r}{nearest(key, [*known, *groups])}")
    return ConfigError(text.strip().splitlines()[0])


def _launcher_package(choice: str) -> str | None:
    """Where a launcher comes from that Hydra itself does not have."""
    kind = choice.split("_", maxsplit=1)[0]
    return f"hydra-{kind}-launcher" if kind in ("joblib", "submitit") else None


def check_config(script: str, config: DictConfig) -> Common:
    """Resolve interpolations, refuse unset values (``???``), check types and bounds.

    Raises:
        ConfigError: one line that names the key.
    """
    unset = sorted(OmegaConf.missing_keys(config))
    if unset:
        raise ConfigError(f"{unset[0]} is not set (give {unset[0]}=...)")
    try:
        content = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    schema = SCRIPTS[script]
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        owner: Any = schema
        for part in fault["loc"][:-1]:
            owner = getattr(owner, "model_fields", {}).get(part)
            owner = getattr(owner, "annotation", None)
        raise explain(error, "", getattr(owner, "model_fields", schema.model_fields)) from None


def load(script: str, overrides: Sequence[str] = ()) -> Common:
    """Compose and check in one call; what the Python API and the tests use."""
    return check_config(script, compose_config(script, overrides))
