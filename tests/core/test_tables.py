"""Records survive the way to disk and back; equal rows give equal bytes."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.records import (
    Attempt,
    Box,
    Category,
    Check,
    Finding,
    Outcome,
    OutcomeState,
    Pair,
    PrivacyFlag,
    PrivateRecord,
    Provenance,
    Region,
    Triplet,
    TripletState,
)
from unsafe2safe.core.tables import read_parts, read_records, write_records

REGION = Region("a b.png", Box(1.5, 2, 3, 4), Category.FACE, 0.5, "centerface")
CHECK = Check("outside_ssim", 0.9, 0.8, True)
ATTEMPT = Attempt("redact", 0, 2**62, (CHECK,), "", "seed", "ab", 0.3, 1.5)
ROWS = {
    Triplet: Triplet(
        "ä.png", PrivacyFlag.UNSAFE, TripletState.COMPLETE, "A photo.", "Change it.", None,
        "face", Provenance("detectors", seed=3),
    ),
    Region: REGION,
    PrivateRecord: PrivateRecord(
        "a.png", "private", (Finding(Category.TEXT, 0.9, "rapidocr", Box(0, 0, 1, 1), "Anna"),)
    ),
    Outcome: Outcome(
        "a.png", OutcomeState.ANONYMIZED, "face", "a.png", "redact", "",
        (ATTEMPT,), "aa", "bb", Provenance("redact"),
    ),
    Pair: Pair("a.png", "a.png", "published/a.png", "A.", "B.", (REGION,), (CHECK,), "A, B."),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(ROWS), ids=lambda kind: kind.__name__)
def test_records_come_back_as_they_were_written(tmp_path, kind):
    path = tmp_path / "part-000000.parquet"
    write_records(path, kind, [ROWS[kind]])
    assert read_records(path, kind) == [ROWS[kind]]


@pytest.mark.parametrize("kind", list(ROWS), ids=lambda kind: kind.__name__)
def test_equal_rows_give_equal_bytes_and_no_rows_are_a_table_too(tmp_path, kind):
    for name in ("a", "b"):
        write_records(tmp_path / name, kind, [ROWS[kind]] * 3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    write_records(tmp_path / "c", kind, [])
    assert read_records(tmp_path / "c", kind) == []


def test_pairs_from_before_there_were_combined_captions_are_read(tmp_path):
    path = tmp_path / "part-000000.parquet"
    write_records(path, Pair, [ROWS[Pair]])
    pq.write_table(pq.read_table(path).drop_columns("combined_caption"), path)
    assert read_records(path, Pair) == [replace(ROWS[Pair], combined_caption=None)]
    pq.write_table(pq.read_table(path).drop_columns("regions"), path)
    with pytest.raises(UsageError, match="it has no column regions"):
        read_records(path, Pair)


def test_attempts_from_before_there_was_a_ladder_are_read(tmp_path):
    path = tmp_path / "part-000000.parquet"
    write_records(path, Outcome, [ROWS[Outcome]])
    table = pq.read_table(path)
    rows = table["attempts"].to_pylist()
    later = ("rung", "adapter", "margin", "text_guidance")
    old = [[{k: v for k, v in a.items() if k not in later} for a in row] for row in rows]
    place = table.schema.get_field_index("attempts")
    pq.write_table(table.set_column(place, "attempts", pa.array(old)), path)
    (outcome,) = read_records(path, Outcome)
    bare = replace(ATTEMPT, rung="", adapter="", margin=None, text_guidance=None)
    assert outcome == replace(ROWS[Outcome], attempts=(bare,))


def test_a_damaged_part_is_named(tmp_path):
    path = tmp_path / "part-000000.parquet"
    write_records(path, Region, [REGION])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UsageError, match=r"part-000000\.parquet"):
        list(read_parts(tmp_path, Region))


def test_an_outcome_that_contradicts_itself_cannot_be_made():
    with pytest.raises(ValueError, match="published_as"):
        Outcome("a.png", OutcomeState.FAILED, "", "a.png", "", "", (), "", "", Provenance("redact"))
