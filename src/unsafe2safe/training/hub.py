"""Exported weights on the hub: what is known to be public, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from unsafe2safe.core.errors import UsageError
from unsafe2safe.editors.base_weights import first_line

log = logging.getLogger("unsafe2safe")

# Weights, their configurations, tokenizers and the card; no pictures, tables or logs.
_ALLOWED = (".safetensors", ".json", ".txt", ".model", ".md")
_HEADER_AT_MOST = 100 << 20


def check_login() -> None:
    """Refuse where the hub would not know us.

    Raises:
        UsageError: there is no token.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise UsageError(
            "export.push_to_hub: not logged in to the hub; run `hf auth login` or set HF_TOKEN"
        )


def push(folder: Path, repository: str, private: bool, places: Iterable[Path]) -> str:
    """Upload ``folder`` as the root of ``repository``, made where there is none; its address.

    ``places`` of this machine must not be named in any of the files.

    Raises:
        UsageError: a file is of a kind that no export writes, or names a place; the repository is
            public where ``private`` is asked for; the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    files = list(_public_files(folder, [str(place.resolve()) for place in places]))
    api = HfApi()
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(made.repo_id).private:
            raise UsageError(
                f"export.push_to_hub={repository} is public on the hub: give export.private=false "
                "if what was trained may be public as well"
            )
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            allow_patterns=files,
            commit_message="Weights and card, by Unsafe2Safe",
        )
    except (HfHubHTTPError, OSError) as error:
        raise UsageError(f"export.push_to_hub={repository}: {first_line(error)}") from None
    return str(made)


def _public_files(folder: Path, places: list[str]) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or path.suffix not in _ALLOWED or name.startswith("."):
            raise UsageError(f"export.push_to_hub: {path} was not written by an export")
        text = _text_of(path)
        if any(place in text for place in places):
            raise UsageError(f"export.push_to_hub: {path} names a place of this machine")
        yield name


def _text_of(path: Path) -> str:
    """The file, or of weights their header."""
    with path.open("rb") as file:
        if path.suffix != ".safetensors":
            return file.read().decode("utf-8", "replace")
        length = int.from_bytes(file.read(8), "little")
        return file.read(min(length, _HEADER_AT_MOST)).decode("utf-8", "replace")
