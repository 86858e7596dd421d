"""The tiny editor's pipeline at toy size, with weights drawn from a seed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unsafe2safe.editors.tiny_tokenizer import MAX_TOKENS, build_tokenizer

SIDE = 64  # pixels
LATENT_CHANNELS = 16
LATENT_SIDE = SIDE // 4
_VAE_WIDTHS = (16, 32, 64)
_VAE_NORM_GROUPS = 1
_UNET_WIDTHS = (64, 128)
_UNET_NORM_GROUPS = 4
_TEXT_WIDTH = 128
_TEXT_LAYERS = 2
_HEADS = 4
POSTERIOR_LOG_VARIANCE = -6.0
_METRIC_ON = 64  # images on which the decoder's response is measured
_LEAST_SHOWN = 1e-4  # of the greatest variance; what shows less is not blown up any further
_LEAST_HEARD = 1e-6  # of the greatest response, for channels that the decoder does not hear at all

PredictionType = Literal["epsilon", "v_prediction"]


def build_pipeline(init_seed: int, prediction_type: PredictionType) -> Any:
    """A StableDiffusionInstructPix2PixPipeline for 64 px squares; the same weights per seed."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):  # what they begin with is replaced
        vae, unet, text_encoder = build_autoencoder(), _unet(), _text_encoder(tokenizer)
    for module, weights in zip((vae, unet, text_encoder), _drawn(init_seed), strict=True):
        module.load_state_dict(weights)
    return StableDiffusionInstructPix2PixPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=_scheduler(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@lru_cache(maxsize=2)
def _drawn(init_seed: int) -> tuple[dict[str, Tensor], ...]:
    """Weights of the three parts. To bring the latents to scale takes seconds, and a training with
    its export builds the pipeline twice and more."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed)
        parts = build_autoencoder(), _unet(), _text_encoder(build_tokenizer())
        normalize_latents(parts[0], structured_images(32, SIDE, init_seed))
        fix_posterior(parts[0])
    return tuple(part.state_dict() for part in parts)


def empty_part(part: str) -> nn.Module:
    """The model of a part that can be trained, ``unet`` or ``text_encoder``, on the meta device."""
    with torch.device("meta"):
        model: nn.Module = _unet() if part == "unet" else _text_encoder(build_tokenizer())
    return model


def _scheduler(prediction_type: PredictionType) -> Any:
    from diffusers import DDIMScheduler

    # Zero terminal SNR and trailing steps (Lin et al. 2024): the first step of an edit then is
    # pure noise, as in training. What predicts the noise itself would learn nothing at such a step.
    velocity = prediction_type == "v_prediction"
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=velocity,
        timestep_spacing="trailing" if velocity else "leading",
    )


def build_autoencoder() -> Any:
    """An AutoencoderKL for 64 px squares, drawn from torch's own generator.

    Each residual block begins as the identity (Goyal et al. 2017, section 5.1): the picture's way
    through the stack then is short at first, and short trainings get further.
    """
    from diffusers import AutoencoderKL
    from diffusers.models.resnet import ResnetBlock2D

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(_VAE_WIDTHS),
        up_block_types=("UpDecoderBlock2D",) * len(_VAE_WIDTHS),
        block_out_channels=_VAE_WIDTHS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=_VAE_NORM_GROUPS,
        sample_size=SIDE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
    return vae


def _unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=_UNET_WIDTHS,
        layers_per_block=1,
        cross_attention_dim=_TEXT_WIDTH,
        attention_head_dim=_HEADS,  # diffusers reads this as their number
        norm_num_groups=_UNET_NORM_GROUPS,
    )


def _text_encoder(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_TEXT_WIDTH,
            intermediate_size=2 * _TEXT_WIDTH,
            num_hidden_layers=_TEXT_LAYERS,
            num_attention_heads=_HEADS,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=_TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def structured_images(count: int, side: int, seed: int) -> Tensor:
    """(count, 3, side, side) in [-1, 1]: smooth colour fields with edges, drawn from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 5, generator=generator) * 2 - 1
    smooth = nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(-1, 1)
    blocks = torch.rand(count, 3, 4, 4, generator=generator) * 2 - 1
    edges = nn.functional.interpolate(blocks, (side, side), mode="nearest")
    return 0.6 * smooth + 0.4 * edges


