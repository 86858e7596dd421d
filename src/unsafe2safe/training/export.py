"""Writing an adapter in diffusers' layout, and proving that it loads before saying so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from unsafe2safe.core.errors import Unsafe2SafeError
from unsafe2safe.editors.adapter_card import BESIDE_BRANCH_FOLDER, AdapterCard
from unsafe2safe.editors.base import Pixels
from unsafe2safe.editors.caption_branch import (
    BRANCH_FILE,
    save_caption_branch,
    without_caption_branch,
)
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.objectives.base import prediction_of
from unsafe2safe.training.model_card import CARD as _README
from unsafe2safe.training.model_card import licence_lines

TOLERANCE = 1e-4


class ExportError(Unsafe2SafeError):
    """What was written does not give back what was trained."""


def export_adapter(
    editor: TrainableEditor, pipeline: Any, base: str, folder: Path, *, prove: bool = True
) -> None:
    """Write the trained weights of ``pipeline`` to ``folder``, whole or not at all.

    LoRA: ``pytorch_lora_weights.safetensors`` for ``pipeline.load_lora_weights(folder)``. All
    weights: ``unet/`` or ``transformer/`` for its class's ``from_pretrained``. Beside them
    ``adapter.json`` and a model card. A LoRA that plain diffusers cannot honour is in the editor's
    own ``lora_file``. A caption branch is ``caption_branch.safetensors``; the
    others then lie in a folder of their own, since diffusers would load them without it and say
    nothing. ``base`` is the fingerprint of the base's weights. Without ``prove`` no fresh pipeline
    is loaded, which takes as much memory again.

    Raises:
        ExportError: a fresh pipeline with the adapter edits a fixed picture otherwise than
            ``pipeline`` does (by more than 1e-4 of the full range).
    """
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    name, denoiser = editor.parts[0], editor.denoiser(pipeline)
    for part in editor.lora_targets():
        getattr(pipeline, part).eval()
    card = _card(editor, pipeline, base)
    card.write(temporary)
    weights = card.weights_folder(temporary)
    with without_caption_branch(denoiser):
        if card.trainable == "lora" and editor.lora_file is not None:
            editor.save_lora(denoiser, weights)
        elif card.trainable == "lora":
            _save_lora(pipeline, editor.lora_targets(), weights)
        elif card.trainable == "full":
            denoiser.save_pretrained(weights / name, safe_serialization=True)
            forget_origin(weights)
    if card.caption_branch != "none":
        save_caption_branch(denoiser, temporary / BRANCH_FILE)
    (temporary / _README).write_text(_model_card(card, editor, type(denoiser).__name__), "utf-8")
    if prove:
        _prove(editor, pipeline, temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def forget_origin(folder: Path) -> None:
    """Drop from the configs in ``folder`` where their models were loaded from: diffusers notes a
    path of this machine there."""
    for config in folder.rglob("config.json"):
        content = json.loads(config.read_text("utf-8"))
        if content.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def _save_lora(pipeline: Any, parts: Iterable[str], folder: Path) -> None:
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    settings, layers = {}, {}
    for part in parts:
        module = getattr(pipeline, part)
        for key, value in module.peft_config["default"].to_dict().items():
            # Equal runs give equal bytes: sets have another order in each process, and so has
            # metadata of more than one key (diffusers' own writer adds a second).
            settings[f"{part}.{key}"] = sorted(value) if isinstance(value, set) else value
        # Diffusers would drop out in edits too: it loads new layers in training mode.
        settings[f"{part}.lora_dropout"] = 0.0
        # The raw form: the one converted to diffusers' names loads wrongly once conv_in is a target
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(module)
    metadata = {LORA_ADAPTER_METADATA_KEY: json.dumps(settings, indent=2, sort_keys=True)}
    pipeline.save_lora_weights(
        save_directory=folder,
        **layers,
        save_function=lambda weights, path: save_file(weights, path, metadata=metadata),
    )


def _card(editor: TrainableEditor, pipeline: Any, base: str) -> AdapterCard:
    lora = editor.trainable == "lora"
    return AdapterCard(
        editor=editor.name,
        base=base,
        trainable=editor.trainable,
        rank=editor.rank if lora else None,
        alpha=editor.alpha if lora else None,
        targets=editor.targets if lora else (),
        text_encoder_targets=editor.lora_targets().get("text_encoder", ()) if lora else (),
        **cast(Any, {**editor.settings_on_card(), "base_dtype": editor.base_dtype}),
        prediction_type=prediction_of(pipeline.scheduler),
        resolution=editor.resolution,
        dtype=str(next(p for p in editor.denoiser(pipeline).parameters() if p.requires_grad).dtype),
        licence=editor.licence,
        use_rslora=lora and editor.use_rslora,
        use_dora=lora and editor.use_dora,
        lora_init=editor.lora_init if lora else "kaiming",
        widened=editor.widened,
    )


def _model_card(card: AdapterCard, editor: TrainableEditor, model: str) -> str:
    choices = {
        "captions": "instruction",
        "caption_branch": "none",
        "source": "full",
        "condition_offset": (0, 0),
        "independent_condition": False,
        "quantize": "none",
    }
    settings = "".join(
        f" editor.{name}={_typed(getattr(card, name))}"
        for name, default in choices.items()
        if getattr(card, name) != default
    )
    ours = f"python anonymize.py editor={card.editor}{settings} adapter=RUN_FOLDER"
    if card.trainable == "lora":
        what = f"{_kind(card)} of rank {card.rank} on {', '.join(card.targets)}"
        if card.text_encoder_targets:
            what += f", and on the text encoder's {', '.join(card.text_encoder_targets)}"
        plain = 'pipeline.load_lora_weights("adapter")'
    elif card.trainable == "full":
        what = f"All weights of the {model}"
        plain = f'{model}.from_pretrained("adapter/{editor.parts[0]}")'
    else:
        what, plain = "A public-caption branch", ""
    if card.caption_branch != "none":
        load = f"""    {ours}

