"""Texts cut by a tokenizer's count."""

from __future__ import annotations

from typing import Any


def cut_to_tokens(tokenizer: Any, text: str, most: int) -> str:
    """``text`` up to where its token number ``most`` ends, special tokens not counted."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [end for _, end in found["offset_mapping"]]
    return text if len(ends) <= most else text[: ends[most - 1]]
