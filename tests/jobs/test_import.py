"""Imported triplets are what the table says; what it does not say is unsafe and to be reviewed."""

from __future__ import annotations

import csv
import io
import json
import shutil
import stat

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unsafe2safe.core.config.compose import load
from unsafe2safe.core.config.schema import ImportTable, TableColumns
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Category, Pair, PrivateRecord, Region, Triplet
from unsafe2safe.core.tables import read_parts
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.data.triplet_table import TripletTable, read_flag
from unsafe2safe.jobs.import_triplets import run

PHOTOS = ("cat.jpg", "coffee.jpg", "coffee_note.jpg", "president_a.jpg")
HEADING = ("image_id", "privacy_flag", "public_caption", "edit_instruction", "private_caption")
ROWS = (
    ("cat.jpg", "safe", "A cat.", "", ""),
    ("coffee.jpg", "FALSE", "A cup of coffee.", "", ""),
    ("coffee_note.jpg", "unsafe", "A cup, with a note.", "Blank the note.", "Anna Weber's note."),
    ("president_a.jpg", "<TRUE>", "A person.", "Change the person's hair.", "A president."),
)


@pytest.fixture
def world(tmp_path):
    for photo in PHOTOS:
        (tmp_path / "photos" / "in").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photos_folder() / photo, tmp_path / "photos" / "in" / photo)
    return tmp_path


def config_of(world, *overrides):
    return load(
        "generate_triplets",
        [
            "dataset=folder",
            f"dataset.root={world / 'photos'}",
            f"paths.runs={world / 'runs'}",
            f"paths.private={world / 'private'}",
            "engine.unit_size=3",
            *overrides,
        ],
    )


def write_csv(path, rows, heading=HEADING):
    buffer = io.StringIO()
    csv.writer(buffer).writerows([heading, *rows])
    path.write_text(buffer.getvalue(), "utf-8")
    return path


def imported(world, file, *overrides, regions="none", **columns):
    table = ImportTable(file=file, columns=TableColumns(**columns), regions=regions)
    result = run(config_of(world, *overrides), table)
    triplets = list(read_parts(result.output_dir / "triplets", Triplet))
    return result, {triplet.image_id.split("/")[-1]: triplet for triplet in triplets}


def write_any(path, rows):
    columns = [dict(zip(HEADING, row, strict=True)) for row in rows]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in columns))
    elif path.suffix == ".tsv":
        path.write_text("\n".join("\t".join(row) for row in [HEADING, *rows]))
    else:
        write_csv(path, rows)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_triplets(world, suffix):
    result, triplets = imported(world, write_any(world / f"t{suffix}", ROWS))
    assert result.status == 0, result.message
    assert [t.privacy_flag for t in triplets.values()] == ["safe", "safe", "unsafe", "unsafe"]
    assert {t.state for t in triplets.values()} == {"complete"}
    assert triplets["coffee_note.jpg"].public_caption == "A cup, with a note."
    assert triplets["coffee_note.jpg"].edit_instruction == "Blank the note."
    form = {".tsv": "csv"}.get(suffix, suffix[1:])
    assert triplets["cat.jpg"].provenance.model == f"import:{form}"
    assert list(read_parts(result.output_dir / "regions", Region)) == []
    assert result.counts["safe"] == result.counts["unsafe"] == 2


def test_private_captions_are_in_the_private_share_alone(world):
    result, _ = imported(world, write_csv(world / "t.csv", ROWS))
    assert b"Anna" not in b"".join(
        path.read_bytes() for path in result.output_dir.rglob("*") if path.is_file()
    )
    (share,) = (world / "private" / "generate_triplets").iterdir()
    assert stat.S_IMODE(share.stat().st_mode) == 0o700
    private = {r.image_id: r for r in read_parts(share / "private", PrivateRecord)}
    assert private["in/coffee_note.jpg"].private_caption == "Anna Weber's note."


@pytest.mark.parametrize("empty", ["", "nan", "NaN", "None", "null", "  ", "N/A"])
def test_an_empty_cell_is_never_a_prompt(world, empty):
    rows = [
        ("cat.jpg", "safe", empty, "", ""),
        ("coffee.jpg", "unsafe", "A cup.", empty, ""),
        ("coffee_note.jpg", empty, "A cup.", "Blank it.", ""),
        ("president_a.jpg", "perhaps", "A person.", "Change the hair.", empty),
    ]
    result, triplets = imported(world, write_csv(world / "t.csv", rows))
    assert result.status == 3
    assert {t.state for t in triplets.values()} == {"needs_review"}
    assert {t.privacy_flag for t in triplets.values()} == {"unsafe"}
    assert triplets["cat.jpg"].public_caption == ""
    assert triplets["coffee.jpg"].edit_instruction == ""
    assert triplets["coffee.jpg"].reason == "its edit instruction is empty"
    assert triplets["coffee_note.jpg"].reason == "its privacy flag cannot be read"
    lines = (result.output_dir / "failures.jsonl").read_text().splitlines()
    assert len(lines) == 4


