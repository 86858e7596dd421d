"""Texts that many images share are embedded once, and nobody's edit depends on who came before."""

import numpy as np
import pytest
import torch

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import load
from unsafe2safe.editors.base import Editor, EditRequest
from unsafe2safe.editors.text_embedding import TextEmbedding
from unsafe2safe.editors.text_memory import TextMemory, embed_each, remembering_texts


def embedding(texts):
    return TextEmbedding(torch.tensor([[[float(len(text))]] for text in texts]))


def test_each_text_is_embedded_once_and_alone():
    asked = []

    def embed(texts):
        asked.append(list(texts))
        return embedding(texts)

    owner = object()
    with remembering_texts() as memory:
        first = embed_each(owner, ["a", "bb", "a"], embed)
        second = embed_each(owner, ["bb", "ccc"], embed)
    assert asked == [["a"], ["bb"], ["ccc"]]
    assert memory.computed == 3
    assert first.tokens.flatten().tolist() == [1, 2, 1]
    assert second.tokens.flatten().tolist() == [2, 3]


def test_owner_and_settings_tell_texts_apart():
    with remembering_texts() as memory:
        one, other = object(), object()
        for owner, settings in ((one, 1), (other, 1), (one, 2), (one, 1)):
            embed_each(owner, ["a"], embedding, settings)
    assert memory.computed == 3


def test_outside_of_the_block_nothing_is_kept():
    asked = []

    def embed(texts):
        asked.append(list(texts))
        return embedding(texts)

    for _ in range(2):
        embed_each(None, ["a", "bb"], embed)
    assert asked == [["a", "bb"], ["a", "bb"]]


def test_what_was_used_least_lately_is_forgotten_first():
    memory = TextMemory(most_bytes=2 * 4)  # two of these embeddings
    with remembering_texts(memory):
        for text in ("a", "bb", "a", "ccc", "a", "bb"):
            embed_each(None, [text], embedding)
    assert memory.computed == 4  # bb was made again


@pytest.fixture(scope="module")
def editor():
    config = load("anonymize", ["editor=tiny"])
    made = build({**config.editor, "adapter": None}, "editor", Editor)
    return made.with_settings(steps=2)


def request(seed, instruction):
    image = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.float32)
    return EditRequest(image, mask, (), "A photo.", instruction, seed)


def test_an_edit_is_the_same_whatever_texts_came_before(editor):
    requests = [request(1, "Change the hair."), request(2, "Change the coat.")]
    with remembering_texts() as memory:
        fresh = editor.edit(requests)
    texts = memory.computed
    with remembering_texts() as memory:
        editor.edit([request(3, "Change the coat."), request(4, "Replace all text.")])
        known = editor.edit(requests)
        repeated = editor.edit(requests)
    assert memory.computed <= texts + 1  # only the third instruction is new
    for one, two, three in zip(fresh, known, repeated, strict=True):
        assert np.array_equal(one, two)
        assert np.array_equal(one, three)
