"""The hash chain over a run's outcomes: which rows there are, in which order, and nothing else.

Within a work unit the hash of each row covers the row and the hash before it; the last one is the
unit's head. ``audit/chain.json`` lists the heads in the order of the units, the hashes of all other
files that are handed on, and one root over all of it. It holds no name of a person or an original.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import write_json
from unsafe2safe.core.records import Outcome

FORMAT = 1
CHAIN_FILE = "audit/chain.json"
_READ_AT_ONCE = 1 << 20


def first_link(unit: str) -> str:
    """What the first row of a unit follows."""
    return hashlib.sha256(f"unsafe2safe audit {FORMAT} {unit}".encode()).hexdigest()


def next_link(before: str, outcome: Outcome) -> str:
    """SHA-256 over the link before and the row's content: JSON with sorted keys and no spaces,
    non-ASCII escaped, numbers as Python's ``repr`` has them."""
    content = json.dumps(asdict(outcome), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(bytes.fromhex(before) + content.encode("ascii")).hexdigest()


@dataclass(frozen=True)
class UnitHead:
    """A unit's name, how many rows it has, and the link of its last one."""

    name: str
    rows: int
    head: str


@dataclass(frozen=True)
class Chain:
    """The content of ``audit/chain.json``.

    ``allowed_metadata`` is what published files may hold beside their pixels. ``files`` are
    SHA-256 hashes of the files beside the published pictures, by path from the run folder.
    """

    allowed_metadata: tuple[str, ...]
    units: tuple[UnitHead, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def root(self) -> str:
        """One hash over all of it."""
        content = json.dumps(self._plain(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode("ascii")).hexdigest()

    @property
    def images(self) -> int:
        return sum(unit.rows for unit in self.units)

    def write(self, run_folder: Path) -> None:
        write_json(run_folder / CHAIN_FILE, {**self._plain(), "root": self.root})

    def _plain(self) -> dict[str, Any]:
        plain = asdict(self)
        plain["files"] = dict(self.files)
        return plain


def read_chain(run_folder: Path) -> tuple[Chain, str]:
    """The chain of a run folder, and the root that its file states.

    Raises:
        FileNotFoundError: there is none.
        UsageError: the file is damaged, or of a format that this version does not know.
    """
    path = run_folder / CHAIN_FILE
    content = path.read_bytes()
    try:
        plain = json.loads(content)
        stated = str(plain.pop("root"))
        chain: Chain = TypeAdapter(Chain).validate_python(plain)
    except (ValueError, KeyError, AttributeError, ValidationError) as error:
        raise UsageError(f"{path} is damaged ({type(error).__name__})") from None
    if chain.format != FORMAT:
        raise UsageError(f"{path} has format {chain.format}; this version knows {FORMAT}")
    return chain, stated


def hash_file(path: Path) -> str:
    """SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


class Extras:
    """Files beside the published pictures that are handed on with them and audited as well.

    Whatever writes such a file registers it here once it is whole.
    """

    def __init__(self, run_folder: Path) -> None:
        self._root = run_folder
        self._hashes: dict[str, str] = {}

    def add(self, *paths: Path) -> None:
        """Register files below the run folder.

        Raises:
            ValueError: a path that does not lie below it.
        """
        for path in paths:
            self._hashes[path.relative_to(self._root).as_posix()] = hash_file(path)

    def has(self, path: Path) -> bool:
        return path.relative_to(self._root).as_posix() in self._hashes

    @property
    def hashes(self) -> dict[str, str]:
        return dict(sorted(self._hashes.items()))
