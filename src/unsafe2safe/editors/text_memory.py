"""Embedded texts kept while a data set is edited: many images ask for the same edit.

Nothing is kept unless :func:`remembering_texts` says so, since the encoders of a training change.
Inside of it each text is embedded alone and never beside others, whose company would change its
last digits: what an image becomes does not depend on which texts came before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # editors without texts start without torch
    from unsafe2safe.editors.text_embedding import TextEmbedding

Embedded = TypeVar("Embedded")

_MOST_BYTES = 256 * 1024**2


class TextMemory:
    """The embedded texts used last, as many as fit; ``computed`` counts how often one was made."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self.computed = 0
        self._most, self._bytes = most_bytes, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._owners: dict[int, object] = {}  # held, so that no other object gets their id

    def of(self, owner: object, key: Hashable, make: Callable[[], Embedded]) -> Embedded:
        """What ``make`` gives for ``key``, which names all that it depends on beside ``owner``."""
        self._owners[id(owner)] = owner
        place = (id(owner), key)
        if place in self._kept:
            self._kept.move_to_end(place)
            embedded: Embedded = self._kept[place][0]
            return embedded
        self.computed += 1
        made = make()
        size = _bytes_of(made)
        self._kept[place] = made, size
        self._bytes += size
        while self._bytes > self._most and len(self._kept) > 1:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed
        return made


_memory: ContextVar[TextMemory | None] = ContextVar("texts", default=None)


@contextmanager
def remembering_texts(memory: TextMemory | None = None) -> Iterator[TextMemory]:
    """Inside the block texts are embedded once; for encoders that do not change meanwhile."""
    kept = memory or TextMemory()
    token = _memory.set(kept)
    try:
        yield kept
    finally:
        _memory.reset(token)


def remembered(owner: object, key: Hashable, make: Callable[[], Embedded]) -> Embedded:
    """``make()``, or what it gave before, where texts are remembered."""
    memory = _memory.get()
    return make() if memory is None else memory.of(owner, key, make)


def embed_each(
    owner: object,
    texts: Sequence[str],
    embed: Callable[[Sequence[str]], TextEmbedding],
    settings: Hashable = None,
) -> TextEmbedding:
    """``embed(texts)``; where texts are remembered each is embedded alone, once.

    ``embed`` depends on ``owner`` and ``settings`` only.
    """
    memory = _memory.get()
    if memory is None:
        return embed(texts)
    each = [memory.of(owner, (settings, text), partial(embed, [text])) for text in texts]
    return type(each[0]).stacked(each)


def _bytes_of(embedded: object) -> int:
    from torch import Tensor

    tensors = (value for value in vars(embedded).values() if isinstance(value, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
