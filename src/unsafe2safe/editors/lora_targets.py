"""Which layers of a model get a LoRA update, and peft's settings for it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from unsafe2safe.core.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from unsafe2safe.editors.fine_tuning import TrainableEditor

# How a target begins that is a regular expression for a whole name.
PATTERN = "re:"


def is_target(name: str, target: str) -> bool:
    """Whether ``target`` means the module ``name``: as the end of it, or with ``re:`` as a pattern
    for all of it."""
    if target.startswith(PATTERN):
        return re.fullmatch(target.removeprefix(PATTERN), name) is not None
    return name == target or name.endswith(f".{target}")


def target_modules(
    model: nn.Module, targets: tuple[str, ...], key: str = "editor.targets"
) -> list[str]:
    """Full names of the layers of ``model`` that one of ``targets`` means (:func:`is_target`);
    ``key`` is where they were given.

    Layers of an attention processor are none: a caption branch is trained as a whole.

    Raises:
        UsageError: a target matches no linear or convolutional layer.
    """
    from torch import nn

    kinds = (nn.Linear, nn.Conv2d)
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds) and ".processor." not in name
    ]
    found: set[str] = set()
    for target in targets:
        matching = [name for name in layers if is_target(name, target)]
        if not matching:
            raise UsageError(f"{key}: {target!r} matches no layer of the model")
        found.update(matching)
    return sorted(found)


def targets_key(part: str) -> str:
    """The key of the targets in a part of the pipeline."""
    return "editor.text_encoder_targets" if part == "text_encoder" else "editor.targets"


def names_for_peft(
    model: nn.Module,
    targets: tuple[str, ...],
    key: str = "editor.targets",
    but: tuple[str, ...] = (),
) -> list[str] | str:
    """``targets`` as peft takes them: a list for ends of names, a string for a pattern of all of
    them.

    It is a pattern of the layers' full names where a target is one (:func:`is_target`), or where a
    target names other modules as well: peft then refuses it (``attn.to_out`` of FLUX.2 is a layer
    in some blocks, a list in others). Layers of the modules called ``but`` are left out.

    Raises:
        UsageError: a target matches no linear or convolutional layer, or all are left out.
    """
    layers = [
        name
        for name in target_modules(model, targets, key)
        if not any(name == other or name.startswith(f"{other}.") for other in but)
    ]
    if not layers:
        raise UsageError(f"{key}: no loss depends on {', '.join(targets)}")
    named = {name for name, _ in model.named_modules() if any(is_target(name, t) for t in targets)}
    if named == set(layers) and not any(target.startswith(PATTERN) for target in targets):
        return sorted(targets)
    return "|".join(map(re.escape, layers))


def lora_config(
    editor: TrainableEditor,
    model: nn.Module,
    targets: tuple[str, ...] = (),
    key: str = "editor.targets",
) -> Any:
    """Peft's settings for a new LoRA of ``model``, on ``targets``, given at ``key``, or else the
    editor's, without layers that never learn (:meth:`TrainableEditor.never_learning`).

    Raises:
        UsageError: a target matches no layer.
    """
    from peft import LoraConfig

    names = names_for_peft(model, targets or editor.targets, key, editor.never_learning(model))
    return LoraConfig(
        r=editor.rank,
        lora_alpha=editor.alpha,
        lora_dropout=editor.dropout,
        target_modules=names,
        use_rslora=editor.use_rslora,
        use_dora=editor.use_dora,
        init_lora_weights=True if editor.lora_init == "kaiming" else editor.lora_init,
    )
