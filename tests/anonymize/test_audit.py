"""Whoever gets a published folder finds by ``mode=audit`` whatever was done to it since."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import piexif
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from published_run import Picture, make_published_run, picture

from unsafe2safe.anonymize.audit import audit
from unsafe2safe.anonymize.chain import UnitHead, first_link, next_link, read_chain
from unsafe2safe.core.config.compose import load
from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import Outcome
from unsafe2safe.core.tables import read_records, write_records
from unsafe2safe.jobs import anonymize

FIRST, SECOND = "folder/photo_0.jpg", "folder/photo_1.jpg"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_published_run(tmp_path_factory.mktemp("published"))


@pytest.fixture
def folder(made, tmp_path):
    """The folder as someone else gets it: nothing else of the run is there."""
    return shutil.copytree(made.folder, tmp_path / "received")


def problems(folder, **expected):
    return [str(fault) for fault in audit(folder, **expected).faults]


def test_a_folder_as_it_was_published_passes_on_another_machine(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    report = audit(folder)
    assert report.passed, report.faults
    assert (report.images, report.published) == (8, 6)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_what_is_handed_on_names_no_folder_of_its_publisher_and_is_audited_without_run_json(
    world, tmp_path
):
    """A whole run, pairs and failures included: only run.json says where things lay."""
    run = world.root / "quiet"
    assert str(world.root) in (run / "run.json").read_text()
    received = shutil.copytree(
        run, tmp_path / "received", ignore=shutil.ignore_patterns("run.json", ".lock*")
    )
    files = [path for path in received.rglob("*") if path.is_file()]
    assert {path.relative_to(received).parts[0] for path in files} == {
        "published", "manifest.parquet", "audit", "attribution.csv", "failures.jsonl", "pairs",
    }  # fmt: skip
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            content += repr((table.schema.metadata, table.to_pylist())).encode()
        for told in (str(world.root), str(tmp_path), str(Path.home())):
            assert told.encode() not in content, path
    root = json.loads((run / "run.json").read_text())["audit_root"]
    assert audit(received, root).passed
    (received / "published" / "person_0002.png").unlink()
    assert not audit(received, root).passed


def flip_a_byte(folder):
    path = folder / "published" / FIRST
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def remove_a_file(folder):
    (folder / "published" / FIRST).unlink()


def add_a_file(folder):
    shutil.copy(folder / "published" / FIRST, folder / "published" / "folder" / "other.jpg")


def add_a_hidden_file(folder):
    (folder / "published" / ".DS_Store").write_bytes(b"")


def add_a_file_beside(folder):
    (folder / "originals.zip").write_bytes(b"PK")


def swap_a_pair(folder):
    first, second = folder / "published" / FIRST, folder / "published" / SECOND
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])


def link_a_file(folder):
    path = folder / "published" / FIRST
    path.unlink()
    path.symlink_to(folder / "published" / SECOND)


def put_exif_back(folder):
    piexif.insert(gps_block(), str(folder / "published" / FIRST))


def gps_block():
    return piexif.dump({"GPS": {piexif.GPSIFD.GPSLatitude: ((52, 1), (31, 1), (0, 1))}})


def rows_of(folder):
    return pq.read_table(folder / "manifest.parquet")


def write_rows(folder, rows, schema):
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "manifest.parquet")


def edit_a_row(folder):
    table = rows_of(folder)
    rows = table.to_pylist()
    rows[1]["editor"] = "tiny"
    write_rows(folder, rows, table.schema)


def move_rows(folder):
    table = rows_of(folder)
    rows = table.to_pylist()
    rows[3], rows[4] = rows[4], rows[3]
    write_rows(folder, rows, table.schema)


def remove_a_row(folder):
    table = rows_of(folder)
    write_rows(folder, table.to_pylist()[:-1], table.schema)


def remove_a_unit(folder):
    table = rows_of(folder)
    write_rows(folder, [row for row in table.to_pylist() if row["unit"] != 1], table.schema)


def remove_the_units_file(folder):
    (folder / "audit" / "part-000001.parquet").unlink()


def edit_the_units_file(folder):
    path = folder / "audit" / "part-000001.parquet"
    rows = read_records(path, Outcome)
    write_records(path, Outcome, rows[::-1])


def truncate_the_manifest(folder):
    path = folder / "manifest.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def manifest_without_its_chain(folder):
    rows = read_records(folder / "manifest.parquet", Outcome)
    write_records(folder / "manifest.parquet", Outcome, rows)


def remove_the_manifest(folder):
    (folder / "manifest.parquet").unlink()


def remove_the_chain(folder):
    (folder / "audit" / "chain.json").unlink()


def edit_the_chain(folder):
    path = folder / "audit" / "chain.json"
    content = json.loads(path.read_text())
    content["allowed_metadata"].append("icc")
    path.write_text(json.dumps(content))


def change_an_annotation(folder):
    (folder / "published" / "annotations.json").write_text('{"images": 7}')


def remove_the_pairs(folder):
    (folder / "pairs" / "part-000000.parquet").unlink()


TAMPERS = [
    (flip_a_byte, f"published/{FIRST}: was changed: its hash differs"),
    (remove_a_file, f"published/{FIRST}: is missing"),
    (add_a_file, "published/folder/other.jpg: was added"),
    (add_a_hidden_file, "published/.DS_Store: was added"),
    (add_a_file_beside, "originals.zip: was added"),
    (swap_a_pair, f"published/{FIRST}: holds the picture of {SECOND}"),
    (link_a_file, f"published/{FIRST}: is a link"),
    (put_exif_back, f"published/{FIRST}: holds metadata: EXIF"),
    (edit_a_row, "manifest.parquet: row 2 of part-000000"),
    (move_rows, "manifest.parquet: row 1 of part-000001"),
    (remove_a_row, "manifest.parquet: part-000002 has 1 rows, not 2"),
    (remove_a_unit, "manifest.parquet: lacks part-000001 with its 3 rows"),
    (remove_the_units_file, "audit/part-000001.parquet: is missing"),
    (edit_the_units_file, "audit/part-000001.parquet: was edited"),
    (truncate_the_manifest, "manifest.parquet: is damaged"),
    (manifest_without_its_chain, "manifest.parquet: has no column row_hash"),
    (remove_the_manifest, "manifest.parquet: is missing"),
    (remove_the_chain, "audit/chain.json: is missing"),
    (edit_the_chain, "audit/chain.json: was edited"),
    (change_an_annotation, "published/annotations.json: was changed"),
    (remove_the_pairs, "pairs/part-000000.parquet: is missing"),
]


@pytest.mark.parametrize(
    ("tamper", "told"), TAMPERS, ids=lambda value: getattr(value, "__name__", "")
)
def test_each_way_to_tamper_is_found_and_named(folder, tamper, told):
    tamper(folder)
    assert any(problem.startswith(told) for problem in problems(folder)), problems(folder)


def test_one_edited_row_is_one_fault(folder):
    edit_a_row(folder)
    assert len(problems(folder)) == 1


def forge(folder):
    """Take a held-back image's reason away and make all hashes of the folder fit again."""
    table = rows_of(folder)
    rows = table.to_pylist()
    parts = {}
    for row in rows:
        row["reason"] = ""
        parts.setdefault(row["unit"], []).append(row)
    write_rows(folder, rows, table.schema)
    heads = []
    forged = read_records(folder / "manifest.parquet", Outcome)
    position = 0
    for unit, own in sorted(parts.items()):
        link = first_link(f"part-{unit:06d}")
        for row in own:
            link = next_link(link, forged[position])
            row["row_hash"] = link
            position += 1
        heads.append(UnitHead(f"part-{unit:06d}", len(own), link))
        path = folder / "audit" / f"part-{unit:06d}.parquet"
        write_records(path, Outcome, forged[position - len(own) : position])
    write_rows(folder, rows, table.schema)
    chain, _ = read_chain(folder)
    replace(chain, units=tuple(heads)).write(folder)


