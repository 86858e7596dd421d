"""The public side of a run as a data set of its own: ``mode=export``.

``export/`` holds two Parquet files and a card that ``datasets.load_dataset`` understands. Nothing
of ``paths.private``, no path and no image is in it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from unsafe2safe.core.config.schema import GenerateTriplets
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import atomic_path, write_text
from unsafe2safe.core.ledger import read_run
from unsafe2safe.core.locks import lock_folder, opening
from unsafe2safe.core.records import ExitStatus, Region, RunResult, Triplet
from unsafe2safe.core.tables import SCHEMAS, read_table
from unsafe2safe.data.source import ImageSource
from unsafe2safe.jobs.common import find_input, open_source

log = logging.getLogger("unsafe2safe")

_SCRIPT = "generate_triplets"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"),
          (10**7, "1M<n<10M"))  # fmt: skip
_NAMED = 20  # licences that the card lists
_DESCRIBED = (
    "Each image is inspected and captioned; the instruction is written from the public caption "
    "only; public texts that repeat something private are replaced."
)
_IMPORTED = (
    "The texts and flags were imported from a ready-made table; how they came about is not known "
    "here. Public texts that repeat something private were taken out."
)


def run(config: GenerateTriplets, run_folder: Path | None = None) -> RunResult:
    """Write ``export/`` into a complete run folder: ``run_folder``, else ``output_dir``, else the
    newest of the data set.

    Raises:
        UsageError: there is no such run, it is not complete, or one of its parts is damaged.
    """
    given = run_folder or config.output_dir
    how = f"python {_SCRIPT}.py dataset={config.dataset['name']}"
    found = find_input(config, "output_dir", given, _SCRIPT, how)
    source = open_source(config)
    with opening(found):
        lock = lock_folder(found, None)
    try:
        return _export(found, source)
    finally:
        lock.release()


def _export(run_folder: Path, source: ImageSource) -> RunResult:
    export = run_folder / "export"
    counted = _Counted()
    _write(export / "data" / "triplets.parquet", Triplet, counted.triplets(run_folder))
    regions = export / "data" / "regions.parquet"
    _write(regions, Region, counted.regions(run_folder))
    if not counted.categories:  # `datasets` cannot read a table without rows
        regions.unlink()
    state = read_run(run_folder) or {}
    write_text(export / "README.md", _card(source, state.get("versions", {}), counted))
    counts = {"images": sum(counted.states.values()), "regions": counted.categories.total()}
    message = (
        f"{counts['images']} triplets and {counts['regions']} regions: {export}\n"
        f'read them with datasets.load_dataset("{export}", "triplets")'
    )
    return RunResult(ExitStatus.DONE, run_folder, counts, (export,), message)


@dataclass(eq=False)
class _Counted:
    """What the card tells, counted while the tables are copied part by part."""

    image_ids: set[str] = field(default_factory=set)
    states: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    makers: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)

    def triplets(self, run_folder: Path) -> Iterator[pa.Table]:
        for table in _parts(run_folder / "triplets", Triplet):
            self.image_ids.update(table["image_id"].to_pylist())
            self.states.update(table["state"].to_pylist())
            complete = zip(
                table["privacy_flag"].to_pylist(), table["state"].to_pylist(), strict=True
            )
            self.flags.update(flag for flag, state in complete if state == "complete")
            for made in table["provenance"].to_pylist():
                self.makers[made["model"], made["revision"], made["prompt_hash"]] += 1
            yield table

    def regions(self, run_folder: Path) -> Iterator[pa.Table]:
        for table in _parts(run_folder / "regions", Region):
            self.categories.update(table["category"].to_pylist())
            yield table


def _parts(folder: Path, record_type: type[Triplet | Region]) -> Iterator[pa.Table]:
    paths = sorted(folder.glob("part-*.parquet"))
    if not paths:
        raise UsageError(f"{folder} holds no parts; run the same command with mode=run")
    for path in paths:
        yield read_table(path, record_type)  # type: ignore[type-var]


def _write(path: Path, record_type: type, tables: Iterator[pa.Table]) -> None:
    schema = SCHEMAS[record_type]
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_statistics=False) as writer,
    ):
        for table in tables:
            if table.num_rows:
                writer.write_table(table.select(schema.names).cast(schema))


def _card(source: ImageSource, versions: Mapping[str, str], counted: _Counted) -> str:
    total = counted.states.total()
    configs: list[dict[str, Any]] = [
        {"config_name": "triplets", "data_files": "data/triplets.parquet", "default": True}
    ]
    if counted.categories:
        configs.append({"config_name": "regions", "data_files": "data/regions.parquet"})
    name = _plain(source.name)
    size = next((label for bound, label in _SIZES if total < bound), "10M<n<100M")
    header = {
        "pretty_name": f"Unsafe2Safe triplets of {name}",
        "license": "other",
        "license_name": "as-the-images",
        "task_categories": ["image-to-image"],
        "tags": ["privacy", "anonymization", "image-editing"],
        "size_categories": [size],
        "configs": configs,
    }
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# Unsafe2Safe triplets of {name}",
        "",
        f"For each of {total} images of the data set `{name}`: whether it is safe to publish, a "
        "caption that names nothing private, an instruction for an image editor that would make it "
        "safe, and the boxes of what is sensitive. The images themselves are not part of it, nor "
        "are private captions or anything that was read in an image.",
        "",
        "```python",
        "from datasets import load_dataset",
        'triplets = load_dataset("<this folder>", "triplets", split="train")',
        *(['regions = load_dataset("<this folder>", "regions", split="train")']
          if counted.categories else []),
        "```",
        "",
        *_counts(counted),
        *_columns(bool(counted.categories)),
        *_made(versions, counted),
        *_licences(source, counted),
        "## Limits",
        "",
        "Flags and texts come from models and are wrong at times; a row whose `state` is not "
        "`complete` is unsafe until a person has looked at it. What is made with these triplets "
        "is anonymized by this procedure; no law's notion of anonymous is claimed.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _counts(counted: _Counted) -> list[str]:
    rows = [("complete, " + flag, n) for flag, n in sorted(counted.flags.items())]
    rows += [(state, n) for state, n in sorted(counted.states.items()) if state != "complete"]
    rows += [(f"regions: {category}", n) for category, n in sorted(counted.categories.items())]
    return ["## Counts", "", *_table(("what", "count"), rows), ""]


def _columns(regions: bool) -> list[str]:
    rows = [
        ("image_id", "path of the image in its data set"),
        ("privacy_flag", "`safe` or `unsafe`; doubt means unsafe"),
        ("state", "`complete`, `needs_review` or `failed`"),
        ("public_caption", "what is to be seen, without anything private"),
        ("edit_instruction", "what an editor should change"),
        ("combined_caption", "both in one text, for editors with one text input"),
        ("reason", "why the image is unsafe or not complete, by kind"),
        ("provenance", "model, revision, hash of the prompts, seed, version of the schema"),
    ]
    more = "`regions` has `image_id`, `box` (left, top, width, height in pixels of the upright "
    more += "image), `category`, `score` and `source`, the detector."
    return [
        "## Columns",
        "",
        *_table(("column", "meaning"), rows),
        "",
        *([more, ""] if regions else []),
    ]


def _made(versions: Mapping[str, str], counted: _Counted) -> list[str]:
    rows = [
        (_plain(model), _plain(revision) or "-", f"`{prompts[:16]}`" if prompts else "-", n)
        for (model, revision, prompts), n in sorted(counted.makers.items())
    ]
    imported = any(model.startswith("import:") for model, _, _ in counted.makers)
    used = ", ".join(f"{_plain(name)} {_plain(version)}" for name, version in versions.items())
    return [
        "## How it was made",
        "",
        "By `generate_triplets.py` of Unsafe2Safe (after arXiv 2603.28605). "
        f"{_IMPORTED if imported else _DESCRIBED}",
        "",
        *_table(("model", "revision", "prompts", "images"), rows),
        "",
        *([f"Versions: {used}.", ""] if used else []),
    ]


def _licences(source: ImageSource, counted: _Counted) -> list[str]:
    licences: Counter[str] = Counter()
    credited = 0
    for record in source.records():
        if record.image_id in counted.image_ids:
            licences[_plain(record.licence or "") or "not stated"] += 1
            credited += bool(record.credit)
    rows: list[tuple[str, int]] = licences.most_common(_NAMED)
    rest = licences.total() - sum(n for _, n in rows)
    rows += [("others", rest)] if rest else []
    return [
        "## Licences of the images",
        "",
        "These triplets describe images that have licences of their own; some forbid edited "
        f"copies. {credited} of {licences.total()} images name someone to credit.",
        "",
        *_table(("licence", "images"), rows),
        "",
    ]


def _table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [heading, ["---"] * len(heading), *rows]
    return [f"| {' | '.join(str(cell) for cell in line)} |" for line in lines]


def _plain(text: str) -> str:
    """Foreign text fit for a Markdown table: one line, no mark-up, no local path."""
    clean = "".join(c if c.isprintable() and c not in "|`<>[]\\" else " " for c in text)
    words = [
        word.rsplit("/", 1)[-1] if word.startswith(("/", "~")) else word for word in clean.split()
    ]
    return " ".join(words)[:200]
