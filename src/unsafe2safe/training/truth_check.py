"""What an editor makes of held-out scenes, for the line that ends a training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from unsafe2safe.core.randomness import torch_seed
from unsafe2safe.data.synthetic import redraw, render, slot_mask
from unsafe2safe.editors.base import Editor, EditRequest
from unsafe2safe.metrics.truth import score
from unsafe2safe.training.variants import VariantPairs
from unsafe2safe.vision.attribute_reader import the_reader

_TOLD = ("followed/mean", "leaked/mean", "leaked/letters", "outside/ssim", "outside/psnr")


def truth_figures(editor: Editor, held_out: VariantPairs, seed: int) -> Mapping[str, float]:
    """The chief figures of ``metrics.truth`` over one edit of each scene of ``held_out``."""
    pairs, requests = [], []
    for index in range(len(held_out)):
        item = held_out[index, 0]
        variants = held_out.variants(index)
        source = variants[item.source]
        pairs.append(redraw(source, variants[item.target].private))
        requests.append(
            EditRequest(
                image=render(source, held_out.side),
                mask=slot_mask(source, held_out.side).astype(np.float32),
                regions=(),
                public_caption=item.public_caption,
                edit_instruction=item.edit_instruction,
                seed=torch_seed(seed, item.key.image_id, 0, "edit"),
                strength=0,
            )
        )
    found = score(pairs, np.stack(editor.edit(requests)), the_reader(), seed)
    values = {name: found[name].value for name in _TOLD if name in found}
    return {name: value for name, value in values.items() if value is not None}
