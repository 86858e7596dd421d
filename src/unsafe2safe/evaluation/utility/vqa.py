"""Visual question answering: LoRA on a Qwen-VL, trained on each row's images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from typing_extensions import override

from unsafe2safe.backends.transformers_loading import load_weights
from unsafe2safe.core.config.components import component
from unsafe2safe.core.devices import checked_device
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.pretrained import load
from unsafe2safe.evaluation.utility.base import (
    Bench,
    Item,
    UtilityTask,
    missing_weights,
    shown,
    without_paths,
)
from unsafe2safe.evaluation.utility.examples import ORIGINAL, TEST, Example
from unsafe2safe.evaluation.utility.loops import autocast, seeded, train
from unsafe2safe.evaluation.utility.okvqa import (
    Question,
    normalized,
    number_of,
    official_accuracy,
    okvqa_accuracy,
    read_questions,
)
from unsafe2safe.metrics.base import Direction
from unsafe2safe.vision.arrays import RgbImage, bounded

if TYPE_CHECKING:
    import torch

_IGNORED = -100
_ASK = "{question} Answer with a word or a short phrase."


@component
class Vqa(UtilityTask):
    """OK-VQA accuracy of a Qwen-VL with LoRA on real images."""

    title: ClassVar[str] = "Visual question answering"
    directions: ClassVar[Mapping[str, Direction]] = {"okvqa": "up", "vqa_official": "up"}

    questions: Path | None = Field(
        default=None, description="JSON file of questions in OK-VQA's format."
    )
    annotations: Path | None = Field(
        default=None, description="JSON file of answers in OK-VQA's format."
    )
    test_questions: Path | None = Field(
        default=None, description="Questions about the images of `utility.test`, with it."
    )
    test_annotations: Path | None = Field(
        default=None, description="Answers about the images of `utility.test`, with it."
    )
    model: str = Field(
        default="Qwen/Qwen3-VL-2B-Instruct", description="Hub id or folder of a Qwen-VL."
    )
    revision: str = Field(default="", description="Revision of the hub's model.")
    quantization: Literal["auto", "nf4", "none"] = Field(
        default="auto", description="Base in four bits; `auto`: on CUDA, where it can be had."
    )
    rank: PositiveInt = Field(default=8, description="Rank of the LoRA.")
    alpha: PositiveFloat = Field(default=16.0, description="Scale of the LoRA times its rank.")
    targets: tuple[str, ...] = Field(
        default=("q_proj", "v_proj"), description="Layers that the LoRA changes."
    )
    epochs: PositiveInt = Field(default=3, description="Passes over the questions.")
    batch_size: PositiveInt = Field(default=4, description="Questions of a batch.")
    accumulation: PositiveInt = Field(default=32, description="Batches of a step.")
    learning_rate: PositiveFloat = Field(default=2e-4, description="Highest learning rate.")
    warmup_share: float = Field(default=0.03, ge=0, lt=1, description="Share of warm-up steps.")
    weight_decay: NonNegativeFloat = Field(default=0.0, description="Of AdamW.")
    max_new_tokens: PositiveInt = Field(default=10, description="Longest answer, in tokens.")
    image_long_side: PositiveInt = Field(
        default=672, description="Larger images are scaled down to this longest side."
    )
    device: str = Field(default="cpu", description="cpu, cuda or cuda:1.")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="Arithmetic of the forward pass, and of a base in four bits."
    )

    @property
    @override
    def definition(self) -> str:
        return (
            f"LoRA (rank {self.rank}, alpha {self.alpha:g}, on {', '.join(self.targets)}) for "
            f"{self.epochs} epochs, batch {self.batch_size} x {self.accumulation}, learning rate "
            f"{self.learning_rate:g}; greedy answers. okvqa is min(people who say the same / 3, "
            "1), vqa_official its mean over leaving each of the people out, both after VQA's own "
            "normalisation of answers."
        )

    @property
    @override
    def model_name(self) -> str:
        return shown(self.model)

    @override
    def unavailable(self, bench: Bench) -> str:
        files = [self.questions, self.annotations]
        names = "utility.vqa.questions and utility.vqa.annotations"
        if not bench.same_source:
            files += [self.test_questions, self.test_annotations]
            names += ", test_questions and test_annotations (with utility.test)"
        if None in files:
            return f"no questions: give {names} (JSON files of OK-VQA)"
        try:
            self._asked(ORIGINAL), self._asked(TEST)
        except UsageError as error:
            return without_paths(error, self.model)
        return missing_weights(self.model, self.revision)

    @cached_property
    def _train_questions(self) -> dict[int, list[Question]]:
        assert self.questions is not None
        assert self.annotations is not None
        return read_questions(self.questions, self.annotations)

    @cached_property
    def _test_questions(self) -> dict[int, list[Question]]:
        if self.test_questions is None or self.test_annotations is None:
            return self._train_questions
        return read_questions(self.test_questions, self.test_annotations)

    def _asked(self, row: str) -> Mapping[int, list[Question]]:
        return self._test_questions if row == TEST else self._train_questions

    def _of(self, example: Example) -> list[Question]:
        number = number_of(example.image_id)
        return [] if number is None else self._asked(example.row).get(number, [])

    @override
    def usable(self, example: Example, bench: Bench) -> bool:
        return bool(self._of(example))

    @override
    def measure(
        self, train: Sequence[Example], test: Sequence[Example], seed: int, bench: Bench
    ) -> list[Item]:
        with seeded(bench.draw(seed, "vqa")):
            answerer = self._load()
            self._train(answerer, train, bench.draw(seed, "order"))
            items: list[Item] = []
            for example in test:
                image, questions = example.read(), self._of(example)
                told = [
                    answerer.answer(image, question.text, self.max_new_tokens)
                    for question in questions
                ]
                pairs = list(zip(told, questions, strict=True))
                items.append(
                    [
                        len(pairs),
                        sum(okvqa_accuracy(said, asked.answers) for said, asked in pairs),
                        sum(official_accuracy(said, asked.answers) for said, asked in pairs),
                    ]
                )
        return items

    def _load(self) -> _Answerer:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForImageTextToText, AutoProcessor

        device = checked_device(self.device, "utility.vqa.device")
        four_bits = self.quantization == "nf4" or (
            self.quantization == "auto" and device.type == "cuda" and _can_quantize()
        )
        dtype = "bfloat16" if self.precision == "bf16" else "float32"
        model = load_weights(
            AutoModelForImageTextToText,
            self.model,
            revision=self.revision,
            dtype=dtype,
            device=self.device,
            attn_implementation="",
            quantization="nf4" if four_bits else "none",
            trust_remote_code=False,
        )
        processor = load(
            AutoProcessor.from_pretrained,
            self.model,
            revision=self.revision,
            trust_remote_code=False,
        )
        settings = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=list(self.targets),
            lora_dropout=0.0,
            bias="none",
        )
        adapted = get_peft_model(model, settings, autocast_adapter_dtype=True)
        return _Answerer(adapted, processor, self.image_long_side)

    def _train(self, answerer: _Answerer, examples: Sequence[Example], seed: int) -> None:
        asked = [(example, question) for example in examples for question in self._of(example)]

        def loss_of(_: int, indices: list[int]) -> torch.Tensor:
            import torch

            some = [asked[index] for index in indices]
            with autocast(self.device, self.precision):
                losses = [answerer.loss(e.read(), q.text, normalized(q.likeliest)) for e, q in some]
            return torch.stack(losses).mean()

        answerer.model.train()
        parameters = [p for p in answerer.model.parameters() if p.requires_grad]
        train(
            [{"params": parameters, "lr": self.learning_rate}],
            loss_of,
            self,
            count=len(asked),
            seed=seed,
        )
        answerer.model.eval()

    @override
    def pack(self, items: Sequence[Item]) -> NDArray[np.float64]:
        return np.array(items, np.float64)

    @override
    def figures(self, packed: Any, chosen: Any) -> dict[str, float]:
        asked, simple, official = packed[chosen].sum(axis=0)
        return {"okvqa": float(simple / asked), "vqa_official": float(official / asked)}


def _can_quantize() -> bool:
    import importlib.util

    return importlib.util.find_spec("bitsandbytes") is not None


class _Answerer:
    """A vision-language model that is asked one question at a time: an image may have any size.

    What it is told is the question alone, never a label or a caption.
    """

    def __init__(self, model: Any, processor: Any, long_side: int) -> None:
        self.model, self._processor, self._long_side = model, processor, long_side

    def _inputs(self, image: RgbImage, question: str) -> Any:
        picture = Image.fromarray(bounded(image, self._long_side))
        content = [
            {"type": "image", "image": picture},
            {"type": "text", "text": _ASK.format(question=question)},
        ]
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device)

    def loss(self, image: RgbImage, question: str, answer: str) -> torch.Tensor:
        """Mean loss of the answer's tokens and of the end of the turn."""
        import torch

        inputs = self._inputs(image, question)
        tokens = self._processor.tokenizer
        ids = tokens(answer, add_special_tokens=False).input_ids
        said = torch.tensor([[*ids, tokens.eos_token_id]], device=self.model.device)
        asked = inputs["input_ids"]
        inputs["input_ids"] = torch.cat([asked, said], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "mm_token_type_ids" in inputs:  # which tokens are an image's
            kinds = inputs["mm_token_type_ids"]
            inputs["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(said)], dim=1)
        labels = torch.cat([torch.full_like(asked, _IGNORED), said], dim=1)
        found: torch.Tensor = self.model(**inputs, labels=labels).loss
        return found

    def answer(self, image: RgbImage, question: str, most: int) -> str:
        """What the model answers, greedily."""
        import torch

        inputs = self._inputs(image, question)
        with torch.inference_mode():
            told = self.model.generate(**inputs, max_new_tokens=most, do_sample=False)
        new = told[:, inputs["input_ids"].shape[1] :]
        return str(self._processor.batch_decode(new, skip_special_tokens=True)[0]).strip()
