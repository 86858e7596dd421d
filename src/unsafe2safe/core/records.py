"""What travels between the rooms: plain, frozen records without behaviour of their own.

The public side (``Triplet``, ``Region``, ``Outcome``, ``Pair``) may be handed on. The private side
(``PrivateRecord``, ``Finding``) never leaves ``paths.private``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import NamedTuple

SCHEMA_VERSION = 1


class PrivacyFlag(StrEnum):
    SAFE = "safe"
    UNSAFE = "unsafe"


class TripletState(StrEnum):
    COMPLETE = "complete"
    NEEDS_REVIEW = "needs_review"
    FAILED = "failed"


class OutcomeState(StrEnum):
    SAFE = "safe"
    ANONYMIZED = "anonymized"
    NEEDS_REVIEW = "needs_review"
    FAILED = "failed"

    @property
    def publishable(self) -> bool:
        return self in (OutcomeState.SAFE, OutcomeState.ANONYMIZED)


class Category(StrEnum):
    """What a finding or a region is about. A region's category decides how it is redacted."""

    FACE = "face"
    HEAD = "head"  # the head of a person whose face no detector saw
    PERSON = "person"
    TEXT = "text"
    PLATE = "plate"
    LOCATION = "location"  # metadata only, such as EXIF GPS; has no box
    OTHER = "other"  # what a model told of that no detector has a box for


class Box(NamedTuple):
    """Pixels of the decoded image: left, top, width, height."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def area(self) -> float:
        return max(self.width, 0.0) * max(self.height, 0.0)

    def moved(self, right: float, down: float) -> Box:
        """The box so many pixels further to the right and down."""
        return Box(self.x + right, self.y + down, self.width, self.height)


@dataclass(frozen=True)
class ImageRecord:
    """An image of a data set before it is decoded.

    ``image_id`` is the path relative to the data set's root, extension included, POSIX style.
    ``layout_folder`` is the part of its folders that belongs to the data set's public layout (a
    split, a class), not to the image: it stays where published names are hashed.
    """

    image_id: str
    path: Path
    width: int | None = None  # as annotated, not as decoded
    height: int | None = None
    label: str | None = None
    captions: tuple[str, ...] = ()
    licence: str | None = None
    credit: str | None = None
    layout_folder: str = ""


@dataclass(frozen=True)
class Finding:
    """Private: something sensitive that was seen, with the very string where it is text."""

    category: Category
    score: float
    source: str
    box: Box | None = None
    text: str = ""


@dataclass(frozen=True)
class Region:
    """Public: where something sensitive is, without any string. Masks are made of regions."""

    image_id: str
    box: Box
    category: Category
    score: float
    source: str


@dataclass(frozen=True)
class Provenance:
    """How a record came about; no clock, host or process id, so equal runs give equal bytes."""

    model: str
    revision: str = ""
    prompt_hash: str = ""
    seed: int = 0
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True)
class Triplet:
    """Public side of Stage 1 for one image."""

    image_id: str
    privacy_flag: PrivacyFlag
    state: TripletState
    public_caption: str
    edit_instruction: str
    combined_caption: str | None
    reason: str
    provenance: Provenance


@dataclass(frozen=True)
class PrivateRecord:
    """Private side of Stage 1 for one image."""

    image_id: str
    private_caption: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Check:
    """One verification measure of an edited image against its threshold."""

    name: str
    value: float
    threshold: float
    passed: bool


@dataclass(frozen=True)
class Attempt:
    """One round of edit and verification.

    ``rung`` says what was changed for it ("first", "seed", "editor=ip2p", ...), ``strength`` counts
    the rungs that its editor had climbed before, ``adapter`` is the fingerprint of the training
    run. ``margin`` of the masks and ``text_guidance``, as a multiple of the editor's own, are as
    they came to be; None, and an empty rung, in tables from before they were recorded.
    """

    editor: str
    strength: int
    seed: int
    checks: tuple[Check, ...]
    reason: str = ""
    rung: str = ""
    adapter: str = ""
    margin: float | None = None
    text_guidance: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The fate of one image in Stage 2. ``published_as`` is set exactly when publishable.

    ``width`` and ``height`` are the published picture's, 0 where there is none.
    ``notes`` say what reading and writing changed beside the edit ("converted from CMYK").
    """

    image_id: str
    state: OutcomeState
    reason: str
    published_as: str | None
    editor: str
    adapter: str
    attempts: tuple[Attempt, ...]
    input_hmac: str
    output_sha256: str
    provenance: Provenance
    width: int = 0
    height: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.state.publishable != (self.published_as is not None):
            raise ValueError(f"{self.image_id}: state {self.state} with {self.published_as=}")


@dataclass(frozen=True)
class Pair:
    """One training pair. ``source`` is an ``image_id`` of the data set; ``target`` and ``mask`` are
    paths relative to the run folder that holds the pairs. ``mask``, a grey PNG as large as the
    source, says what was edited; None: the regions do."""

    image_id: str
    source: str
    target: str
    public_caption: str
    edit_instruction: str
    regions: tuple[Region, ...]
    scores: tuple[Check, ...] = ()
    combined_caption: str | None = None
    mask: str | None = None


@dataclass(frozen=True)
class MetricResult:
    """A measured figure with what it rests on.

    ``n`` counts the items measured, ``n_missing`` those that should have been and could not,
    ``n_not_applicable`` those to which the metric does not apply. ``value`` is None when n is 0.
    ``interval`` is the 95 % bootstrap interval clustered by image. ``details`` are further figures
    that belong to the value, by name, such as the floor of chance. ``unavailable`` says why the
    metric could not be measured at all, such as weights that are missing.
    """

    value: float | None
    n: int
    n_missing: int = 0
    n_not_applicable: int = 0
    interval: tuple[float, float] | None = None
    details: dict[str, float] = field(default_factory=dict)
    unavailable: str = ""


@dataclass(frozen=True)
class WorkUnit:
    """A fixed list of images cut from the whole sorted data set; batches never cross it."""

    index: int
    image_ids: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"part-{self.index:06d}"


class ExitStatus(IntEnum):
    DONE = 0
    FAULT = 1
    UNUSABLE = 2
    DONE_WITH_FAILURES = 3
    STOPPED = 143  # by a signal, after saving: as a shell tells of SIGTERM

    @property
    def severity(self) -> int:
        """Order in which a sweep's jobs are compared; the worst decides."""
        return {0: 0, 3: 1, 143: 2, 2: 3, 1: 4}[int(self)]


@dataclass(frozen=True)
class RunResult:
    """What a job hands back to its script or to a Python caller."""

    status: ExitStatus
    output_dir: Path | None
    counts: dict[str, int] = field(default_factory=dict)
    written: tuple[Path, ...] = ()
    message: str = ""
