"""BLEU-4 and CIDEr by pycocoevalcap's scorers, on text that is tokenized here.

pycocoevalcap's own tokenizer is Stanford's in Java; :func:`tokenize` follows its rules for English
captions in Python. On equally tokenized text the figures are pycocoevalcap's own; a text in which
the two tokenizers differ (rare abbreviations, URLs) may score a little otherwise.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

ORDERS = 4
_TINY, _SMALL = 1e-15, 1e-9  # pycocoevalcap's, so that nothing is divided by zero
# What Stanford's tokenizer cuts off a word: "n't" of "don't", the "'s" of "dog's".
_CLITIC = re.compile(r"(n't|'(?:s|m|d|re|ve|ll))$")
_WORD = re.compile(
    r"\d+(?:[.,:/]\d+)+"  # 3.5, 1,000, 10:30
    r"|(?:[^\W\d_]\.){2,}"  # u.s.
    r"|\w+(?:[-'\u2019]\w+)*"  # well-known, don't
    r"|[^\w\s]"
)
_PUNCTUATION = """'' ' `` ` . ? ! , : - -- ... ; " ( ) [ ] { }"""
_DROPPED = frozenset(_PUNCTUATION.split())


def missing_library() -> str:
    """Why nothing can be scored; "" where it can."""
    if importlib.util.find_spec("pycocoevalcap") is None:
        return "pycocoevalcap is not installed; pip install 'unsafe2safe[captioning]'"
    return ""


def tokenize(text: str) -> str:
    """Lower-case words between single spaces, punctuation left out."""
    words: list[str] = []
    for word in _WORD.findall(text.lower().replace("\u2019", "'").replace("can't", "ca n't")):
        found = _CLITIC.search(word)
        cut = found.start() if found else 0
        words += [word[:cut], word[cut:]] if found and cut else [word]
    return " ".join(word for word in words if word not in _DROPPED)


def caption_items(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> list[list[float]]:
    """For each image its CIDEr, then what BLEU counts: matched n-grams of orders 1 to 4, n-grams
    told of these orders, words told, words of the reference of the nearest length.

    CIDEr weighs words by how many of these images' references have them.
    """
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider

    told = {index: [tokenize(caption)] for index, caption in enumerate(captions)}
    true = {index: [tokenize(each) for each in texts] for index, texts in enumerate(references)}
    _, ciders = Cider().compute_score(true, told)
    bleu = BleuScorer(n=ORDERS)
    for index, (caption,) in told.items():
        bleu += (caption, true[index])
    return [
        [float(cider), *counts["correct"], *counts["guess"], counts["testlen"], nearest]
        for cider, counts in zip(ciders, bleu.ctest, strict=True)
        for nearest in [
            min((abs(length - counts["testlen"]), length) for length in counts["reflen"])[1]
        ]
    ]


def caption_figures(items: NDArray[np.float64]) -> Mapping[str, float]:
    """BLEU-4 of the corpus and the mean CIDEr of ``items`` (N, 11)."""
    cider, totals = float(items[:, 0].mean()), items[:, 1:].sum(axis=0)
    correct, told = totals[:ORDERS], totals[ORDERS : 2 * ORDERS]
    product = float(np.prod((correct + _TINY) / (told + _SMALL)))
    ratio = float((totals[-2] + _TINY) / (totals[-1] + _SMALL))
    brevity = np.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return {"bleu4": float(product ** (1 / ORDERS) * brevity), "cider": cider}