def test_missing_values_of_parquet_are_empty_too(world):
    table = pa.table(
        {
            "image_id": list(PHOTOS),
            "privacy_flag": pa.array([False, True, None, False]),
            "public_caption": pa.array([None, "A cup.", "A cup.", "A person."]),
            "edit_instruction": pa.array([float("nan")] * 4),
        }
    )
    pq.write_table(table, world / "t.parquet")
    _, triplets = imported(world, world / "t.parquet")
    assert [t.state for t in triplets.values()] == [*["needs_review"] * 3, "complete"]
    assert "nan" not in str([(t.public_caption, t.edit_instruction) for t in triplets.values()])
    assert triplets["president_a.jpg"].privacy_flag == "safe"


def test_flags_are_read_as_people_write_them_and_doubt_is_no_flag():
    for cell in ("unsafe", "UNSAFE", "true", "**TRUE**", "<true>", "= yes", True, 1, 1.0, "1"):
        assert read_flag(cell) == "unsafe", cell
    for cell in ("safe", "FALSE", "no.", False, 0, 0.0, "[safe]"):
        assert read_flag(cell) == "safe", cell
    for cell in (
        None,
        "",
        "nan",
        "maybe",
        "true or false",
        2,
        0.5,
        float("nan"),
        b"safe",
        ["safe"],
    ):
        assert read_flag(cell) is None, cell
    for cell in (True, False, 0, 1, "yes"):
        assert read_flag(cell, "is_safe") is None
        assert read_flag(cell, "is_unsafe") is not None
    assert read_flag("safe", "safety") == "safe"


def test_without_a_column_of_flags_every_image_is_unsafe(world):
    rows = [
        (name, caption, instruction or "Redraw it.") for name, _, caption, instruction, _ in ROWS
    ]
    file = write_csv(world / "t.csv", rows, ("Image", "Public Caption", "Edit-Instruction"))
    result, triplets = imported(world, file)
    assert {t.privacy_flag for t in triplets.values()} == {"unsafe"}
    assert {t.state for t in triplets.values()} == {"complete"}
    assert "every image counts as unsafe" in result.message


def test_strangers_doubles_and_the_unnamed_are_told(world):
    rows = [
        ("in/cat.jpg", "safe", "A cat.", "", ""),
        ("./in/cat.jpg", "safe", "A cat.", "", ""),  # says the same
        ("coffee.jpg", "safe", "A cup.", "", ""),
        ("/data/other/coffee.jpg", "unsafe", "A cup.", "Blank it.", ""),  # says another thing
        ("nobody.jpg", "safe", "Nobody.", "", ""),
        ("", "safe", "Nothing.", "", ""),
        ("president_a.jpg", "unsafe", "A person.", "Change the hair.", ""),
    ]
    result, triplets = imported(world, write_csv(world / "t.csv", rows))
    assert result.status == 3
    assert "2 rows name no image of the data set" in result.message
    told = [json.loads(x) for x in (result.output_dir / "unmatched.jsonl").read_text().splitlines()]
    assert [(line["row"], line["image_id"]) for line in told] == [(5, "nobody.jpg"), (6, "")]
    assert triplets["cat.jpg"].state == "complete"
    assert triplets["coffee.jpg"].reason == "rows of the table contradict each other"
    assert triplets["coffee_note.jpg"].reason == "no row of the table names it"
    for name in ("coffee.jpg", "coffee_note.jpg"):
        assert (triplets[name].state, triplets[name].privacy_flag) == ("needs_review", "unsafe")


def test_a_file_name_that_several_images_have_matches_none(world):
    (world / "photos" / "other").mkdir()
    shutil.copyfile(photos_folder() / "cat.jpg", world / "photos" / "other" / "cat.jpg")
    result, _ = imported(world, write_csv(world / "t.csv", ROWS))
    triplets = {t.image_id: t for t in read_parts(result.output_dir / "triplets", Triplet)}
    assert triplets["in/cat.jpg"].state == triplets["other/cat.jpg"].state == "needs_review"
    assert "1 rows name no image" in result.message


