"""Which model an editor's plan is of, and what of it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn

from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.branch_attention import BranchKind
from unsafe2safe.editors.caption_branch import add_caption_branch, caption_branch
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.editors.instruct_pix2pix import InstructPix2PixEditor
from unsafe2safe.editors.lora_targets import lora_config, targets_key
from unsafe2safe.training.planning.true_size import (
    ModelSize,
    SizedModel,
    build_true_size,
    parameter_count,
    true_sizes,
)


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model on the meta device with what an editor's settings make trainable, in fp32.

    ``text_tokens`` are all the tokens that the network is given, a caption branch's too.
    """

    model: SizedModel
    trainable: str
    trained: list[nn.Parameter]
    text_tokens: int
    resolution: int


def planned_model(
    editor: TrainableEditor, named: str | None, resolution: int | None
) -> TrainedModel:
    """The model called ``named``, else the editor's own, with a LoRA or what else is trained.

    Rank and what is trained are the editor's; of a model that is named and not the editor's own,
    LoRA targets and resolution are that model's.

    Raises:
        UsageError: no such model, a LoRA target without match, a resolution that cannot be.
    """
    own = own_true_size(editor)
    name = named or own
    model = _own_modules(editor) if name is None else build_true_size(name)
    mine = name == own
    targets = editor.targets if mine else model.size.targets
    if resolution is None:
        own_resolution = getattr(editor, "resolution", None) if mine else None
        resolution = own_resolution or model.size.resolution
    step = model.size.latent_scale * (1 if model.size.inputs == "unet" else 2)
    if resolution % step:
        raise UsageError(f"plan.resolution={resolution}: {model.name} needs a multiple of {step}")
    return _with_trained(editor, model, targets, resolution)


def own_true_size(editor: TrainableEditor) -> str | None:
    """The true size of ``editor``: what its class says, else the one of its name, else None."""
    if editor.true_size is not None:
        return editor.true_size
    return editor.name if editor.name in true_sizes() else None


def _with_trained(
    editor: TrainableEditor, model: SizedModel, targets: tuple[str, ...], resolution: int
) -> TrainedModel:
    network: Any = model.network
    for module in (network, model.vae, *model.text_encoders.values()):
        module.requires_grad_(False).eval()
    tokens = model.size.text_tokens
    branch: Literal["none"] | BranchKind = getattr(editor, "caption_branch", "none")
    if branch != "none":
        if model.size.inputs != "unet":
            raise UsageError(f"editor.caption_branch: {model.name} has no cross-attention")
        add_caption_branch(network, tokens, kind=branch)
        tokens *= 2
    if editor.trainable == "lora":
        network.add_adapter(lora_config(editor, network, targets))
        for part, text_targets in editor.lora_targets().items():
            if encoder := model.text_encoders.get(part):
                lora = lora_config(editor, encoder, text_targets, targets_key(part))
                cast(Any, encoder).add_adapter(lora)
    elif editor.trainable == "full":
        network.requires_grad_(True)
    if model.size.inputs == "unet":
        for parameter in caption_branch(network).values():
            parameter.requires_grad_(True)
    parts = (network, *model.text_encoders.values())
    trained = [p for part in parts for p in part.parameters() if p.requires_grad]
    if not trained:
        raise UsageError(f"editor.trainable={editor.trainable} leaves nothing to train")
    for parameter in trained:
        parameter.data = parameter.data.float()
    return TrainedModel(model, editor.trainable, trained, tokens, resolution)


def _own_modules(editor: TrainableEditor) -> SizedModel:
    """The modules that ``editor`` loads: small ones, or they would have a true size."""
    if not isinstance(editor, InstructPix2PixEditor):
        raise UsageError(
            f"editor={editor.name} has no true size; name one with plan.model "
            f"({', '.join(true_sizes())})"
        )
    pipeline = editor.load_base()
    unet, vae, encoder = (
        part.to("meta") for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    )
    size = ModelSize(
        network="unet",
        vae="vae",
        text_encoders=("text_encoder",),
        inputs="unet",
        source="channel",
        latent_channels=vae.config.latent_channels,
        latent_scale=2 ** (len(vae.config.block_out_channels) - 1),
        text_tokens=pipeline.tokenizer.model_max_length,
        text_width=encoder.config.hidden_size,
        resolution=editor.resolution,
        targets=editor.targets,
    )
    return SizedModel(editor.name, size, unet, vae, {"text_encoder": encoder})


def largest_block(network: nn.Module) -> int:
    """Weights of the largest of the blocks that FSDP gathers one by one."""
    lists = [child for child in network.children() if isinstance(child, nn.ModuleList)]
    return max((parameter_count(block) for blocks in lists for block in blocks), default=0)


def largest_layer(network: nn.Module) -> int:
    """Weights of the largest linear layer, which a quantized base unpacks one at a time."""
    layers = (module for module in network.modules() if isinstance(module, nn.Linear))
    return max((layer.weight.numel() for layer in layers), default=0)
