"""Publishing in another thread than editing: waiting for the disk costs no time."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from unsafe2safe.anonymize.publish import EncodedImage, Publisher
from unsafe2safe.core.config.schema import Publish
from unsafe2safe.core.files import KeyedHash
from unsafe2safe.engines.overlap import BackgroundWriter


class BackgroundPublisher(Publisher):
    """Hands what it is to write to ``writer``, whose :meth:`BackgroundWriter.drain` raises what
    went wrong: to be called before anything says that the files are there."""

    def __init__(
        self, root: Path, settings: Publish, names: KeyedHash, writer: BackgroundWriter
    ) -> None:
        super().__init__(root, settings, names)
        self._writer = writer

    def write(self, name: str, encoded: EncodedImage) -> None:
        self._writer.submit(partial(super().write, name, encoded))
