"""Texts as a denoiser is told them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class TextEmbedding:
    """What a denoiser is told: ``tokens`` (B, T, D), and ``pooled`` (B, P) where it takes that.

    ``mask`` (B, T) is False where a shorter text was filled up with zeros; None: nowhere.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None

    @classmethod
    def stacked(cls, texts: Sequence[TextEmbedding]) -> TextEmbedding:
        """Texts of unequal lengths as one batch."""
        length = max(text.tokens.shape[1] for text in texts)
        filled = [text.filled_to(length) for text in texts]
        masked = any(text.mask is not None for text in filled)
        pooled = [text.pooled for text in filled if text.pooled is not None]
        return cls(
            torch.cat([text.tokens for text in filled]),
            torch.cat(pooled) if pooled else None,
            torch.cat([text.valid for text in filled]) if masked else None,
        )

    @property
    def valid(self) -> Tensor:
        """(B, T) booleans: the mask, or as many of True."""
        if self.mask is not None:
            return self.mask
        return torch.ones(self.tokens.shape[:2], dtype=torch.bool, device=self.tokens.device)

    def filled_to(self, length: int) -> TextEmbedding:
        """The same texts, ``length`` tokens long."""
        missing = length - self.tokens.shape[1]
        if missing == 0:
            return self
        tokens = functional.pad(self.tokens, (0, 0, 0, missing))
        return TextEmbedding(tokens, self.pooled, functional.pad(self.valid, (0, missing)))

    def replaced(self, where: Tensor, by: TextEmbedding) -> TextEmbedding:
        """The samples ``where`` (B,) booleans say so replaced by those of ``by``, (1, ...) each or
        one per sample."""
        length = max(self.tokens.shape[1], by.tokens.shape[1])
        own, other = self.filled_to(length), by.filled_to(length)
        places = where.view(-1, *[1] * (own.tokens.ndim - 1))  # token ids have no third axis
        tokens = torch.where(places, other.tokens.to(own.tokens), own.tokens)
        mask = None
        if own.mask is not None or other.mask is not None:
            mask = torch.where(where[:, None], other.valid.to(own.tokens.device), own.valid)
        if own.pooled is None or other.pooled is None:
            return TextEmbedding(tokens, mask=mask)
        pooled = torch.where(where[:, None], other.pooled.to(own.pooled), own.pooled)
        return TextEmbedding(tokens, pooled, mask)
