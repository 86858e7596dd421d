"""Decoding that can only spell what a JSON Schema allows, through xgrammar."""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unsafe2safe.backends.string_bounds import (
    OpenString,
    bound_of,
    characters_before_quote,
    counted_here,
    is_free_string,
)
from unsafe2safe.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("unsafe2safe")

# Written out, not as escapes: xgrammar's expressions know no escapes above U+FFFF.
_PRINTABLE = "[ !#-\\[\\]-~\u00a0-\ud7ff\ue000-\U0010ffff]"


class Grammars:
    """Compiled schemas of one tokenizer, compiled once each.

    Free whitespace is not in the grammar: a weak model would write spaces to the token limit.
    """

    def __init__(self, tokenizer: Any, vocabulary_size: int, end_tokens: Sequence[int]) -> None:
        """``vocabulary_size`` is the width of the model's logits, padding included."""
        import torch
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=vocabulary_size, stop_token_ids=list(end_tokens)
        )
        self.vocabulary_size = vocabulary_size
        self.spelled: list[bytes] = info.decoded_vocab
        self.characters = torch.tensor([characters_before_quote(word) for word in self.spelled])
        self.longest = int(self.characters.max())
        self._compiler = xgrammar.GrammarCompiler(info)
        self._compiled: dict[str, tuple[Any, dict[str, int]]] = {}

    def compiled(self, schema: Mapping[str, Any]) -> tuple[Any, dict[str, int]]:
        """The grammar of ``schema`` and the bounds to count beside it, by property.

        Properties are written in the order in which the schema names them.
        """
        text = json.dumps(schema)
        if text not in self._compiled:
            bounds = counted_here(schema)
            printable = json.dumps(with_printable_strings(schema, bounds))
            grammar = self._compiler.compile_json_schema(printable, any_whitespace=False)
            self._compiled[text] = grammar, bounds
        return self._compiled[text]

    def processor(self, schemas: Sequence[Mapping[str, Any]]) -> SchemaDecoding:
        """A logits processor for one ``generate`` call over ``len(schemas)`` sequences."""
        return SchemaDecoding(self, schemas)


class SchemaDecoding:
    """Leaves of each sequence's scores only what its schema lets follow.

    For one ``generate`` call: it follows what is written token by token. In place of
    ``xgrammar.contrib.hf.LogitsProcessor`` since that one fills the masks of a batch one after the
    other, reads tokens back from the device one by one, and lets the grammar count characters.
    """

    def __init__(self, grammars: Grammars, schemas: Sequence[Mapping[str, Any]]) -> None:
        import xgrammar

        compiled = [grammars.compiled(schema) for schema in schemas]
        self._grammars = grammars
        self._matchers = [xgrammar.GrammarMatcher(grammar) for grammar, _ in compiled]
        self._strings = [OpenString(bounds) for _, bounds in compiled]
        self._filler = xgrammar.BatchGrammarMatcher()
        self._mask = xgrammar.allocate_token_bitmask(len(compiled), grammars.vocabulary_size)
        self._started = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) -> (B, V) with -inf where the schema forbids the token.

        Raises:
            ValueError: a token was taken that the schema forbids (scores that are not numbers).
        """
        import xgrammar

        if self._started:
            self._accept(input_ids[:, -1].tolist())
        self._started = True
        going = [row for row, matcher in enumerate(self._matchers) if not matcher.is_terminated()]
        self._filler.batch_fill_next_token_bitmask(
            [self._matchers[row] for row in going], self._mask, going
        )
        xgrammar.apply_token_bitmask_inplace(scores, self._mask.to(scores.device))
        self._keep_bounds(scores, going)
        return scores

    def _accept(self, tokens: Sequence[int]) -> None:
        rows = zip(tokens, self._matchers, self._strings, strict=True)
        for token, matcher, string in rows:
            if matcher.is_terminated():
                continue
            if not matcher.accept_token(token):
                raise ValueError("a token outside of the schema")
            string.read(self._grammars.spelled[token])

    def _keep_bounds(self, scores: Tensor, rows: Sequence[int]) -> None:
        for row in rows:
            room = self._strings[row].room()
            if room is not None and room < self._grammars.longest:
                too_long = (self._grammars.characters > room).to(scores.device)
                scores[row].masked_fill_(too_long, float("-inf"))


def with_printable_strings(schema: Any, counted: Container[str] = ()) -> Any:
    """``schema`` with its free strings held to characters that any JSON reader takes.

    The grammar that xgrammar makes of a length bound lets raw control characters and bytes that
    are no UTF-8 pass, and without a bound it lets escaped half characters pass. The upper bounds
    of the properties in ``counted`` are left out.
    """
    if isinstance(schema, list):
        return [with_printable_strings(part, counted) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if is_free_string(schema):
        kept = {key: part for key, part in schema.items() if key not in ("minLength", "maxLength")}
        return {**kept, "pattern": f"^{_characters(schema)}$"}
    changed = {key: with_printable_strings(part, counted) for key, part in schema.items()}
    properties = schema.get("properties")
    for name, value in properties.items() if isinstance(properties, dict) else ():
        if name in counted and bound_of(value):
            changed["properties"][name] = with_printable_strings(_without_bound(value))
    return changed


def _characters(schema: Mapping[str, Any]) -> str:
    least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
    if most is not None:
        return f"{_PRINTABLE}{{{least},{most}}}"
    # Written out: a repetition {1,} costs three times the time per token.
    return _PRINTABLE * least + f"{_PRINTABLE}*"


def _without_bound(value: Mapping[str, Any]) -> dict[str, Any]:
    if value.get("type") == "array":
        return {**value, "items": _without_bound(value["items"])}
    return {key: part for key, part in value.items() if key != "maxLength"}


def grammars(tokenizer: Any, vocabulary_size: int, end_tokens: Sequence[int]) -> Grammars | None:
    """The grammars of a tokenizer; None, said once per model, when answers will be free text.

    Raises:
        UsageError: the model has no end token, so that no answer could ever end.
    """
    if not end_tokens:
        raise UsageError(
            "the model names no end token (eos_token_id in generation_config.json), "
            "so its answers could not end; choose a chat model"
        )
    try:
        return Grammars(tokenizer, vocabulary_size, end_tokens)
    except ImportError:
        log.warning(
            "xgrammar is not installed: answers are free text and are parsed with care, "
            "what cannot be parsed needs review (pip install 'unsafe2safe[vlm]')"
        )
    except Exception as error:  # a tokenizer that the library does not know
        log.warning(
            "xgrammar cannot read the tokenizer %s (%s): answers are free text",
            type(tokenizer).__name__,
            type(error).__name__,
        )
    return None
