"""Is a run folder of ``anonymize.py`` still what was verified and published?

Needs the folder and nothing else: no data set, no key, no model, no network. Nothing is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unsafe2safe.anonymize.chain import (
    CHAIN_FILE,
    Chain,
    first_link,
    hash_file,
    next_link,
    read_chain,
)
from unsafe2safe.anonymize.manifest import MANIFEST, read_rows
from unsafe2safe.core.errors import UnreadableImage, UsageError
from unsafe2safe.core.files import inside
from unsafe2safe.core.ledger import read_run
from unsafe2safe.core.records import Outcome, WorkUnit
from unsafe2safe.core.tables import read_records
from unsafe2safe.data.decode import stated_size
from unsafe2safe.data.metadata import leftover_metadata

PUBLISHED = "published"
_PARTS = "audit"
# What a run folder holds beside what its chain covers: clocks, locks, what trackers were told.
_UNCOVERED_FILES = frozenset({"run.json", "metrics.csv", MANIFEST, CHAIN_FILE})
_UNCOVERED_FOLDERS = frozenset({"wandb", "tensorboard"})
_LOCKS = ".lock"


@dataclass(frozen=True, order=True)
class Fault:
    """What is not as it was: a path from the run folder, and what is wrong with it."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


@dataclass(frozen=True)
class AuditReport:
    """What was looked at, and every fault found, sorted by path."""

    images: int
    published: int
    root: str
    faults: tuple[Fault, ...]

    @property
    def passed(self) -> bool:
        return not self.faults


def audit(folder: Path, expected_root: str | None = None) -> AuditReport:
    """Verify the run folder ``folder``; ``expected_root`` is the chain's root as its publisher
    told it on another way.

    Raises:
        UsageError: it is no complete run folder of anonymize.py to begin with.
    """
    state = read_run(folder) or {}
    if not folder.is_dir() or (state.get("script") != "anonymize" and not _looks_like_one(folder)):
        raise UsageError(f"output_dir={folder} is no run folder of anonymize.py")
    if state.get("status", "complete") != "complete":
        raise UsageError(
            f"output_dir={folder} is not complete; the command that began it goes on from there"
        )
    return _Audit(folder).report(state.get("audit_root"), expected_root)


