"""Edit, look again, retry stronger, publish or hold back."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.anonymize.publish import EncodedImage, Publisher, to_png
from unsafe2safe.anonymize.verify import Verdict, second_look, verify
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.errors import ItemError, UsageError, describe_fault
from unsafe2safe.core.files import KeyedHash, write_bytes
from unsafe2safe.core.records import Attempt, Outcome, OutcomeState, Provenance, TripletState
from unsafe2safe.data.encode import ALGORITHMICALLY_ENHANCED, COMPOSITE_WITH_TRAINED_MODEL
from unsafe2safe.editors.base import Editor, EditRequest, Pixels

log = logging.getLogger("unsafe2safe")


@dataclass(eq=False)
class Loop:
    """The verification loop over one batch of candidates."""

    editor: Editor
    adapter: str  # fingerprint of the training run, "" without adapter
    config: Anonymize
    publisher: Publisher
    inputs: KeyedHash
    quarantine: Path

    def run(self, candidates: Sequence[Candidate]) -> dict[str, Outcome]:
        """The outcome of each candidate, by ``image_id``; never raises for one of them."""
        outcomes: dict[str, Outcome] = {}
        pending: list[Candidate] = []
        for candidate in candidates:
            outcome = self._guarded(candidate, self._triage)
            if outcome is None:
                pending.append(candidate)
            else:
                outcomes[candidate.image_id] = outcome
        for strength in range(self.config.verify.max_attempts):
            edits = self._edit(pending, strength)
            still_pending = []
            for candidate, edited in zip(pending, edits, strict=True):
                outcome = self._guarded(candidate, partial(self._judge, edited, strength))
                if outcome is None:
                    still_pending.append(candidate)
                else:
                    outcomes[candidate.image_id] = outcome
            pending = still_pending
        for candidate in pending:
            outcomes[candidate.image_id] = self._hold_back(candidate)
        return outcomes

    def _guarded(
        self, candidate: Candidate, step: Callable[[Candidate], Outcome | None]
    ) -> Outcome | None:
        try:
            return step(candidate)
        except ItemError as error:
            return self._unpublished(candidate, OutcomeState.FAILED, error.reason)
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
            found = second_look(candidate.image_id, faces, lines, None)
            if not found:
                return self._publish(candidate, OutcomeState.SAFE, encoded, "")
            candidate.add_regions(found)  # the witnesses disagree: doubt means unsafe
        if _forbids_derivatives(candidate.record.licence):
            reason = "its licence forbids derivatives"
            return self._unpublished(candidate, OutcomeState.NEEDS_REVIEW, reason)
        if self.editor.reads_private_caption and not candidate.private_caption:
            reason = f"editor={self.editor.name} reads the private caption, and it has none"
            return self._unpublished(candidate, OutcomeState.NEEDS_REVIEW, reason)
        return None

    def _edit(self, pending: Sequence[Candidate], strength: int) -> list[Pixels | str]:
        """An edited image for each candidate, or the reason why there is none."""
        requests = [candidate.request(self.config, strength) for candidate in pending]
        if not requests:
            return []
        try:
            return list(self.editor.edit(requests))
        except UsageError:  # weights or device that nothing can be edited with
            raise
        except Exception as error:
            if len(requests) > 1:  # one bad image must not take its batch with it
                return [self._edit([candidate], strength)[0] for candidate in pending]
            if isinstance(error, ItemError):
                return [error.reason]
            log.warning("%s: editor raised %s", pending[0].image_id, type(error).__name__)
            return [f"editor raised {describe_fault(error)}"]

    def _judge(self, edited: Pixels | str, strength: int, candidate: Candidate) -> Outcome | None:
        request = candidate.request(self.config, strength)
        if isinstance(edited, str):
            self._record(candidate, request, strength, None, edited)
            return None
        fault = _unusable(edited, request)
        if fault:
            self._record(candidate, request, strength, None, fault)
            return None
        if self.config.region == "composite":
            edited = composite(candidate.image.pixels, edited, request.mask)
        candidate.edited = edited
        source_type = (
            COMPOSITE_WITH_TRAINED_MODEL if self.editor.draws_faces else ALGORITHMICALLY_ENHANCED
        )
        encoded = self.publisher.encode(candidate.image_id, edited, candidate.image, source_type)
        verdict = verify(candidate, encoded.pixels, request.mask, self.config.verify, self.editor)
        self._record(candidate, request, strength, verdict, verdict.reason)
        if verdict.passed:
            return self._publish(
                candidate, OutcomeState.ANONYMIZED, encoded, candidate.triplet.reason
            )
        candidate.add_regions(list(verdict.missed))
        return None

    def _record(
        self,
        candidate: Candidate,
        request: EditRequest,
        strength: int,
        verdict: Verdict | None,
        reason: str,
    ) -> None:
        checks = verdict.checks if verdict else ()
        candidate.attempts.append(Attempt(self.editor.name, strength, request.seed, checks, reason))

    def _publish(
        self, candidate: Candidate, state: OutcomeState, encoded: EncodedImage, reason: str
    ) -> Outcome:
        texts = () if state == OutcomeState.SAFE else candidate.source_texts
        name = self.publisher.name(candidate.image_id, candidate.image, texts)
        self.publisher.write(name, encoded)
        return self._outcome(candidate, state, reason, name, encoded.sha256)

    def _hold_back(self, candidate: Candidate) -> Outcome:
        if candidate.edited is not None:
            name = self.inputs.digest(candidate.image_id.encode())[:24] + ".png"
            write_bytes(self.quarantine / name, to_png(candidate.edited), mode=0o600)
        last = candidate.attempts[-1].reason
        return self._unpublished(candidate, OutcomeState.NEEDS_REVIEW, f"not verified: {last}")

    def _unpublished(self, candidate: Candidate, state: OutcomeState, reason: str) -> Outcome:
        return self._outcome(candidate, state, reason, None, "")

    def _outcome(
        self,
        candidate: Candidate,
        state: OutcomeState,
        reason: str,
        published_as: str | None,
        output_sha256: str,
    ) -> Outcome:
        return Outcome(
            image_id=candidate.image_id,
            state=state,
            reason=reason,
            published_as=published_as,
            editor=self.editor.name if candidate.attempts else "",
            adapter=self.adapter if candidate.attempts else "",
            attempts=tuple(candidate.attempts),
            input_hmac=self.inputs.digest(candidate.image.content),
            output_sha256=output_sha256,
            provenance=Provenance(model=self.editor.name, seed=self.config.seed),
        )


def composite(source: Pixels, edited: Pixels, mask: np.ndarray) -> Pixels:
    """``edited`` inside the mask, the source bit for bit where the mask is 0.

    ``source`` and ``edited`` are (H, W, 3) uint8, ``mask`` (H, W) float32 in [0, 1].
    """
    weight = mask[..., None]
    blended = np.rint(weight * edited + (1.0 - weight) * source).astype(np.uint8)
    result: Pixels = np.where(weight > 0, blended, source)
    return result


def _unusable(edited: Pixels, request: EditRequest) -> str:
    """Why an editor's answer is no image of the asked size, or an empty string."""
    if not isinstance(edited, np.ndarray) or edited.dtype != np.uint8:
        return "editor returned no uint8 image"
    if edited.shape != request.image.shape:
        return "editor returned another size"
    return ""


def _forbids_derivatives(licence: str | None) -> bool:
    """Whether a Creative Commons licence has the ND clause, in any usual spelling."""
    return re.search(r"(?i)no-?deriv|\bnd\b", licence or "") is not None
