"""What ``benchmarks/training.py`` measures, one function for each kind of process."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import datasets  # noqa: F401 - this and more is imported for all processes before they part
import torch
from diffusers import (  # noqa: F401
    AutoencoderKL,
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from small_ip2p import pictures, save_base, save_pairs
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader
from training_process import Job
from transformers import CLIPTextModel  # noqa: F401

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema_train import Train
from unsafe2safe.editors import ip2p  # noqa: F401
from unsafe2safe.jobs.common import find_input, plain
from unsafe2safe.tracking.opening import open_tracker
from unsafe2safe.training import editor_recipe, fit
from unsafe2safe.training.cache import opening
from unsafe2safe.training.module import TaskModule
from unsafe2safe.training.optimizers import optimizer_factory
from unsafe2safe.training.ranks import Ranks, joined
from unsafe2safe.training.recipe import Recipe
from unsafe2safe.training.scale import checked_scale

Found = dict[str, Any]

_BASE, _PAIRS = "base", "pairs"
_RATE = 1e-4
_DROPOUT = 0.05
_WITHIN = timedelta(minutes=10)

# What is there before the processes part is not collected, and so not copied, by each of them.
gc.freeze()


def prepare(job: Job) -> Found:
    """Write the base and the pairs that all others read."""
    save_base(job.size, job.root / _BASE)
    save_pairs(job.pairs, job.size.side, job.root / _PAIRS)
    return {}


def plain_loop(job: Job) -> Found:
    """All of the UNet, in the step order of diffusers' InstructPix2Pix example: at each step both
    pictures and the texts are encoded, the empty text too.

    Its pictures lie decoded in memory, which the example's do not. ``encoding``: of each step.
    """
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(job.root / _BASE)
    unet, vae, text_encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
    vae.requires_grad_(False)
    text_encoder.requires_grad_(False)
    unet.train()
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=_RATE)
    sources, targets, texts = pictures(job.pairs, job.size.side)
    tokens = partial(pipeline.tokenizer, padding="max_length", truncation=True, return_tensors="pt")
    steps, encoding = [], []
    for rows in _batches(job):
        begin = time.perf_counter()
        source, target = (_pixels(pixels, rows) for pixels in (sources, targets))
        ids = tokens([texts[row] for row in rows]).input_ids
        before = time.perf_counter()
        latents = vae.encode(target).latent_dist.sample() * vae.config.scaling_factor
        encoded = time.perf_counter() - before
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, schedule.config.num_train_timesteps, (len(rows),))
        noisy = schedule.add_noise(latents, noise, timesteps)
        before = time.perf_counter()
        text = text_encoder(ids)[0]
        seen = vae.encode(source).latent_dist.mode()
        nothing = text_encoder(tokens([""]).input_ids)[0]
        encoded += time.perf_counter() - before
        drawn = torch.rand(len(rows))
        text = torch.where((drawn < 2 * _DROPOUT)[:, None, None], nothing, text)
        no_image = (drawn >= _DROPOUT) & (drawn < 3 * _DROPOUT)
        seen = seen * ~no_image[:, None, None, None]
        predicted = unet(torch.cat([noisy, seen], 1), timesteps, text).sample
        loss = mse_loss(predicted, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        steps.append(time.perf_counter() - begin)
        encoding.append(encoded)
    return {"steps": steps[job.warmup :], "encoding": encoding[job.warmup :]}


def bare_loop(job: Job) -> Found:
    """The trainer's network on its cached tensors, all in memory, with as little as will train
    it: no data loader, no keyed draws, no dropped conditions, no log."""
    _, task, data = _opened(job, Ranks())
    prepared = data.collate([data[index, 0] for index in range(len(data))]).prepared
    network, scaling = task.denoiser, task.pipeline.vae.config.scaling_factor
    if job.channels_last is not None:
        network.to(
            memory_format=torch.channels_last if job.channels_last else torch.contiguous_format
        )
    schedule = DDPMScheduler.from_config(task.pipeline.scheduler.config)
    trained = list(task.trainable_parameters().values())
    optimizer = torch.optim.AdamW(trained, lr=_RATE, fused=True)
    steps = []
    for rows in _batches(job):
        begin = time.perf_counter()
        mean, deviation = prepared.target_mean[rows], prepared.target_deviation[rows]
        latents = (mean + deviation * torch.randn_like(mean)) * scaling
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, schedule.config.num_train_timesteps, (len(rows),))
        noisy = schedule.add_noise(latents, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16, enabled=job.bf16):
            seen = torch.cat([noisy, prepared.source[rows]], 1)
            predicted = network(seen, timesteps, prepared.text.tokens[rows]).sample
        loss = mse_loss(predicted.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        steps.append(time.perf_counter() - begin)
    return {"steps": steps[job.warmup :]}


def build_cache(job: Job) -> Found:
    """Encode all pairs as train.py does before its first step; ``seconds`` are of encoding and
    writing, without loading the base."""
    seconds = []
    fill = opening.fill

    def timed(*given: Any, **settings: Any) -> None:
        begin = time.perf_counter()
        fill(*given, **settings)
        seconds.append(time.perf_counter() - begin)

    opening.fill = timed
    _opened(job, Ranks())
    return {"seconds": seconds[0]}


def trainer_loop(job: Job) -> Found:
    """train.py's own loop on a complete cache, up to its last step; ``waits`` are for data.

    A step lasts from its begin to the begin of the next one, with log and data. The last step,
    which writes the checkpoint, is not among those told.
    """
    begins: list[float] = []
    waits: list[float] = []

    class Timed(TaskModule):
        def on_train_batch_start(self, *_: Any) -> None:
            begins.append(time.perf_counter())

        def on_before_optimizer_step(self, *_: Any) -> None:
            if job.gradients is None or job.rank or self.global_step:
                return
            trained = self.task.trainable_parameters()
            torch.save(
                {name: weight.grad.clone() for name, weight in trained.items()},
                job.root / job.gradients,
            )

    class TimedLoader(DataLoader[Any]):
        def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
            batches = super().__iter__()
            while True:
                begin = time.perf_counter()
                batch = next(batches)
                waits.append(time.perf_counter() - begin)
                yield batch

    fit.TaskModule, fit.DataLoader = Timed, TimedLoader  # type: ignore[misc]
    ranks = Ranks(rank=job.rank, local_rank=job.rank, world_size=job.world, port=job.port)
    with joined(ranks, _WITHIN):
        config, task, data = _opened(job, ranks)
        folder = job.root / f"run-{job.trainable}-{job.world}-{time.time_ns()}"
        folder.mkdir()
        columns = ("loss", "learning_rate")
        with open_tracker(config.logger, folder, plain(config), "benchmark", columns, 0) as tracker:
            fit.fit(
                task, data, config.trainer, config.seed, tracker, folder / "checkpoints", None,
                optimizer_factory(config.optimizer), ranks,
            )  # fmt: skip
    steps = [later - begin for begin, later in pairwise(begins)]
    first = job.warmup
    return {"steps": steps[first:], "waits": waits[first : first + len(steps[first:])]}


def compare_gradients(job: Job) -> Found:
    """The largest difference of two files of gradients, whose names stand in ``job.gradients``
    with a comma between them, and the largest gradient."""
    assert job.gradients is not None
    one, other = (
        torch.load(job.root / name, weights_only=True) for name in job.gradients.split(",")
    )
    if one.keys() != other.keys():
        raise ValueError("the two have gradients of other weights")
    return {
        "difference": max(float((one[name] - other[name]).abs().max()) for name in one),
        "largest": max(float(value.abs().max()) for value in one.values()),
    }


def _opened(job: Job, ranks: Ranks) -> tuple[Train, Any, Any]:
    """The configuration, the task and the data, as jobs/train.py opens them."""
    root = job.root
    config = load(
        "train",
        [
            "editor=ip2p", f"editor.weights={root / _BASE}", f"editor.resolution={job.size.side}",
            f"editor.trainable={job.trainable}", f"pairs={root / _PAIRS}", "cache.mode=on",
            f"cache.folder={root / job.cache}", f"paths.runs={root / 'runs'}",
            f"paths.private={root / f'private-{job.rank}'}", "trainer.accelerator=cpu",
            f"trainer.batch_size={job.batch}", f"trainer.devices={job.world}",
            f"trainer.max_steps={job.warmup + job.steps + 1}", "trainer.checkpoint_every=1000000",
            f"trainer.learning_rate={_RATE}",
            f"trainer.gradient_check={str(job.gradient_check).lower()}",
        ],
    )  # fmt: skip
    assert isinstance(config, Train)
    recipe = build(config.task, "task", Recipe)  # type: ignore[type-abstract]
    assert isinstance(recipe, editor_recipe.EditorRecipe)
    config = checked_scale(config, recipe)
    inputs = recipe.inputs(config, partial(find_input, config))
    data = recipe.data(config, inputs)
    data.drop_unusable(root / f"unusable-{job.rank}.json")
    opened = recipe.open(config, inputs, data, ranks)
    return config, opened.task, opened.data


def _batches(job: Job) -> Iterator[list[int]]:
    """Rows of every step: permutations, one after another."""
    left: list[int] = []
    for _ in range(job.warmup + job.steps):
        while len(left) < job.batch:
            left += torch.randperm(job.pairs).tolist()
        yield left[: job.batch]
        left = left[job.batch :]


def _pixels(pixels: Any, rows: list[int]) -> Tensor:
    """(B, 3, R, R) float32 in [-1, 1]."""
    return torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1.0