def _looks_like_one(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or (folder / CHAIN_FILE).is_file()


@dataclass
class _Audit:
    """One pass over a folder; faults are collected, never raised."""

    folder: Path
    faults: set[Fault] = field(default_factory=set)
    named: set[str] = field(default_factory=set)  # published names of the manifest
    wanted: dict[str, str] = field(default_factory=dict)  # of faulty files: hash to name
    found: dict[str, str] = field(default_factory=dict)  # of faulty files: name to hash
    parts: set[str] = field(default_factory=set)  # files of the units that the chain knows
    images: int = 0

    def report(self, noted_root: object, expected_root: str | None) -> AuditReport:
        chain, stated = self._chain()
        if chain is not None and stated != chain.root:
            self.fault(CHAIN_FILE, "was edited: its root is not that of its content")
        if isinstance(noted_root, str) and noted_root != stated:
            self.fault(CHAIN_FILE, "is not the run's own: run.json notes another root")
        if expected_root is not None and stated != expected_root.lower():
            self.fault(CHAIN_FILE, f"its root is {stated or 'unknown'}, not the expected one")
        self._rows(chain)
        self._tell_contents_elsewhere()
        if chain is not None:  # without it nobody knows what else belongs here
            self._parts(chain)
            self._extras(chain)
            self._strangers(chain.files)
        return AuditReport(self.images, len(self.named), stated, tuple(sorted(self.faults)))

    def fault(self, path: str, problem: str) -> None:
        self.faults.add(Fault(path, problem))

    def _chain(self) -> tuple[Chain | None, str]:
        try:
            return read_chain(self.folder)
        except FileNotFoundError:
            self.fault(CHAIN_FILE, "is missing")
        except (UsageError, OSError) as error:
            told = str(error).removeprefix(f"{self.folder / CHAIN_FILE} ")
            self.fault(CHAIN_FILE, told if isinstance(error, UsageError) else "cannot be read")
        return None, ""

    # -- the manifest ------------------------------------------------------------------------------

    def _rows(self, chain: Chain | None) -> None:
        """Walk the manifest along the chain and look at each published file on the way."""
        allowed = frozenset(chain.allowed_metadata) if chain is not None else frozenset[str]()
        walk = _Walk(self)
        path = self.folder / MANIFEST
        if not path.is_file():
            self.fault(MANIFEST, "is missing")
        else:
            try:
                for row in read_rows(path):
                    self.images += 1
                    walk.step(row.unit, row.row_hash, row.outcome)
                    self._published(row.outcome, allowed)
            except ValueError as error:
                self.fault(MANIFEST, str(error))
        walk.end(chain)

    def _published(self, outcome: Outcome, allowed: frozenset[str]) -> None:
        name = outcome.published_as
        if name is None:
            return
        place = f"{PUBLISHED}/{name}"
        if name in self.named:
            self.fault(MANIFEST, f"names {name} twice")
        self.named.add(name)
        try:
            path = inside(self.folder / PUBLISHED, name)
        except UsageError:
            self.fault(MANIFEST, f"names {name}, which leaves the published folder")
            return
        if path.is_symlink() or not path.is_file():
            self.fault(place, "is a link" if path.is_symlink() else "is missing")
            self.wanted[outcome.output_sha256] = name
            return
        try:
            content = path.read_bytes()
        except OSError as error:
            self.fault(place, f"cannot be read ({type(error).__name__})")
            return
        digest = hashlib.sha256(content).hexdigest()
        if digest != outcome.output_sha256:
            self.wanted[outcome.output_sha256] = name
            self.found[name] = digest
        for left in leftover_metadata(content, allowed):
            self.fault(place, f"holds metadata: {left}")
        size = _size(content)
        if size != (outcome.width, outcome.height):
            told = f"is {size[0]} x {size[1]} pixels" if size else "is no picture"
            self.fault(place, f"{told}, not {outcome.width} x {outcome.height}")

    def _tell_contents_elsewhere(self) -> None:
        """A file with other bytes than the manifest's is changed, or another one of them."""
        for name, digest in self.found.items():
            other = self.wanted.get(digest)
            told = f"holds the picture of {other}" if other else "was changed: its hash differs"
            self.fault(f"{PUBLISHED}/{name}", told)

    # -- all other files ---------------------------------------------------------------------------

    def _parts(self, chain: Chain) -> None:
        """The units' own files hold the same rows as the manifest."""
        for unit in chain.units:
            place = f"{_PARTS}/{unit.name}.parquet"
            self.parts.add(place)
            path = self.folder / place
            if not path.is_file():
                self.fault(place, "is missing")
                continue
            try:
                rows = read_records(path, Outcome)
            except UsageError:
                self.fault(place, "is damaged")
                continue
            link = first_link(unit.name)
            for row in rows:
                link = next_link(link, row)
            if (len(rows), link) != (unit.rows, unit.head):
                self.fault(place, "was edited: its rows do not give the unit's hash")

    def _extras(self, chain: Chain) -> None:
        for place, expected in chain.files.items():
            try:
                path = inside(self.folder, place)
            except UsageError:
                self.fault(CHAIN_FILE, f"names {place}, which leaves the folder")
                continue
            if path.is_symlink() or not path.is_file():
                self.fault(place, "is a link" if path.is_symlink() else "is missing")
            elif hash_file(path) != expected:
                self.fault(place, "was changed: its hash differs")

    def _strangers(self, covered: Mapping[str, str]) -> None:
        """Files that nobody has verified lie beside those that somebody has."""
        for path in _files(self.folder):
            place = path.relative_to(self.folder).as_posix()
            top = place.partition("/")[0]
            if place in covered or place in _UNCOVERED_FILES or top in _UNCOVERED_FOLDERS:
                continue
            if top == PUBLISHED and place.removeprefix(f"{PUBLISHED}/") in self.named:
                continue
            if place in self.parts:
                continue
            if top.startswith(_LOCKS) and top == place:
                continue
            self.fault(place, "was added: the run did not write it")


@dataclass
class _Walk:
    """Along the rows of a manifest; each link is recomputed from the one that the file states
    before it, so that one edited row is one fault."""

    audit: _Audit
    unit: int = -1
    link: str = ""
    heads: dict[str, tuple[int, str]] = field(default_factory=dict)

    def step(self, unit: int, stated: str, outcome: Outcome) -> None:
        name = WorkUnit(unit, ()).name
        if unit != self.unit:
            if unit < self.unit:
                self.audit.fault(MANIFEST, f"{name} stands at the wrong place")
            self.unit, self.link = unit, first_link(name)
        rows = self.heads.get(name, (0, ""))[0] + 1
        try:
            follows = next_link(self.link, outcome) == stated
        except ValueError:  # the link before is no hash
            follows = False
        if not follows:
            self.audit.fault(
                MANIFEST,
                f"row {rows} of {name} ({outcome.image_id}) was edited or moved, or one before it "
                "was removed",
            )
        self.link = stated
        self.heads[name] = rows, stated

    def end(self, chain: Chain | None) -> None:
        if chain is None:
            return
        for index, unit in enumerate(chain.units):
            if unit.name != WorkUnit(index, ()).name:
                self.audit.fault(CHAIN_FILE, f"lacks {WorkUnit(index, ()).name}")
                break
        for unit in chain.units:
            found = self.heads.pop(unit.name, None)
            if found is None:
                self.audit.fault(MANIFEST, f"lacks {unit.name} with its {unit.rows} rows")
            elif found[0] != unit.rows:
                self.audit.fault(MANIFEST, f"{unit.name} has {found[0]} rows, not {unit.rows}")
            elif found[1] != unit.head:
                self.audit.fault(MANIFEST, f"{unit.name} does not end with the chain's hash")
        for name in self.heads:
            self.audit.fault(MANIFEST, f"has rows of {name}, which the chain does not know")


def _size(content: bytes) -> tuple[int, int] | None:
    """Width and height that a picture's header states."""
    try:
        return stated_size(content, "")
    except UnreadableImage:
        return None


def _files(folder: Path) -> Iterator[Path]:
    """All files and links below ``folder``, whatever they are called."""
    return (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())


def report_json(report: AuditReport) -> str:
    """The report as JSON text."""
    content = {
        "passed": report.passed,
        "images": report.images,
        "published": report.published,
        "root": report.root,
        "faults": [{"path": fault.path, "problem": fault.problem} for fault in report.faults],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
