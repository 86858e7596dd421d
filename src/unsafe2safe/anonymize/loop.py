"""Edit, look again, climb the ladder, publish or hold back."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.anonymize.ladder import Ladder, Step
from unsafe2safe.anonymize.publish import EncodedImage, Publisher, to_png
from unsafe2safe.anonymize.region_editing import edit_regions
from unsafe2safe.anonymize.verify import Verdict, further_look, second_look, verify
from unsafe2safe.anonymize.witnesses import Witnesses
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.errors import ItemError, StorageError, UsageError, describe_fault
from unsafe2safe.core.files import KeyedHash, write_bytes
from unsafe2safe.core.records import (
    Attempt,
    Check,
    Outcome,
    OutcomeState,
    Provenance,
    TripletState,
)
from unsafe2safe.data.encode import ALGORITHMICALLY_ENHANCED, COMPOSITE_WITH_TRAINED_MODEL
from unsafe2safe.editors.base import EditRequest, Pixels

log = logging.getLogger("unsafe2safe")


@dataclass(eq=False)
class _Trial:
    """One attempt at one candidate, until it is decided."""

    candidate: Candidate
    request: EditRequest
    step: Step
    encoded: EncodedImage | None = None
    verdict: Verdict | None = None
    further: tuple[Check, ...] = ()  # checks beyond the verdict's: truth, judge
    fault: str = ""  # why there is nothing to judge

    @property
    def checks(self) -> tuple[Check, ...]:
        return (*(self.verdict.checks if self.verdict else ()), *self.further)

    @property
    def passed(self) -> bool:
        return (
            self.encoded is not None
            and self.verdict is not None
            and not self.fault
            and all(check.passed for check in self.checks)
        )

    @property
    def reason(self) -> str:
        failed = [check.name for check in self.checks if not check.passed]
        return self.fault or ", ".join(failed)


@dataclass(eq=False)
class Loop:
    """The verification loop over one batch of candidates."""

    ladder: Ladder
    config: Anonymize
    publisher: Publisher
    inputs: KeyedHash
    quarantine: Path
    witnesses: Witnesses = field(default_factory=Witnesses)

    def run(self, candidates: Sequence[Candidate]) -> dict[str, Outcome]:
        """The outcome of each candidate, by ``image_id``; never raises for one of them.

        Raises:
            UsageError: an editor or a judge cannot be used at all.
        """
        outcomes: dict[str, Outcome] = {}
        steps = self.ladder.steps
        for candidate in candidates:
            outcome = self._guarded(candidate, partial(self._triage, candidate))
            if outcome is not None:
                outcomes[candidate.image_id] = outcome
        for _ in range(self.config.verify.max_attempts):
            pending = [c for c in candidates if c.image_id not in outcomes]
            groups = [[c for c in pending if c.step == place] for place in range(len(steps))]
            for group, step in zip(groups, steps, strict=True):
                outcomes |= self._attempt(group, step)
        for candidate in candidates:
            if candidate.image_id not in outcomes:
                fate = self._guarded(candidate, partial(self._hold_back, candidate))
                outcomes |= {candidate.image_id: fate} if fate is not None else {}
        return outcomes

    def _guarded(self, candidate: Candidate, step: Callable[[], Outcome | None]) -> Outcome | None:
        try:
            return step()
        except ItemError as error:
            return self._unpublished(candidate, OutcomeState.FAILED, error.reason)
        except (StorageError, UsageError):  # no fault of the image: every other would have it too
            raise
        except Exception as error:
            log.warning("%s: verification raised %s", candidate.image_id, type(error).__name__)
            reason = f"verification raised {describe_fault(error)}"
            return self._unpublished(candidate, OutcomeState.FAILED, reason)

    def _triage(self, candidate: Candidate) -> Outcome | None:
        """Publish what two witnesses call safe, hold back what nobody described; None: edit it."""
        if candidate.triplet.state != TripletState.COMPLETE:
            reason = f"stage 1: {candidate.triplet.reason or candidate.triplet.state}"
            return self._unpublished(candidate, OutcomeState.NEEDS_REVIEW, reason)
        if candidate.claimed_safe:
            encoded = self.publisher.encode(
                candidate.image_id, candidate.image.pixels, candidate.image, None
            )
            faces = candidate.perception.verify_faces(encoded.pixels)
            lines = candidate.perception.verify_text(encoded.pixels)
            others = further_look(encoded.pixels, self.witnesses.detectors)
            found = second_look(candidate.image_id, faces, lines, None, others)
            if not found:
                return self._publish(candidate, OutcomeState.SAFE, encoded, "")
            candidate.add_regions(found)  # the witnesses disagree: doubt means unsafe
        skips = self.config.publish.no_derivatives == "skip"
        if skips and _forbids_derivatives(candidate.record.licence):
            reason = "its licence forbids derivatives"
            return self._unpublished(candidate, OutcomeState.NEEDS_REVIEW, reason)
        unmaskable = candidate.unmaskable(self.config)
        if unmaskable:
            return self._unpublished(candidate, OutcomeState.NEEDS_REVIEW, unmaskable)
        return None

    def _attempt(self, group: Sequence[Candidate], step: Step) -> dict[str, Outcome]:
        """Edit all of one step and judge each; outcomes of those whose fate is decided."""
        outcomes: dict[str, Outcome] = {}
        trials: list[_Trial] = []
        requests = [candidate.request(self.config, step) for candidate in group]
        edits = self._edit(group, requests, step)
        for candidate, request, edited in zip(group, requests, edits, strict=True):
            trial = _Trial(candidate, request, step)
            fate = self._guarded(candidate, partial(self._look, trial, edited))
            if fate is None:
                trials.append(trial)
            else:
                outcomes[candidate.image_id] = fate
        self._ask_judge([trial for trial in trials if trial.passed])
        for trial in trials:
            fate = self._guarded(trial.candidate, partial(self._decide, trial))
            if fate is not None:
                outcomes[trial.candidate.image_id] = fate
        return outcomes

    def _edit(
        self, pending: Sequence[Candidate], requests: Sequence[EditRequest], step: Step
    ) -> list[Pixels | str]:
        """An edited image for each candidate, or the reason why there is none."""
        if not pending:
            return []
        editor = step.editor
        if editor.reads_private_caption and not all(c.private_caption for c in pending):
            if len(pending) > 1:
                return self._edit_apart(pending, requests, step)
            return [f"editor={editor.name} reads the private caption, and it has none"]
        try:
            return edit_regions(editor, requests, self.config)
        except UsageError:  # weights or device that nothing can be edited with
            raise
        except Exception as error:
            if len(requests) > 1:  # one bad image must not take its batch with it
                return self._edit_apart(pending, requests, step)
            if isinstance(error, ItemError):
                return [error.reason]
            log.warning("%s: editor raised %s", pending[0].image_id, type(error).__name__)
            return [f"editor raised {describe_fault(error)}"]

    def _edit_apart(
        self, pending: Sequence[Candidate], requests: Sequence[EditRequest], step: Step
    ) -> list[Pixels | str]:
        pairs = zip(pending, requests, strict=True)
        return [self._edit([candidate], [request], step)[0] for candidate, request in pairs]

    def _look(self, trial: _Trial, edited: Pixels | str) -> None:
        """Encode an edit and verify the file; a witness that raises fails the attempt."""
        candidate, request, editor = trial.candidate, trial.request, trial.step.editor
        if isinstance(edited, str):
            trial.fault = edited
            return
        candidate.edited = edited
        source_type = (
            COMPOSITE_WITH_TRAINED_MODEL if editor.draws_faces else ALGORITHMICALLY_ENHANCED
        )
        encoded = self.publisher.encode(candidate.image_id, edited, candidate.image, source_type)
        try:
            trial.verdict = verify(
                candidate,
                encoded.pixels,
                request.mask,
                self.config.verify,
                editor,
                self.witnesses.detectors,
            )
            if self.config.verify.truth != "none":
                if self.witnesses.truth is None:
                    raise ValueError("no witness of the truth")
                trial.further = self.witnesses.truth.checks(candidate, encoded.pixels)
        except UsageError:  # a witness that cannot look at anything
            raise
        except Exception as error:
            log.warning("%s: verification raised %s", candidate.image_id, type(error).__name__)
            trial.verdict = None
            trial.fault = f"verification raised {describe_fault(error)}"
            if isinstance(error, ItemError):
                trial.fault = error.reason
            return
        trial.encoded = encoded

    def _ask_judge(self, trials: Sequence[_Trial]) -> None:
        if self.witnesses.judge is None:
            return
        edits = [(trial.candidate, trial.encoded.pixels) for trial in trials if trial.encoded]
        for trial, checks in zip(trials, self.witnesses.judge.checks(edits), strict=True):
            trial.further = (*trial.further, *checks)

    def _decide(self, trial: _Trial) -> Outcome | None:
        """Record the attempt, and publish it or climb; None: there is another attempt to make."""
        candidate, step = trial.candidate, trial.step
        candidate.attempts.append(
            Attempt(
                editor=step.editor.name,
                strength=step.strength,
                seed=trial.request.seed,
                checks=trial.checks,
                reason=trial.reason,
                rung=step.rung,
                adapter=step.adapter,
                margin=step.margin,
                text_guidance=step.text_guidance,
            )
        )
        if trial.passed and trial.encoded is not None:
            reason = candidate.triplet.reason
            return self._publish(candidate, OutcomeState.ANONYMIZED, trial.encoded, reason)
        verdict = trial.verdict
        known = len(candidate.regions)
        candidate.add_regions(list(verdict.missed) if verdict else [])
        only_missed = verdict is not None and verdict.only_missed
        again = only_missed and all(check.passed for check in trial.further)
        again = again and len(candidate.regions) > known
        if again and candidate.region_retries < self.config.verify.max_region_retries:
            candidate.region_retries += 1
        else:
            candidate.step += 1
        return None

    def _publish(
        self, candidate: Candidate, state: OutcomeState, encoded: EncodedImage, reason: str
    ) -> Outcome:
        read = state != OutcomeState.SAFE and self.config.verify.truth != "only"
        read = read and self.publisher.compares_names
        texts = candidate.source_texts if read else ()
        name = self.publisher.name(candidate.record, candidate.image, texts)
        self.publisher.write(name, encoded)
        return self._outcome(candidate, state, reason, name, encoded.sha256, encoded.notes)

    def _hold_back(self, candidate: Candidate) -> Outcome:
        last = candidate.attempts[-1].reason
        return self._unpublished(candidate, OutcomeState.NEEDS_REVIEW, f"not verified: {last}")

    def _unpublished(self, candidate: Candidate, state: OutcomeState, reason: str) -> Outcome:
        if candidate.edited is not None:
            name = self.inputs.digest(candidate.image_id.encode())[:24] + ".png"
            write_bytes(self.quarantine / name, to_png(candidate.edited), mode=0o600)
        return self._outcome(candidate, state, reason, None, "")

    def _outcome(
        self,
        candidate: Candidate,
        state: OutcomeState,
        reason: str,
        published_as: str | None,
        output_sha256: str,
        notes: tuple[str, ...] = (),
    ) -> Outcome:
        last = candidate.attempts[-1] if candidate.attempts else None
        return Outcome(
            image_id=candidate.image_id,
            state=state,
            reason=reason,
            published_as=published_as,
            editor=last.editor if last else "",
            adapter=last.adapter if last else "",
            attempts=tuple(candidate.attempts),
            input_hmac=self.inputs.digest(candidate.image.content),
            output_sha256=output_sha256,
            provenance=Provenance(model=self.ladder.steps[0].editor.name, seed=self.config.seed),
            notes=(*candidate.image.notes, *notes),
        )


def _forbids_derivatives(licence: str | None) -> bool:
    """Whether a Creative Commons licence has the ND clause, in any usual spelling."""
    return re.search(r"(?i)no-?deriv|\bnd\b", licence or "") is not None
