"""What a row of a cache is called: a hash of all that it is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unsafe2safe.core.files import write_text
from unsafe2safe.editors.fine_tuning import TrainableEditor
from unsafe2safe.training.cache.rows import Part
from unsafe2safe.training.pairs import LoadedPair

# The key of each part's row, for one sample in one view.
Keys = Mapping[Part, str]

NO_TEXT = "no_text"  # the key of the embedded empty text


def keys_of(pair: LoadedPair, editor: TrainableEditor, mask_weight: float) -> dict[Part, str]:
    """The keys of the rows of a pair, from its pixels and texts as the encoders get them.

    A text counts with its source picture where the text encoder sees that, and a source with its
    mask where that hides part of it.
    """
    source, mask = _pixels(pair.source), _pixels(pair.mask)
    if editor.hides_source:
        source = _hash(source, mask)
    texts = editor.embedded_texts(pair.public_caption, pair.edit_instruction, pair.combined_caption)
    text = _hash("text", *texts, *([source] if editor.text_sees_source else []))
    digests: dict[Part, str] = {
        "target": _pixels(pair.target),
        "source": source,
        "text": text,
        "mask": _hash(mask, repr(mask_weight)) if mask_weight else _hash("no mask"),
    }
    digests["sample"] = _hash(*digests.values())
    return {part: f"{part}-{digest}" for part, digest in digests.items()}


def _pixels(values: NDArray[Any]) -> str:
    digest = blake2b(f"{values.shape} {values.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _hash(*parts: str) -> str:
    text = json.dumps(parts, ensure_ascii=False)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class KnownKeys:
    """Keys of samples whose files have not changed since, so that a later start need not decode
    them: in one file, by the samples' signatures. A file that is replaced by another of the same
    size and time of change is not noticed here, and is when it is encoded."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)

    def of(self, signature: str | None, compute: Callable[[], Keys]) -> Keys:
        """What is known for a signature, else what ``compute`` gives; None is never known."""
        known = self._known.get(signature) if signature is not None else None
        return known if known is not None else compute()

    def keep(self, found: Iterable[tuple[str | None, Keys]]) -> None:
        """Write down keys by signature."""
        named = {signature: dict(keys) for signature, keys in found if signature is not None}
        if named.items() <= self._known.items():
            return
        kept = {**_read(self._path), **named}
        write_text(self._path, json.dumps(kept, sort_keys=True) + "\n", mode=0o600)


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return content
    except (OSError, ValueError):  # none yet, or damaged: all is computed anew
        return {}
