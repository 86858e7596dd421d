"""A batch on its way to the loop: described, decoded, and looked at for the first time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from unsafe2safe.anonymize.candidate import Candidate
from unsafe2safe.anonymize.given_masks import GivenMasks
from unsafe2safe.anonymize.lookup import PrivateCaptions, TripletLookup
from unsafe2safe.core.config.schema import Anonymize
from unsafe2safe.core.errors import ItemError, UsageError, describe_fault
from unsafe2safe.core.records import ImageRecord, Region, Triplet, TripletState
from unsafe2safe.data.source import ImageSource
from unsafe2safe.editors.base import Editor
from unsafe2safe.vision.perception import Perception

Described = tuple[Triplet, tuple[Region, ...]]


@dataclass(frozen=True)
class PreparedBatch:
    """The candidates of a batch, and why its other images are none, by ``image_id``."""

    candidates: tuple[Candidate, ...]
    failures: Mapping[str, str]


class Descriptions:
    """What Stage 1 says of the images of a unit; each part of its run is read once."""

    def __init__(
        self, lookup: TripletLookup, captions: PrivateCaptions | None, image_ids: Sequence[str]
    ) -> None:
        self.triplets: dict[str, Described] = lookup.find(image_ids)
        self.captions = {name: captions.find(name) for name in image_ids} if captions else {}


class Preparation:
    """Prepares batches, in one thread at a time.

    It has detectors of its own, so that it may run beside the loop's: theirs are the same, and
    find the same.
    """

    def __init__(
        self,
        source: ImageSource,
        editors: Sequence[Editor],
        config: Anonymize,
        given: GivenMasks,
    ) -> None:
        self._source, self._editors, self._config = source, editors, config
        self._given = given
        self._own = Perception(config.vision, config.engine.threads)
        self.perception = Perception(config.vision, config.engine.threads)

    def prepare(self, records: Sequence[ImageRecord], described: Descriptions) -> PreparedBatch:
        """Never raises for a single image."""
        candidates: list[Candidate] = []
        failures: dict[str, str] = {}
        for record in records:
            found = described.triplets.get(record.image_id)
            if found is None:
                failures[record.image_id] = "no triplet; redo generate_triplets.py"
                continue
            caption = described.captions.get(record.image_id, "")
            try:
                candidates.append(self._candidate(record, found, caption))
            except ItemError as error:  # unreadable, or what is given does not fit it
                failures[record.image_id] = error.reason
            except UsageError:  # a data set that is not there fails every image
                raise
            except Exception as error:
                failures[record.image_id] = f"decoding raised {describe_fault(error)}"
        return PreparedBatch(tuple(candidates), failures)

    def _candidate(self, record: ImageRecord, described: Described, caption: str) -> Candidate:
        triplet, regions = described
        image = self._source.decode(record)
        given = self._given.of(record.image_id, *image.pixels.shape[:2])
        known = [*regions, *given.regions]
        candidate = Candidate(record, image, triplet, known, self._own, caption, given)
        if self._config.engine.ahead:
            self._look(candidate)
        candidate.perception = self.perception
        return candidate

    def _look(self, candidate: Candidate) -> None:
        """Look for what verification compares the edit with, and keep it with the candidate."""
        if candidate.claimed_safe or candidate.triplet.state != TripletState.COMPLETE:
            return
        settings = self._config.verify
        if settings.truth == "only":  # detectors are not asked
            return
        absent = settings.faces == "absent" or (
            settings.faces == "editor" and not any(each.draws_faces for each in self._editors)
        )
        with suppress(Exception):  # the loop looks again, and tells why it cannot
            if self._config.publish.names != "hash":  # else only where something is left to read
                _ = candidate.source_texts
            _ = None if absent else candidate.source_embeddings