def test_named_columns_are_used_and_wrong_names_are_told(world):
    rows = [(name, "x", "x", f"{name} seen", "Blank it.", "unsafe") for name in PHOTOS]
    heading = ("key", "image_id", "public_caption", "c1", "c2", "c3")
    file = write_csv(world / "t.csv", rows, heading)
    named = {"image_id": "key", "public_caption": "c1", "edit_instruction": "c2",
             "privacy_flag": "c3"}  # fmt: skip
    _, triplets = imported(world, file, **named)
    assert triplets["cat.jpg"].public_caption == "cat.jpg seen"
    with pytest.raises(UsageError, match=r"table\.columns\.image_id=kye is no column.*'key'"):
        imported(world, file, image_id="kye")
    with pytest.raises(UsageError, match=r"none of 4 rows .* names an image.*'in/cat\.jpg'"):
        imported(world, file)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.csv", b"", "has no column that names images"),
        ("t.csv", b"a,b\n1,2\n", "has no column that names images .*it has a, b"),
        ("t.csv", "image_id,public_caption\ncat.jpg,Zo\xeb\n".encode("latin-1"), "is not UTF-8"),
        ("t.csv", b'image_id,public_caption\ncat.jpg,"A cat\n', r"is no readable \.csv"),
        ("t.parquet", b"PAR1", r"is no readable \.parquet"),
        ("t.jsonl", b"{\n[1]\n\xff\n", "has no column that names images"),
        ("t.xlsx", b"", r"known are \.csv"),
    ],
)
def test_unusable_tables_are_told(world, name, content, told):
    (world / name).write_bytes(content)
    with pytest.raises(UsageError, match=told):
        imported(world, world / name)
    assert not (world / "runs").exists() or not list((world / "runs").rglob("triplets"))


def test_a_missing_file_and_a_missing_key_are_told(world):
    with pytest.raises(UsageError, match=r"gone\.csv does not exist"):
        imported(world, world / "gone.csv")
    with pytest.raises(UsageError, match=r"needs table\.file="):
        imported(world, None)


def test_a_bad_line_is_told_and_the_others_are_used(world):
    good = [json.dumps(dict(zip(HEADING, row, strict=True))) for row in ROWS]
    (world / "t.jsonl").write_bytes("\n".join(good).encode() + b'\n{"image_id": \n\xff\xfe\n')
    result, triplets = imported(world, world / "t.jsonl")
    assert {t.state for t in triplets.values()} == {"complete"}
    assert "2 rows name no image" in result.message
    text = write_csv(world / "t.csv", ROWS).read_text()
    (world / "t.csv").write_text(text + "cat.jpg,safe\n")
    result, triplets = imported(world, world / "t.csv")
    assert triplets["cat.jpg"].state == "complete"
    assert json.loads((result.output_dir / "unmatched.jsonl").read_text())["row"] == 5


def test_detectors_add_regions_and_catch_a_caption_that_repeats_what_is_written(world):
    rows = [*ROWS[:2], ("coffee_note.jpg", "unsafe", "A note: call ANNA WEBER", "Blank it.", ""),
            ROWS[3]]  # fmt: skip
    result, triplets = imported(world, write_csv(world / "t.csv", rows), regions="detectors")
    leaking = triplets["coffee_note.jpg"]
    assert (leaking.state, leaking.privacy_flag) == ("needs_review", "unsafe")
    assert leaking.public_caption == ""
    assert leaking.reason == "its public caption leaks (text)"
    assert b"ANNA" not in b"".join(
        path.read_bytes() for path in result.output_dir.rglob("*") if path.is_file()
    )
    regions = list(read_parts(result.output_dir / "regions", Region))
    assert ("in/president_a.jpg", Category.FACE) in {(r.image_id, r.category) for r in regions}
    assert "in/cat.jpg" not in {region.image_id for region in regions}


def test_public_texts_that_tell_what_the_private_caption_tells_are_not_imported(world):
    rows = [
        *ROWS[:2],
        ("coffee_note.jpg", "unsafe", "A note.", "Paint over Weber.", "Anna Weber."),
        ("president_a.jpg", "unsafe", "A man, anna@example.org", "Redraw him.", ""),
    ]
    result, triplets = imported(world, write_csv(world / "t.csv", rows))
    assert triplets["coffee_note.jpg"].reason == "its edit instruction leaks (name)"
    assert triplets["president_a.jpg"].reason == "its public caption leaks (contact)"
    assert {t.state for t in triplets.values()} == {"complete", "needs_review"}
    content = b"".join(p.read_bytes() for p in result.output_dir.rglob("*") if p.is_file())
    assert b"Weber" not in content
    assert b"anna@" not in content


