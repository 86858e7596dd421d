"""``editor=external``: any command that maps a folder of images to a folder of edited images.

So other tools go through the same verification, and their results become rows of the same tables.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from unsafe2safe.core.config.components import component
from unsafe2safe.core.errors import ConfigError, ItemError, UnreadableImage
from unsafe2safe.core.files import make_private
from unsafe2safe.data.decode import decode_file
from unsafe2safe.editors.base import Editor, EditRequest, Pixels

log = logging.getLogger("unsafe2safe")

_FOLDERS = ("input", "output", "masks")
# What a command is given of our environment: enough to find its interpreter, its weights and the
# GPU. Keys and tokens stay here unless ``environment`` names them.
_PASSED_ON = (
    *("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_HOME", "OMP_NUM_THREADS"),
)
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_GRACE = 5.0  # seconds between asking a command to end and ending it
_HIDDEN = (
    "what it printed is not shown, since it may tell of the images; try it by hand on a folder"
)


@component
class ExternalEditor(Editor):
    """Hands each batch to a command as PNG files with neutral names, and reads what it wrote."""

    command: tuple[str, ...] = Field(
        description="Command and arguments; `{input}` and `{output}` stand for the folders, "
        "`{masks}` for one with masks of the same names, white where something sensitive is. "
        "Without `{output}`, results are sought in the input folder."
    )
    output_suffix: str = Field(
        default="",
        pattern=r"^[\w.-]*$",
        description="What the command adds to a file's name before its extension.",
    )
    draws_faces: bool = Field(  # type: ignore[misc]
        default=False,
        description="Whether the command puts new faces in place of old ones; if not, no face at "
        "all may be found after it.",
    )
    timeout: float = Field(default=600.0, gt=0, description="Seconds that a batch may take.")
    environment: tuple[str, ...] = Field(
        default=(),
        description="Names of variables of the environment that the command is given, beside PATH, "
        "HOME, LANG and those of CUDA.",
    )
    scratch: Path | None = Field(
        default=None,
        description="Folder for the batches' temporary folders, mode 0700; null: the system's.",
    )

    answers_to: ClassVar[frozenset[str]] = frozenset()

    @field_validator("command", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        return tuple(shlex.split(given)) if isinstance(given, str) else given

    def __post_init__(self) -> None:
        if not any("{input}" in argument for argument in self.command):
            raise ConfigError("editor.command names no {input} folder to read images from")
        if "{output}" not in " ".join(self.command) and not self.output_suffix:
            raise ConfigError(
                "editor.command names no {output} folder, so editor.output_suffix must tell its "
                "results from its input"
            )
        if shutil.which(self.command[0]) is None:
            raise ConfigError(f"editor.command: there is no command {self.command[0]!r}")

    def edit(self, requests: Sequence[EditRequest]) -> list[Pixels]:
        """Edit a batch with one start of the command; an empty array for each image of which no
        result of the right size came back.

        Raises:
            ItemError: the command failed or took too long.
        """
        if not requests:
            return []
        scratch = make_private(self.scratch) if self.scratch else None
        with tempfile.TemporaryDirectory(prefix="batch-", dir=scratch) as folder:
            folders = {name: Path(folder).resolve() / name for name in _FOLDERS}
            for path in folders.values():
                path.mkdir()
            names = [f"{number:06d}" for number in range(len(requests))]
            for name, request in zip(names, requests, strict=True):
                _save(folders["input"] / f"{name}.png", request.image)
                _save(folders["masks"] / f"{name}.png", _mask_image(request))
            self._run(folders)
            written = folders["output" if self._has_output else "input"]
            return [
                self._result(written, name, request)
                for name, request in zip(names, requests, strict=True)
            ]

    @property
    def _has_output(self) -> bool:
        return any("{output}" in argument for argument in self.command)

    def _run(self, folders: Mapping[str, Path]) -> None:
        arguments = [_filled(argument, folders) for argument in self.command]
        given = {
            name: os.environ[name]
            for name in (*_PASSED_ON, *self.environment)
            if name in os.environ
        }
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folders["output"],
                env={**given, "TMPDIR": str(folders["output"].parent)},
                start_new_session=True,  # so that its own children end with it
            )
        except OSError as error:
            raise ItemError("a batch", f"the external command: {error.strerror}") from None
        try:
            status = process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            log.warning("editor=%s took longer than %g s; %s", self.name, self.timeout, _HIDDEN)
            raise ItemError("a batch", "the external command took too long") from None
        finally:
            _end(process)
        if status != 0:
            log.warning("editor=%s ended with status %d; %s", self.name, status, _HIDDEN)
            raise ItemError("a batch", f"the external command ended with status {status}")

    def _result(self, folder: Path, name: str, request: EditRequest) -> Pixels:
        """What the command made of an image, or an empty array."""
        height, width = request.image.shape[:2]
        paths = [folder / f"{name}{self.output_suffix}{suffix}" for suffix in _SUFFIXES]
        found = [path for path in paths if path.is_file() and not path.is_symlink()]
        nothing: Pixels = np.empty((0, 0, 3), np.uint8)
        if len(found) != 1:
            told = "wrote nothing" if not found else "wrote several files"
            log.warning("editor=%s %s for one of its images; %s", self.name, told, _HIDDEN)
            return nothing
        try:
            edited = decode_file(
                found[0], name, orientation="raster", max_pixels=4 * height * width
            ).pixels
        except UnreadableImage as error:
            log.warning("editor=%s wrote an unreadable image: %s", self.name, error.reason)
            return nothing
        if edited.shape != request.image.shape:
            log.warning(
                "editor=%s wrote an image of %d x %d for one of %d x %d",
                *(self.name, edited.shape[1], edited.shape[0], width, height),
            )
            return nothing
        return edited


def _filled(argument: str, folders: Mapping[str, Path]) -> str:
    for name, path in folders.items():
        argument = argument.replace(f"{{{name}}}", str(path))
    return argument


def _save(path: Path, pixels: Pixels) -> None:
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, "PNG", compress_level=1)


def _mask_image(request: EditRequest) -> Pixels:
    white: Pixels = np.where(request.mask > 0, np.uint8(255), np.uint8(0))
    return white


def _end(process: subprocess.Popen[bytes]) -> None:
    """End whatever of the command is left: it holds originals."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            continue
