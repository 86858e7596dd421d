"""Whether anonymize.py would publish an edit: what trackers may be shown of a training."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.anonymize.verify import verify
from unsafe2safe.core.config.compose import config_dir
from unsafe2safe.core.config.schema_common import Vision
from unsafe2safe.core.config.schema_verify import Verify
from unsafe2safe.core.records import (
    ImageRecord,
    OutcomeState,
    PrivacyFlag,
    Provenance,
    Triplet,
    TripletState,
)
from unsafe2safe.data.decode import DecodedImage
from unsafe2safe.editors.base import Editor, EditRequest, Pixels
from unsafe2safe.vision.perception import Perception

log = logging.getLogger("unsafe2safe")


class Publishable:
    """Judges edits as anonymize.py does with its own defaults, by the same code."""

    def __init__(self, vision: Vision, threads: int) -> None:
        self._perception = Perception(vision, threads)
        content = OmegaConf.load(config_dir() / "anonymize.yaml")
        self._settings = Verify.model_validate(OmegaConf.to_container(content.verify))

    def __call__(self, request: EditRequest, edited: Pixels, editor: Editor) -> OutcomeState:
        """``anonymized`` where every check holds; never raises: doubt means that it is not."""
        try:
            candidate = _candidate(request, self._perception)
            verdict = verify(candidate, edited, request.mask, self._settings, editor)
        except Exception as error:
            log.warning("a validation picture is not shown: %s", type(error).__name__)
            return OutcomeState.FAILED
        return OutcomeState.ANONYMIZED if verdict.passed else OutcomeState.NEEDS_REVIEW


def _candidate(request: EditRequest, perception: Perception) -> Candidate:
    """What anonymize.py would make of the request's picture."""
    name = "validation"
    image = DecodedImage(
        pixels=np.ascontiguousarray(request.image),
        format="PNG",
        has_location=False,
        notes=(),
        copyright=None,
        icc_profile=None,
        content=b"",
    )
    triplet = Triplet(
        image_id=name,
        privacy_flag=PrivacyFlag.UNSAFE,
        state=TripletState.COMPLETE,
        public_caption=request.public_caption,
        edit_instruction=request.edit_instruction,
        combined_caption=None,
        reason="",
        provenance=Provenance(model=name),
    )
    record = ImageRecord(name, Path(name))
    return Candidate(record, image, triplet, list(request.regions), perception)
