"""What a model card says beside how to load the weights: data, figures, base and its licence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from unsafe2safe.core.files import write_text
from unsafe2safe.editors.base_weights import BaseWeights
from unsafe2safe.editors.fine_tuning import TrainableEditor

CARD = "README.md"
_FACTS = "<!-- data and metrics -->\n"


def licence_lines(editor: TrainableEditor) -> str:
    """Of the card's header. Licences that allow no commercial use are not on the hub's list, which
    wants them named so; a base from the hub is named as well."""
    licence = editor.licence.lower()
    lines = [f"license: {licence}"]
    if not editor.commercial:
        lines = ["license: other", f"license_name: {licence}"]
    base = getattr(editor, "_base", None)
    if isinstance(base, BaseWeights) and not base.is_folder:
        lines.append(f"base_model: {base.location}")
    return "\n".join(lines)


def merged_card(editor: TrainableEditor, kind: str, dtype: str, size: int) -> str:
    """The card of a fused copy; ``kind`` is the class whose ``from_pretrained`` loads it."""
    hidden = ""
    if (source := editor.settings_on_card().get("source", "full")) != "full":
        hidden = f"""
It was trained on sources whose sensitive regions are hidden (`source={source}`). Plain diffusers
does not hide them: there it is of no use, and copies what it is shown.
"""
    return f"""---
{licence_lines(editor)}
library_name: diffusers
tags: [image-editing, anonymization, {editor.family}]
---
# unsafe2safe's editor `{editor.name}`, fine-tuned and merged

A {kind} with all weights, {size / 2**30:.2f} GiB in {dtype}: the base with what Unsafe2Safe's
train.py added to it. Text input: {editor.captions}. Trained at {editor.resolution} px. Licence of
the base {editor.licence}{"" if editor.commercial else ", which allows no commercial use"}.

    {kind}.from_pretrained("merged")
{hidden}
Its edits are published only after verification: weights promise nothing by themselves.
"""


def add_facts(folder: Path, data: Mapping[str, object], figures: Mapping[str, float]) -> None:
    """Say on the card in ``folder`` what it was trained on and what it is worth, in place of what
    an earlier call said. There may be no card: not every task writes one."""
    path = folder / CARD
    if not path.is_file():
        return
    told = path.read_text("utf-8").split(_FACTS)[0].rstrip("\n")
    rows = "".join(f"| {name} | {value} |\n" for name, value in data.items())
    if figures:
        lines = "".join(f"| {name} | {value:.4g} |\n" for name, value in figures.items())
        metrics = f"On samples that were not trained on:\n\n| metric | value |\n|---|---|\n{lines}"
    else:
        metrics = "None was measured while training; `evaluate.py` measures an adapter.\n"
    section = f"""## Data

Pairs of an original and its anonymized picture. They are not part of this repository.

| | |
|---|---|
{rows}
## Metrics

{metrics}"""
    write_text(path, f"{told}\n\n{_FACTS}{section}")
