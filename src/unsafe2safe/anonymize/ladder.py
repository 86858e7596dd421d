"""The ladder: what each attempt at an image changes, and which editor makes it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unsafe2safe.core.config.components import build
from unsafe2safe.core.config.compose import compose_choice
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.config.schema_verify import Rung
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import fingerprint, read_run
from unsafe2safe.editors.base import Editor
from unsafe2safe.editors.redact import RedactEditor

log = logging.getLogger("unsafe2safe")

FIRST = "first"


@dataclass(frozen=True)
class Step:
    """How an attempt is made: with which editor and ``adapter`` (fingerprint of its training run),
    which noise (``draw``), how many times the editor's own text guidance, which margin of the
    masks, and how many steps the editor has made before (``strength``). ``rung`` names what is
    new in it, for the record."""

    rung: str
    editor: Editor
    adapter: str
    margin: float
    draw: int = 0
    text_guidance: float = 1.0
    strength: int = 0


@dataclass(frozen=True)
class Ladder:
    """The steps from the first attempt to the last, and what of the editors they switch to counts
    for a run's fingerprint."""

    steps: tuple[Step, ...]
    content: Mapping[str, str] = field(default_factory=dict)

    @property
    def editors(self) -> tuple[Editor, ...]:
        """Each editor once, in the order of the steps."""
        found: list[Editor] = []
        for step in self.steps:
            if not any(step.editor is editor for editor in found):
                found.append(step.editor)
        return tuple(found)

    def tell_licences(self) -> None:
        """Log the licence of every editor that is switched to, and of each that restricts use."""
        for editor in self.editors[1:]:
            log.info("verify.ladder: editor=%s, licence %s", editor.name, editor.licence)
        for editor in self.editors:
            if not editor.commercial:
                log.warning(
                    "editor=%s: the licence of its base (%s) does not allow every commercial use",
                    editor.name,
                    editor.licence,
                )


def build_ladder(config: Anonymize, editor: Editor) -> Ladder:
    """``editor`` on the rungs of ``config.verify.ladder``; no weights are loaded.

    What changes nothing is left out: other noise for an editor that draws none, a margin that is
    0, redaction after redaction.

    Raises:
        UsageError: a rung names an editor, a setting or an adapter that does not exist.
    """
    steps = [Step(FIRST, editor, adapter_fingerprint(config.adapter), config.margin)]
    content: dict[str, str] = {}
    for number, rung in enumerate(config.verify.ladder):
        before = steps[-1]
        switched = before
        redacts = rung.redact and not isinstance(before.editor, RedactEditor)
        if redacts and not config.verify.redact:
            break
        if rung.editor or redacts:
            switched, content_of = _switched(before, rung, f"verify.ladder.{number}", config)
            content |= content_of
        after, told = _changed(switched, rung, config.margin)
        if switched is not before:
            name = switched.editor.name
            told.insert(0, "redact" if redacts else f"editor={name}")
        elif told:
            after = replace(after, strength=before.strength + 1)
        if told:
            steps.append(replace(after, rung="+".join(told)))
    return Ladder(tuple(steps), content)


def _changed(step: Step, rung: Rung, margin: float) -> tuple[Step, list[str]]:
    """``step`` with what the rung changes of it, and the names of that."""
    told = []
    if rung.seed and "seed" in step.editor.answers_to:
        step = replace(step, draw=step.draw + 1)
        told.append("seed")
    if rung.guidance and "guidance" in step.editor.answers_to:
        step = replace(step, text_guidance=step.text_guidance + rung.guidance)
        told.append("guidance")
    if rung.margin and (margin > 0 or "margin" in step.editor.answers_to):
        step = replace(step, margin=step.margin + rung.margin * margin)
        told.append("margin")
    return step, told


def _switched(
    before: Step, rung: Rung, where: str, config: Anonymize
) -> tuple[Step, Mapping[str, str]]:
    """``before`` with the rung's editor, and what of that editor changes results."""
    paths = {name: str(path) for name, path in config.paths.model_dump().items()}
    name = rung.editor or "redact"
    try:
        settings: dict[str, Any] = compose_choice("editor", name, rung.overrides, paths)
        adapter = _adapter_of(rung.adapter)
        editor = build({**settings, "adapter": rung.adapter}, "editor", Editor)  # type: ignore[type-abstract]
        weights = editor.weights_content()
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    counting = {key: value for key, value in settings.items() if key != "scratch"}
    content = {f"{where}.settings": fingerprint(counting), f"{where}.adapter": adapter}
    content |= {f"{where}.{key}": value for key, value in weights.items()}
    after = replace(before, editor=editor, adapter=adapter, text_guidance=1.0, strength=0)
    return after, content


def _adapter_of(adapter: Path | None) -> str:
    found = adapter_fingerprint(adapter)
    if adapter is not None and not found:
        raise UsageError(f"adapter={adapter} is no run folder of train.py (no run.json of it)")
    return found


def adapter_fingerprint(adapter: Path | None) -> str:
    """Of the training run in that folder; empty where there is none."""
    state = read_run(adapter) if adapter else None
    return str(state["fingerprint"]) if state else ""
