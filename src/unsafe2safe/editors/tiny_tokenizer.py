"""The tiny editor's tokenizer: CLIP's byte-level BPE with merges learnt from a word list.

Every byte has a token, so any text tokenizes; common words of captions and instructions are one
token each. The learning is deterministic: pairs are taken by count, ties by spelling.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import pairwise
from typing import Any

from unsafe2safe.data.synthetic.captions import vocabulary

MAX_TOKENS = 144  # a public caption and an instruction for three persons
_END = "</w>"
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")

_WORDS = """
a an the and or of in on at with without to from by for as is are it its this that there no not
all every each any some one two three four five six several first second third other another
person people man woman boy girl child children face faces head hair skin eyes beard glasses hat
cap shirt jacket coat dress suit tie scarf clothes clothing uniform crowd group portrait someone
give make keep replace change remove blur hide turn put wear wearing show showing add render again
text texts sign signs letters letter words word plate plates number numbers strokes unreadable
plain blank logo label poster screen license licence street name names writing printed
red orange yellow green blue purple pink brown black white gray grey golden blond blonde dark
light pale tan olive short long curly straight wavy bald young old middle aged adult elderly
new different realistic realistically content picture image photo photograph scene background
foreground left right top bottom center middle next near behind front inside outside indoor
outdoor indoors outdoors day night sky sea water beach field grass tree trees mountain city
building house room kitchen office wall floor window door table chair road snow rain sun cloud
bicycle car motorcycle airplane bus train truck boat traffic fire hydrant stop parking meter bench
bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag suitcase
frisbee skis snowboard sports ball kite baseball bat glove skateboard surfboard tennis racket
bottle wine glass cup fork knife spoon bowl banana apple sandwich broccoli carrot hot pizza donut
cake couch potted plant bed dining toilet tv laptop mouse remote keyboard cell phone microwave
oven toaster sink refrigerator book clock vase scissors teddy drier toothbrush
standing sitting walking running riding holding looking lying playing eating large small tall big
wooden metal bright quiet empty visible unknown
"""


def _symbols(word: str) -> tuple[str, ...]:
    return (*word[:-1], word[-1] + _END)


@cache
def learn_merges() -> tuple[tuple[str, str], ...]:
    """Byte-pair merges until every listed word is one token (Sennrich et al. 2016, algorithm 1)."""
    words = [_symbols(word) for word in sorted({*_WORDS.split(), *vocabulary()})]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for word in words for pair in pairwise(word))
        if not pairs:
            return tuple(merges)
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [_merge(word, best) for word in words]


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    index = 0
    while index < len(word):
        if word[index : index + 2] == pair:
            merged.append(pair[0] + pair[1])
            index += 2
        else:
            merged.append(word[index])
            index += 1
    return tuple(merged)


def build_tokenizer() -> Any:
    """A ``transformers.CLIPTokenizer`` over all bytes and the merges above."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    merges = learn_merges()
    tokens = [*letters, *(letter + _END for letter in letters), *("".join(m) for m in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys((*tokens, *_SPECIAL)))}
    return CLIPTokenizer(
        vocab=vocabulary, merges=list(merges), model_max_length=MAX_TOKENS, unk_token=_SPECIAL[1]
    )