@torch.no_grad()
def fix_posterior(vae: Any, log_variance: float = POSTERIOR_LOG_VARIANCE) -> None:
    """Give all latents of ``vae`` the same posterior variance, whatever the image.

    The posterior of an untrained encoder is so wide that its samples would be mostly noise.
    """
    vae.quant_conv.weight[LATENT_CHANNELS:] = 0.0
    vae.quant_conv.bias[LATENT_CHANNELS:] = log_variance


@torch.no_grad()
def normalize_latents(vae: Any, images: Tensor) -> None:
    """Fold a change of basis of the latents into the quantization layers of ``vae``.

    Latents then have mean 0 and, over their channels, a mean variance of 1 on images like
    ``images``, (N, 3, R, R) in [-1, 1], so that ``scaling_factor`` is 1 and the diffusion loss
    begins near 1; the decoder sees what it saw before.

    Channels are not brought to equal variances: of a trained autoencoder's some hardly show in the
    picture, and a diffusion model would spend as much on them as on colours. With G the decoder's
    mean squared response to a latent and C the latents' covariance, S = G^(1/2) C G^(1/2) is their
    covariance in the picture's metric, and y = S^(-1/4) G^(1/2) (z - mean) lies half-way between
    that metric and a white one: what shows ten times as much has about three times the deviation.
    """
    channels = LATENT_CHANNELS
    quant, post = vae.quant_conv, vae.post_quant_conv
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(images, 64)])
    flat = latents.movedim(1, -1).flatten(0, -2).double()
    mean, covariance = flat.mean(0), torch.cov(flat.T)
    metric = _power(_decoder_metric(vae, latents[:_METRIC_ON]), 0.5, floor=_LEAST_HEARD)
    shown = metric @ covariance @ metric
    basis = _power(shown, -0.25, floor=_LEAST_SHOWN) @ metric
    basis *= (channels / (basis @ covariance @ basis.T).trace()).sqrt()
    # Rounded, so that another thread count, which differs in the last bits, gives equal weights.
    basis, mean = (basis * 4096).round() / 4096, (mean * 256).round() / 256
    weight, bias = quant.weight[:channels, :, 0, 0].double(), quant.bias[:channels].double()
    quant.weight[:channels, :, 0, 0] = (basis @ weight).float()
    quant.bias[:channels] = (basis @ (bias - mean)).float()
    weight = post.weight[:, :, 0, 0].double()
    post.bias += (weight @ mean).float()
    post.weight[:, :, 0, 0] = (weight @ torch.linalg.inv(basis)).float()


def _decoder_metric(vae: Any, latents: Tensor) -> Tensor:
    """(C, C) float64: inner products of the decoder's responses to the same small noise in each
    channel of ``latents`` (N, C, h, w), per unit of noise."""
    random = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(len(latents), 1, *latents.shape[2:], generator=random)
    decoded = vae.decode(latents).sample
    responses = []
    for channel in range(latents.shape[1]):
        moved = latents.clone()
        moved[:, channel : channel + 1] += noise
        responses.append((vae.decode(moved).sample - decoded).flatten().double())
    stacked = torch.stack(responses)
    return stacked @ stacked.T / noise.double().square().sum()


def _power(matrix: Tensor, exponent: float, floor: float) -> Tensor:
    """A power of a symmetric positive matrix; eigenvalues below ``floor`` of the greatest count as
    that much."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp(min=floor * float(values[-1]))
    power: Tensor = vectors @ torch.diag(values.clamp(min=0).pow(exponent)) @ vectors.T
    return power