def test_a_forgery_that_fits_in_itself_is_told_by_the_root_that_its_publisher_told(folder):
    _, root = read_chain(folder)
    forge(folder)
    assert problems(folder) == [
        "audit/chain.json: is not the run's own: run.json notes another root"
    ]
    (folder / "run.json").unlink()
    assert problems(folder) == []  # nothing inside the folder can tell
    (told,) = problems(folder, expected_root=root)
    assert "not the expected one" in told


def test_metadata_and_size_are_looked_at_whatever_the_hashes_say(tmp_path):
    """A file that was published with a location in it, or in another size, hash and all."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(0).content)).save(buffer, "JPEG", exif=gps_block())
    run = make_published_run(
        tmp_path, photo_0=Picture(buffer.getvalue()), photo_1=Picture(picture(1).content, (24, 17))
    )
    told = problems(run.folder)
    assert any(f"published/{FIRST}: holds metadata: EXIF" in problem for problem in told)
    assert f"published/{SECOND}: is 24 x 16 pixels, not 24 x 17" in told
    assert not any("hash differs" in problem for problem in told)


def audited(folder, *overrides):
    return anonymize.run(load("anonymize", ["mode=audit", f"output_dir={folder}", *overrides]))


def test_the_mode_tells_all_faults_and_ends_with_status_3(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert audited(folder).status == 0
    add_a_file(folder)
    remove_a_file(folder)
    target = tmp_path / "report.json"
    found = audited(folder, f"audit.report={target}")
    assert found.status == 3
    assert f"published/{FIRST}: is missing" in found.message
    assert "published/folder/other.jpg: was added" in found.message
    content = json.loads(target.read_text())
    assert not content["passed"]
    assert len(content["faults"]) == found.counts["faults"] == 2
    # no private folder and no other file came about
    assert {path.name for path in tmp_path.iterdir()} == {"received", "report.json"}


def test_what_cannot_be_audited_is_told_in_one_line(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "gone", tmp_path / "empty"):
        with pytest.raises(UsageError, match="output_dir"):
            audited(place)
    with pytest.raises(UsageError, match="would add a file"):
        audited(folder, f"audit.report={folder / 'report.json'}")
    state = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**state, "status": "running"}))
    with pytest.raises(UsageError, match="not complete"):
        audited(folder)
