"""Where a base's weights come from: a repository of the hub at a commit, or a local folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from unsafe2safe.core.errors import UsageError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_READ_AT_ONCE = 1 << 22
# What of a folder decides what it computes; model cards and examples do not.
_COUNTED = ("*.safetensors", "*.json", "merges.txt")


@dataclass(frozen=True)
class BaseWeights:
    """A diffusers pipeline on the hub or in a folder.

    ``revision`` is a commit, tag or branch of the hub's; None in a folder.
    """

    location: str
    revision: str | None

    @classmethod
    def of(cls, given: str, revision: str | None, pinned: Mapping[str, str]) -> BaseWeights:
        """``given`` as a folder if it is one, else as a hub id.

        Without a ``revision`` it is the one that ``pinned`` knows for the id, else ``main``.

        Raises:
            UsageError: it is neither.
        """
        if Path(given).expanduser().is_dir():
            return cls(str(Path(given).expanduser()), None)
        if not _HUB_ID.fullmatch(given):
            raise UsageError(
                f"editor.weights={given} is no folder, and no id of the hub (owner/name)"
            )
        return cls(given, revision or pinned.get(given, "main"))

    @property
    def is_folder(self) -> bool:
        """Whether it lies on this machine, outside the hub's cache."""
        return self.revision is None

    def content(self, parts: Iterable[str]) -> str:
        """What the weights are, for a run's fingerprint: id and revision, or a hash of the files
        of ``parts`` (folders of the pipeline)."""
        if not self.is_folder:
            return f"{self.location}@{self.revision}"
        folder = Path(self.location)
        found = (
            path for part in parts for kind in _COUNTED for path in folder.glob(f"{part}/{kind}")
        )
        return files_digest(folder, found)

    def component_config(self, kind: Any, part: str) -> dict[str, Any]:
        """``config.json`` of one part, of the diffusers class ``kind``; no weight is loaded.

        Raises:
            UsageError: there is none.
        """
        try:
            config: dict[str, Any] = kind.load_config(
                self.location,
                subfolder=part,
                revision=self.revision,
                local_files_only=self.is_folder,
            )
        except (OSError, ValueError) as error:
            raise self._unusable(error) from None
        return config

    def load(self, pipeline_class: Any, **settings: Any) -> Any:
        """A pipeline of ``pipeline_class``, from safetensors alone.

        Raises:
            UsageError: it is not there, is damaged, or is a pipeline of another kind.
        """
        try:
            return pipeline_class.from_pretrained(
                self.location,
                revision=self.revision,
                local_files_only=self.is_folder,
                use_safetensors=True,
                **settings,
            )
        except (OSError, ValueError, TypeError) as error:
            raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> UsageError:
        where = self.location if self.is_folder else f"{self.location} (revision {self.revision})"
        return UsageError(f"editor.weights={where}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def files_digest(folder: Path, paths: Iterable[Path]) -> str:
    """A hash of what ``paths`` below ``folder`` are called and hold."""
    digest = blake2b(digest_size=8)
    for path in sorted(paths):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            while piece := file.read(_READ_AT_ONCE):
                digest.update(piece)
    return digest.hexdigest()
