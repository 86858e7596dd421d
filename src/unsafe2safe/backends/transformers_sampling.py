"""Sampling whose draws belong to the request, not to the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unsafe2safe.core.randomness import generator


class SeededSampling:
    """Draws each token by inverting the cumulative distribution at one uniform number.

    The numbers of a sequence depend on its seed and the position, so the same request draws the
    same numbers alone and in any batch. The drawn token is left as the only possible one, which
    greedy decoding then takes. One number per token instead of one per word of the vocabulary.
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        """``temperature`` above 0."""
        self._draws = [generator(seed, "", stream="sampling") for seed in seeds]
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - the library's
        """Scores (B, V) -> (B, V) with 0 at the drawn token and -inf elsewhere."""
        shares = torch.softmax(scores.double() / self._temperature, dim=-1)
        heights = shares.cumsum(dim=-1)
        uniform = torch.tensor([draw.random() for draw in self._draws], dtype=torch.float64)
        targets = uniform.to(scores.device)[:, None] * heights[:, -1:]
        drawn = torch.searchsorted(heights, targets, right=True)
        # Rounding can put the target on the very top; then the likeliest token is taken.
        likeliest = scores.argmax(dim=-1, keepdim=True)
        drawn = torch.where(drawn < scores.shape[-1], drawn, likeliest)
        return torch.full_like(scores, float("-inf")).scatter_(1, drawn, 0.0)