Plain diffusers cannot load it: `{BRANCH_FILE}` holds a second cross-attention for the public
caption, which diffusers does not know. Weights in `{BESIDE_BRANCH_FOLDER}` were trained together
with it and are of no use without."""
    elif card.trainable == "lora" and editor.lora_file is not None:
        load = f"    {ours}\n\nPlain diffusers cannot load it: {editor.edits_otherwise()}"
    else:
        load = f"    {plain}\n\nor `{ours}`."
        if otherwise := editor.edits_otherwise():
            load += f"\n\n{otherwise}"
    if editor.lora_file is None and card.base_dtype != "float32" and card.trainable == "lora":
        load += f"""

Plain diffusers rounds the LoRA to {card.base_dtype} beside such a base; Unsafe2Safe does not."""
    if card.quantize != "none":
        load += f"""

Its base was quantized as {card.quantize} while it was trained; Unsafe2Safe loads it so
(`editor.quantize={card.quantize}`). Plain diffusers takes a quantization config for that."""
    if card.widened:
        load += """

Its base is a plain Stable Diffusion: Unsafe2Safe widens its `conv_in` by itself. For plain
diffusers give the UNet as many input channels again first, with weights of zero."""
    if card.source != "full":
        load += f"""

It was trained on sources whose sensitive regions are hidden (`source={card.source}`). Plain
diffusers does not hide them: there it is of no use, and copies what it is shown."""
    return f"""---
{licence_lines(editor)}
library_name: diffusers
tags: [image-editing, anonymization, {editor.family}]
---
# Adapter of unsafe2safe's editor `{card.editor}`

{what}, trained with Unsafe2Safe's train.py on pairs of an original and its anonymized picture.
Text input: {card.captions}. Caption branch: {card.caption_branch}. Source image seen:
{card.source}. Trained at {card.resolution} px, {card.prediction_type} prediction, {card.dtype}.
Base weights: fingerprint {card.base} in {card.base_dtype}, licence {card.licence}\
{"" if editor.commercial else ", which allows no commercial use"}.

{load}

Its edits are published only after verification: an adapter promises nothing by itself.
"""


def _typed(value: object) -> str:
    """``value`` as it is typed after a key on the command line."""
    if isinstance(value, tuple):
        return "[" + ",".join(map(str, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kind(card: AdapterCard) -> str:
    kinds = [name for name, used in (("rsLoRA", card.use_rslora), ("DoRA", card.use_dora)) if used]
    return " with ".join(kinds) or "LoRA"


def _prove(editor: TrainableEditor, pipeline: Any, folder: Path) -> None:
    picture = fixed_picture(editor.resolution)
    inputs = ([picture], ["give the person red hair"], [0], 0, ["a person outdoors"])
    # dataclasses.replace keeps every setting but the adapter
    loaded = replace(cast(Any, editor), adapter=folder)
    fresh = loaded.load_pipeline().to(pipeline.device)
    if editor.trainable != "full":
        editor.lay_out(fresh)  # as it was trained: half precision tells the two apart
    trained = editor.run(pipeline, *inputs)
    reloaded = editor.run(fresh, *inputs)
    if not np.isfinite(trained).all():
        raise ExportError("the trained editor gives values that are not finite; nothing is saved")
    difference = float(np.abs(trained - reloaded).max())
    if not difference <= TOLERANCE:
        raise ExportError(
            f"the saved adapter does not load as trained: edits differ by {difference:.2g}"
        )


def fixed_picture(resolution: int) -> Pixels:
    """(R, R, 3) uint8: ramps of three colours, the same everywhere."""
    ramp = np.linspace(0, 255, resolution)
    across, down = np.meshgrid(ramp, ramp)
    return np.stack([across, down, 255 - (across + down) / 2], axis=-1).round().astype(np.uint8)
