"""What the local vision-language and language models share: loading, batching, decoding.

Batches never change what is drawn: greedy by default, and with a temperature each token is drawn
with one number that depends on the request's seed and the position alone. (Floating point differs
a little between batch sizes, so equal *bytes* are promised for equal batches only.)
"""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

from pydantic import Field

from unsafe2safe.backends.base import ChatAnswer, ChatModel, ChatRequest
from unsafe2safe.backends.constrained import Grammars, grammars
from unsafe2safe.backends.transformers_loading import load_weights
from unsafe2safe.core.config.components import component

log = logging.getLogger("unsafe2safe")

Numbered: TypeAlias = "list[tuple[int, ChatRequest]]"
Message: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A model in memory. ``processor`` holds the chat template; an LLM's is its tokenizer."""

    model: Any
    processor: Any
    tokenizer: Any
    end_tokens: tuple[int, ...]
    silenced: tuple[int, ...]
    grammars: Grammars | None
    takes_system: bool


@component
class TransformersChat(ChatModel):
    """A chat model of the transformers library, from a hub id or a local folder."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Type of the weights; auto: as they were saved."
    )
    device: str = Field(
        default="cpu",
        description="Torch device: cpu, cuda, cuda:1; auto spreads the model over what there is.",
    )
    attn_implementation: str = Field(
        default="",
        description="Attention: sdpa, eager, flash_attention_2; empty: the library's choice.",
    )
    quantization: Literal["none", "int8", "nf4"] = Field(
        default="none", description="Weights in 8 or 4 bits, through bitsandbytes."
    )
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that comes with the model."
    )
    temperature: float = Field(
        default=0.0, ge=0.0, description="0: greedy; else sampled, seeded per request."
    )
    template_options: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        description="Variables of the chat template, such as enable_thinking: false.",
    )

    def answer(self, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """One answer per request, in order; see :meth:`ChatModel.answer`.

        Requests with and without an image, with and without a schema, and of different lengths
        are answered in batches of their own. A failing batch (memory, a broken image) is halved
        until what fails stands alone. The smaller size is not kept for the next batch: what a
        request is batched with depends on the requests alone.
        """
        answers: dict[int, ChatAnswer] = {}
        for batch in self._batches(requests):
            answers.update(self._answer_or_halve(batch))
        return [answers[index] for index in range(len(requests))]

    def _batches(self, requests: Sequence[ChatRequest]) -> Iterator[Numbered]:
        groups: dict[tuple[bool, bool, int], Numbered] = {}
        for index, request in enumerate(requests):
            kind = (request.image is None, request.schema is None, request.max_new_tokens)
            groups.setdefault(kind, []).append((index, request))
        for group in groups.values():
            for start in range(0, len(group), self.batch_size):
                yield group[start : start + self.batch_size]

    def _answer_or_halve(self, batch: Numbered) -> dict[int, ChatAnswer]:
        loaded = self._loaded  # outside of the try: a model that cannot load is no failing request
        try:
            texts = self._generate(loaded, [request for _, request in batch])
            return {index: answer for (index, _), answer in zip(batch, texts, strict=True)}
        except Exception as error:  # whatever it is, it stays with its request
            reason = type(error).__name__
        # Here the exception, and the tensors that its trace holds, are gone.
        if reason == "OutOfMemoryError":
            _release_memory()
        if len(batch) == 1:
            return {batch[0][0]: ChatAnswer(text="", finished=False, error=reason)}
        if reason == "OutOfMemoryError":
            log.warning(
                "%s: a batch of %d does not fit into memory and is halved; lower batch_size",
                self.name,
                len(batch),
            )
        middle = len(batch) // 2
        return self._answer_or_halve(batch[:middle]) | self._answer_or_halve(batch[middle:])

    def _generate(self, loaded: Loaded, requests: Sequence[ChatRequest]) -> list[ChatAnswer]:
        """Answers of requests of one kind, in one call of the model."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList
        from transformers.generation.logits_process import SuppressTokensLogitsProcessor

        from unsafe2safe.backends.transformers_sampling import SeededSampling

        constrained = loaded.grammars is not None and requests[0].schema is not None
        processors = LogitsProcessorList()
        if loaded.silenced:
            suppress = SuppressTokensLogitsProcessor(list(loaded.silenced), loaded.model.device)
            processors.append(suppress)
        if constrained and loaded.grammars is not None:
            schemas = [request.schema or {} for request in requests]
            processors.append(loaded.grammars.processor(schemas))
        if self.temperature > 0:
            seeds = [request.seed for request in requests]
            processors.append(SeededSampling(seeds, self.temperature))

        inputs = self._encode(loaded, requests).to(loaded.model.device)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(loaded.model.dtype)
        settings = GenerationConfig(
            max_new_tokens=requests[0].max_new_tokens,
            do_sample=False,
            eos_token_id=list(loaded.end_tokens),
            pad_token_id=_pad_token(loaded),
        )
        with torch.inference_mode():
            sequences = loaded.model.generate(
                **inputs, generation_config=settings, logits_processor=processors
            )
        written = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._read(loaded, tokens, constrained) for tokens in written]

    @staticmethod
    def _read(loaded: Loaded, tokens: list[int], constrained: bool) -> ChatAnswer:
        end = next((at for at, token in enumerate(tokens) if token in loaded.end_tokens), None)
        text = loaded.tokenizer.decode(
            tokens[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return ChatAnswer(text=text, finished=end is not None, constrained=constrained)

    def _encode(self, loaded: Loaded, requests: Sequence[ChatRequest]) -> Any:
        """Tensors of a left-padded batch."""
        return loaded.processor.apply_chat_template(
            [self._conversation(loaded, request) for request in requests],
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_tensors="pt",
            **self._encoding_options(),
            **self.template_options,
        )

    def _conversation(self, loaded: Loaded, request: ChatRequest) -> list[Message]:
        """The request as turns. Its words cannot speak as the template: see :func:`plain`."""
        special = _special_tokens(loaded)
        questions = [question for question, _ in request.history] + [request.prompt]
        system = plain(request.system, special)
        if system and not loaded.takes_system:
            questions[0] = f"{request.system}\n\n{questions[0]}"
        turns: list[Message] = []
        if system and loaded.takes_system:
            turns.append({"role": "system", "content": self._content(system, None)})
        for number, question in enumerate(questions):
            image = self._image(request) if number == 0 else None
            content = self._content(plain(question, special), image)
            turns.append({"role": "user", "content": content})
            if number < len(request.history):
                said = plain(request.history[number][1], special)
                turns.append({"role": "assistant", "content": self._content(said, None)})
        return turns

    @cached_property
    def _loaded(self) -> Loaded:
        where = f", revision {self.revision}" if self.revision else ""
        log.info("loading %s (%s%s) on %s", self.name, self.model, where, self.device)
        model = load_weights(
            self._model_class(),
            self.model,
            revision=self.revision,
            dtype=self.dtype,
            device=self.device,
            attn_implementation=self.attn_implementation,
            quantization=self.quantization,
            trust_remote_code=self.trust_remote_code,
        )
        processor = self._load_processor()
        tokenizer = getattr(processor, "tokenizer", processor)
        tokenizer.padding_side = "left"
        end_tokens = _end_tokens(model, tokenizer)
        special = [
            index
            for index, token in tokenizer.added_tokens_decoder.items()
            if token.special and index not in end_tokens
        ]
        width = model.config.get_text_config().vocab_size
        loaded = Loaded(
            model=model,
            processor=processor,
            tokenizer=tokenizer,
            end_tokens=end_tokens,
            # Image and turn tokens look like letters to a grammar, and are dropped on reading.
            silenced=tuple(index for index in special if index < width),
            grammars=grammars(tokenizer, width, end_tokens),
            takes_system=self._takes_system(processor),
        )
        log.info("loaded %s", self.name)
        return loaded

    def _takes_system(self, processor: Any) -> bool:
        """False when the chat template refuses or drops a system turn."""
        mark = "mark of a system turn"
        turns = [
            {"role": "system", "content": self._content(mark, None)},
            {"role": "user", "content": self._content("-", None)},
        ]
        try:
            return mark in processor.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **self.template_options
            )
        except Exception:  # jinja raises what the template's author wrote
            return False

    @abstractmethod
    def _model_class(self) -> Any:
        """The Auto class that builds the model."""

    @abstractmethod
    def _load_processor(self) -> Any:
        """What holds the chat template: a processor or a tokenizer."""

    @abstractmethod
    def _encoding_options(self) -> Mapping[str, Any]:
        """Arguments of ``apply_chat_template`` that differ between processors and tokenizers."""

    @abstractmethod
    def _content(self, text: str, image: Any) -> Any:
        """The content of one turn."""

    @abstractmethod
    def _image(self, request: ChatRequest) -> Any:
        """The image to show in the first turn, or None."""


def plain(text: str, special: Sequence[str]) -> str:
    """``text`` with every special token broken by a space, so that words read in a picture or
    written by a user cannot end a turn or stand for an image."""
    if not special:
        return text
    either = "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True))
    return re.sub(either, lambda found: f"{found[0][:1]} {found[0][1:]}", text)


def _special_tokens(loaded: Loaded) -> list[str]:
    names = [
        token.content for token in loaded.tokenizer.added_tokens_decoder.values() if token.special
    ]
    for holder in (loaded.processor, loaded.tokenizer):
        for name in ("image_token", "video_token", "audio_token"):
            value = getattr(holder, name, None)
            if isinstance(value, str):
                names.append(value)
    return [name for name in dict.fromkeys(names) if len(name) > 1]


def _end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    stated = model.generation_config.eos_token_id
    found = stated if isinstance(stated, list) else [stated]
    return tuple(sorted({token for token in [*found, tokenizer.eos_token_id] if token is not None}))


def _pad_token(loaded: Loaded) -> int:
    pad = loaded.tokenizer.pad_token_id
    return loaded.end_tokens[0] if pad is None else int(pad)


def _release_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
