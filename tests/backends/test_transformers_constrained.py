"""What decoding may write: any JSON the schema allows, within its bounds, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from backends import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from unsafe2safe.backends.constrained import Grammars, grammars, with_printable_strings
from unsafe2safe.backends.string_bounds import OpenString, characters_before_quote, counted_here
from unsafe2safe.core.errors import UsageError


def text(most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": most}


SCHEMA = {
    "type": "object",
    "properties": {
        "review": {
            "type": "array",
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {"what": text(40), "kind": {"type": "string", "enum": ["a b", "c"]}},
                "required": ["what", "kind"],
            },
        },
        "changes": {"type": "array", "minItems": 2, "maxItems": 2, "items": text(33)},
        "caption": text(50),
        "short": text(3),
    },
    "required": ["review", "changes", "caption", "short"],
}


@pytest.fixture(scope="module")
def compiled() -> Grammars:
    tokenizer = tiny_models.tokenizer()
    return Grammars(tokenizer, tiny_models.VOCABULARY, [tokenizer.eos_token_id])


def write(compiled: Grammars, schema: Any, seed: int, likely: str = "") -> str:
    """An answer by random scores; tokens that spell only letters of ``likely`` are preferred."""
    end = tiny_models.tokenizer().eos_token_id
    processor = compiled.processor([schema, schema])
    draw = torch.Generator().manual_seed(seed)
    liked = torch.tensor([bool(w) and set(w) <= set(likely.encode()) for w in compiled.spelled])
    special = torch.tensor([w.startswith(b"<") and len(w) > 1 for w in compiled.spelled])
    special[end] = False
    tokens = torch.zeros((2, 1), dtype=torch.long)
    for _ in range(600):
        scores = torch.randn((2, tiny_models.VOCABULARY), generator=draw) + 9.0 * liked
        scores[:, special] = float("-inf")
        picked = processor(tokens, scores).argmax(dim=-1, keepdim=True)
        tokens = torch.cat([tokens, picked], dim=1)
        if int(picked[0]) == end:
            break
    written = tokens[0, 1:].tolist()
    assert written[-1] == end, "the answer did not end"
    return b"".join(compiled.spelled[token] for token in written[:-1]).decode("utf-8")


@pytest.mark.parametrize("likely", ["", "the and", "é", '"', "\t\n\x01\\"])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_scores_the_answer_fits_the_schema(compiled, likely, seed):
    answer = json.loads(write(compiled, SCHEMA, seed, likely))
    assert list(answer) == list(SCHEMA["properties"])
    for item in answer["review"]:
        assert 1 <= len(item["what"]) <= 40
        assert item["kind"] in ("a b", "c")
    assert all(1 <= len(change) <= 33 for change in answer["changes"])
    assert 1 <= len(answer["caption"]) <= 50
    assert 1 <= len(answer["short"]) <= 3
    if likely == "the and":
        assert len(answer["caption"]) == 50, "a bound is reached, not only kept"


def test_long_bounds_are_counted_beside_the_grammar(compiled):
    assert counted_here(SCHEMA) == {"what": 40, "changes": 33, "caption": 50}
    assert compiled.compiled(SCHEMA) is compiled.compiled(json.loads(json.dumps(SCHEMA)))
    left = json.dumps(with_printable_strings(SCHEMA, counted_here(SCHEMA)))
    assert "maxLength" not in left
    assert left.count("*$") == 3
    assert left.count("{1,3}") == 1


def test_a_name_with_two_bounds_is_left_to_the_grammar(compiled):
    inner = {"type": "object", "properties": {"caption": text(60)}, "required": ["caption"]}
    schema = {
        "type": "object",
        "properties": {"caption": text(40), "inner": inner},
        "required": ["caption", "inner"],
    }
    assert counted_here(schema) == {}
    answer = json.loads(write(compiled, schema, 1, "the and"))
    assert len(answer["caption"]) == 40
    assert len(answer["inner"]["caption"]) == 60


def test_scores_that_are_no_numbers_are_an_error(compiled):
    processor = compiled.processor([SCHEMA])
    start = torch.zeros((1, 1), dtype=torch.long)
    processor(start, torch.full((1, tiny_models.VOCABULARY), float("nan")))
    with pytest.raises(ValueError):
        processor(start, torch.zeros((1, tiny_models.VOCABULARY)))


def test_a_model_without_an_end_is_refused():
    with pytest.raises(UsageError, match="end token"):
        grammars(tiny_models.tokenizer(), tiny_models.VOCABULARY, ())


JSON = st.recursive(
    st.text(max_size=8) | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(value=st.text(max_size=20), before=JSON, cut=st.integers(0, 60))
def test_the_room_of_an_open_string_is_what_is_left_of_its_bound(value, before, cut):
    escaped = value.translate({ord('"'): "'", ord("\\"): "/"})
    whole = json.dumps({"x": before, "caption": escaped}, ensure_ascii=False)
    start = whole.rindex('"caption": "') + len('"caption": "')
    end = min(start + cut, len(whole) - 2)
    reader = OpenString({"caption": 50})
    reader.read(whole[:end].encode("utf-8", "surrogatepass"))
    assert reader.room() == 50 - (end - start)
    reader.read(whole[end:].encode("utf-8", "surrogatepass"))
    assert reader.room() is None


def test_a_token_counts_up_to_its_quote():
    assert [characters_before_quote(word) for word in (b"the", b'a", "b', b'"', b"\xa9", b"")] == [
        3, 1, 0, 0, 0,
    ]  # fmt: skip
    assert characters_before_quote("né".encode()) == 2