def test_an_unreadable_image_fails_alone(world):
    (world / "photos" / "in" / "cat.jpg").write_bytes(b"text")
    _, triplets = imported(world, write_csv(world / "t.csv", ROWS), regions="detectors")
    assert [t.state for t in triplets.values()] == ["failed", *["complete"] * 3]
    assert triplets["cat.jpg"].privacy_flag == "unsafe"


def edited(photo, path=None):
    pixels = np.asarray(Image.open(photos_folder() / photo).convert("RGB")).copy()
    pixels[: pixels.shape[0] // 2] //= 2
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(path or buffer, "PNG")
    return pixels, buffer.getvalue()


def test_targets_become_pairs_unless_they_cannot_be_trained_on(world):
    (world / "edits").mkdir()
    pixels, _ = edited("president_a.jpg", world / "edits" / "p.png")
    shutil.copyfile(photos_folder() / "coffee_note.jpg", world / "edits" / "same.jpg")
    Image.new("RGB", (8, 8)).save(world / "edits" / "small.png")
    (world / "out.png").write_bytes((world / "edits" / "p.png").read_bytes())
    made = {"image_id": "president_a.jpg", "instruction": "Change the hair.",
            "public_caption": "A person.", "target": "p.png",
            "combined_caption": "A person whose hair is changed."}  # fmt: skip
    others = [
        ("coffee_note.jpg", "same.jpg"),
        ("cat.jpg", "small.png"),
        ("coffee.jpg", "../out.png"),
    ]
    rows = [made, *({**made, "image_id": name, "target": target} for name, target in others)]
    (world / "edits" / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    result, triplets = imported(world, world / "edits" / "t.jsonl")
    assert {t.state for t in triplets.values()} == {"complete"}
    (pair,) = read_parts(result.output_dir / "pairs", Pair)
    assert (pair.image_id, pair.edit_instruction) == ("in/president_a.jpg", "Change the hair.")
    assert pair.combined_caption == "A person whose hair is changed."
    assert np.array_equal(np.asarray(Image.open(result.output_dir / pair.target)), pixels)
    assert "1 training pairs" in result.message
    assert len(list((result.output_dir / "targets").rglob("*.png"))) == 1


def test_pictures_in_a_parquet_table_are_targets_too(world):
    pixels, content = edited("president_a.jpg")
    rows = [
        {"image": {"bytes": b"x", "path": name}, "edit": "Change it.", "public_caption": "One.",
         "edited_image": {"bytes": content, "path": None}}
        for name in reversed(PHOTOS)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), world / "t.parquet", row_group_size=2)
    result, _ = imported(world, world / "t.parquet")
    pairs = {pair.image_id: pair for pair in read_parts(result.output_dir / "pairs", Pair)}
    found = np.asarray(Image.open(result.output_dir / pairs["in/president_a.jpg"].target))
    assert np.array_equal(found, pixels)
    assert TripletTable.open(world / "t.parquet", TableColumns()).picture(4) == content


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_bytes(world, monkeypatch):
    file = write_csv(world / "t.csv", ROWS)
    whole, _ = imported(world, file, f"output_dir={world / 'whole'}")
    half, _ = imported(world, file, f"output_dir={world / 'half'}")
    state = json.loads((half.output_dir / "run.json").read_text())
    state["status"] = "running"
    (half.output_dir / "run.json").write_text(json.dumps(state))
    (half.output_dir / "triplets" / "part-000001.parquet").unlink()
    again, _ = imported(world, file, f"output_dir={world / 'half'}")
    assert (
        again.message.replace("/half", "/whole").split("private captions")[0]
        == (whole.message.split("private captions")[0])
    )
    for path in whole.output_dir.rglob("*"):
        if path.is_file() and path.name != "run.json" and ".lock" not in path.name:
            twin = half.output_dir / path.relative_to(whole.output_dir)
            assert twin.read_bytes() == path.read_bytes()
    write_csv(file, ROWS[:3])  # another table is another run
    with pytest.raises(UsageError, match=r"it differs in table\.content"):
        imported(world, file, f"output_dir={world / 'half'}")
    assert "whole" not in json.dumps(state["keys"])
