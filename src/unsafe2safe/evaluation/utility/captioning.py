"""Captioning: BLIP-2 fine-tuned on each row's images and the data set's captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from typing_extensions import override

from unsafe2safe.core.config.components import component
from unsafe2safe.core.devices import checked_device
from unsafe2safe.core.pretrained import load
from unsafe2safe.evaluation.utility.base import Bench, Item, UtilityTask, missing_weights, shown
from unsafe2safe.evaluation.utility.caption_scores import (
    caption_figures,
    caption_items,
    missing_library,
)
from unsafe2safe.evaluation.utility.examples import Example
from unsafe2safe.evaluation.utility.loops import autocast, seeded, train
from unsafe2safe.metrics.base import Direction

if TYPE_CHECKING:
    import torch

_IGNORED = -100  # of a loss: what a model is not asked to say


@component
class Captioning(UtilityTask):
    """BLEU-4 and CIDEr of a fine-tuned BLIP-2 on real images."""

    title: ClassVar[str] = "Captioning"
    directions: ClassVar[Mapping[str, Direction]] = {"bleu4": "up", "cider": "up"}

    model: str = Field(
        default="Salesforce/blip2-opt-2.7b", description="Hub id or folder of a BLIP-2."
    )
    revision: str = Field(default="", description="Revision of the hub's model.")
    captions: Literal["dataset", "public"] = Field(
        default="dataset",
        description="What is learned and tested: the data set's own captions, or Stage 1's public "
        "ones, which scenes have too.",
    )
    trainable: Literal["qformer", "all"] = Field(
        default="qformer",
        description="`qformer`: the queries, the Q-Former and its projection; `all`: everything.",
    )
    epochs: PositiveInt = Field(default=5, description="Passes over the images.")
    batch_size: PositiveInt = Field(default=16, description="Images of a batch.")
    accumulation: PositiveInt = Field(default=4, description="Batches of a step.")
    learning_rate: PositiveFloat = Field(default=1e-5, description="Highest learning rate.")
    warmup_share: float = Field(default=0.05, ge=0, lt=1, description="Share of warm-up steps.")
    weight_decay: NonNegativeFloat = Field(default=0.05, description="Of AdamW.")
    beams: PositiveInt = Field(default=5, description="Beams of the search for a caption.")
    max_new_tokens: PositiveInt = Field(default=30, description="Longest caption, in tokens.")
    device: str = Field(default="cpu", description="cpu, cuda or cuda:1.")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="Arithmetic of the forward pass."
    )

    @property
    @override
    def definition(self) -> str:
        whose = "the data set's captions" if self.captions == "dataset" else "public captions"
        return (
            f"BLIP-2 ({self.trainable} trained) for {self.epochs} epochs, batch {self.batch_size} "
            f"x {self.accumulation}, learning rate {self.learning_rate:g}, on {whose}, one drawn "
            f"for each image and epoch; beam search with {self.beams} beams and no prompt. BLEU-4 "
            "and CIDEr by pycocoevalcap's scorers on text tokenized in Python (its tokenizer is "
            "Java)."
        )

    @property
    @override
    def model_name(self) -> str:
        return shown(self.model)

    @override
    def unavailable(self, bench: Bench) -> str:
        return missing_library() or missing_weights(self.model, self.revision)

    @override
    def usable(self, example: Example, bench: Bench) -> bool:
        return bool(self._captions(example))

    def _captions(self, example: Example) -> tuple[str, ...]:
        if self.captions == "dataset":
            return tuple(text for text in example.record.captions if text.strip())
        return tuple(text for text in [example.public_caption()] if text.strip())

    @override
    def measure(
        self, train: Sequence[Example], test: Sequence[Example], seed: int, bench: Bench
    ) -> list[Item]:
        started = bench.draw(seed, "captioning")
        with seeded(started):
            captioner = self._load()
            texts = [self._captions(example) for example in train]
            self._train(captioner, train, texts, seed, bench)
            told = self._tell(captioner, test)
        return [list(item) for item in caption_items(told, [self._captions(e) for e in test])]

    def _load(self) -> _Captioner:
        from transformers import Blip2ForConditionalGeneration, Blip2Processor

        source: dict[str, Any] = {"revision": self.revision, "trust_remote_code": False}
        model = load(Blip2ForConditionalGeneration.from_pretrained, self.model, **source)
        device = checked_device(self.device, "utility.captioning.device")
        processor = load(Blip2Processor.from_pretrained, self.model, **source)
        return _Captioner(model.float().to(device), processor)

    def _train(
        self,
        captioner: _Captioner,
        examples: Sequence[Example],
        texts: Sequence[tuple[str, ...]],
        seed: int,
        bench: Bench,
    ) -> None:
        def loss_of(epoch: int, indices: list[int]) -> torch.Tensor:
            chosen = [
                texts[i][bench.draw(seed, "caption", examples[i].image_id, epoch) % len(texts[i])]
                for i in indices
            ]
            images = [examples[i].read() for i in indices]
            with autocast(self.device, self.precision):
                return captioner.loss(images, chosen)

        parameters = captioner.trainable(self.trainable)
        captioner.model.train()
        train(
            [{"params": parameters, "lr": self.learning_rate}],
            loss_of,
            self,
            count=len(examples),
            seed=bench.draw(seed, "order"),
        )
        captioner.model.eval()

    def _tell(self, captioner: _Captioner, examples: Sequence[Example]) -> list[str]:
        told: list[str] = []
        for start in range(0, len(examples), self.batch_size):
            images = [e.read() for e in examples[start : start + self.batch_size]]
            with autocast(self.device, self.precision):
                told += captioner.tell(images, self.beams, self.max_new_tokens)
        return told

    @override
    def pack(self, items: Sequence[Item]) -> NDArray[np.float64]:
        return np.array(items, np.float64)

    @override
    def figures(self, packed: Any, chosen: Any) -> dict[str, float]:
        return dict(caption_figures(packed[chosen]))


class _Captioner:
    """A BLIP-2 with its processor. Its input is the image alone: there is no prompt."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self._processor = model, processor
        self._tokens = processor.tokenizer
        count = model.config.num_query_tokens
        self._start = [model.config.image_token_id] * count
        self._decoder_only = model.config.use_decoder_only_language_model
        if self._decoder_only:  # an encoder-decoder begins by itself
            self._start.append(model.config.text_config.bos_token_id)

    def trainable(self, which: str) -> list[Any]:
        """The parameters to train, with the others frozen."""
        wanted: Callable[[str], bool] = lambda name: (  # noqa: E731
            which == "all" or name.startswith(("query_tokens", "qformer", "language_projection"))
        )
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(wanted(name))
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def loss(self, images: Sequence[Any], captions: Sequence[str]) -> torch.Tensor:
        """Mean loss of the captions' tokens and of the end."""
        encoded = self._tokens(list(captions), add_special_tokens=False).input_ids
        ends = [[*ids, self._tokens.eos_token_id] for ids in encoded]
        if self._decoder_only:
            inputs = [[*self._start, *ids] for ids in ends]
            labels = [[_IGNORED] * len(self._start) + ids for ids in ends]
        else:
            inputs, labels = [self._start for _ in ends], ends
        padded, mask = self._padded(inputs, self._tokens.pad_token_id)
        wanted, _ = self._padded(labels, _IGNORED)
        found: torch.Tensor = self.model(
            pixel_values=self._pixels(images),
            input_ids=padded,
            attention_mask=mask,
            labels=wanted,
        ).loss
        return found

    def tell(self, images: Sequence[Any], beams: int, most: int) -> list[str]:
        """A caption of each image."""
        import torch

        start = torch.tensor([self._start] * len(images), device=self.model.device)
        with torch.inference_mode():
            told = self.model.generate(
                pixel_values=self._pixels(images),
                input_ids=start,
                attention_mask=torch.ones_like(start),
                num_beams=beams,
                max_new_tokens=most,
                do_sample=False,
            )
        if self._decoder_only and torch.equal(told[:, : start.shape[1]].cpu(), start.cpu()):
            told = told[:, start.shape[1] :]
        decoded = self._processor.batch_decode(told, skip_special_tokens=True)
        return [str(text).strip() for text in decoded]

    def _pixels(self, images: Sequence[Any]) -> torch.Tensor:
        found = self._processor.image_processor(list(images), return_tensors="pt").pixel_values
        pixels: torch.Tensor = found.to(self.model.device, self.model.dtype)
        return pixels

    def _padded(self, rows: Sequence[list[int]], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows filled up on the right, and where they are not filled up."""
        import torch

        longest = max(len(row) for row in rows)
        filled = [row + [filler] * (longest - len(row)) for row in rows]
        there = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        device = self.model.device
        return torch.tensor(filled, device=device), torch.tensor(there, device=device)
