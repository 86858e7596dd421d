"""However a run is dealt out, interrupted or hurried, it leaves the same bytes."""

import csv
import json
import os
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from blind import BLIND, see_nothing
from conftest import REPOSITORY, run_script
from PIL import Image
from small_world import UNITS

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.pseudonyms import is_pseudonym, true_names
from unsafe2safe.core.records import Box, Outcome, Pair, Region
from unsafe2safe.core.tables import read_parts, read_records
from unsafe2safe.editors.redact import RedactEditor
from unsafe2safe.evaluation.rows import RunRow
from unsafe2safe.jobs import anonymize
from unsafe2safe.training.pairs import read_pairs
from unsafe2safe.vision.perception import Perception
from unsafe2safe.vision.text import TextLine

pytestmark = pytest.mark.usefixtures("blind")


@pytest.mark.parametrize("ahead", [0, 3])
def test_what_is_prepared_ahead_changes_no_byte(world, ahead):
    world.run(f"ahead{ahead}", *UNITS, f"engine.ahead={ahead}")
    assert world.written(f"ahead{ahead}") == world.written("quiet")


def test_shards_in_any_order_and_a_merge_write_the_bytes_of_one_process(world):
    for shard in (1, 0):
        result = world.run("shared", *UNITS, f"engine.shard={shard}/2")
        assert result.status == 0
        assert "mode=merge" in result.message
        assert not (world.root / "shared" / "manifest.parquet").exists()
        if shard == 1:
            with pytest.raises(UsageError, match=r"lacks 2 of 3 units.*engine\.shard=0/2"):
                world.run("shared", *UNITS, "mode=merge")
    assert world.run("shared", *UNITS, "mode=merge").status == 3
    assert world.written("shared") == world.written("quiet")


class Interrupted(BaseException):
    pass


def interrupting(batch):
    """Redacts until the batch of that number, counted from 0."""

    class Redacts(RedactEditor):
        def edit(self, requests):
            nonlocal batch
            batch -= 1
            if batch < 0:
                raise Interrupted
            return super().edit(requests)

    return Redacts(name="redact")


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(world, batch):
    output = f"interrupted{batch}"
    with pytest.raises(Interrupted):
        world.run(output, *UNITS, editor=interrupting(batch))
    assert not (world.root / output / "manifest.parquet").exists()
    # what an interrupted unit has left behind is no file of the run, whatever it is
    stray = world.root / output / "published" / "person_9999.png"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"half")
    world.run(output, *UNITS)
    assert world.written(output) == world.written("quiet")


def test_a_finished_part_of_another_unit_size_is_named(world):
    with pytest.raises(UsageError, match="unit_size"):
        world.run("quiet", "engine.unit_size=5", "batch_size=2")


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize(
    ("names", "left", "times"), [("keep", 0, 1), ("hash", 0, 0), ("hash", 1, 1)]
)
def test_the_text_of_a_source_is_read_once_where_something_is_compared_with_it(
    world, monkeypatch, ahead, names, left, times
):
    """Its name, or text that is left in its edit."""
    sources = {Image.open(path).tobytes(): path.name for path in (world.root / "images").iterdir()}
    unsafe = {name for name in sources.values() if int(name[7:11]) % 5 != 2}
    unsafe -= {name for name in unsafe if int(name[7:11]) % 7 == 3}  # nothing is known of these
    read = Counter()

    def reads(perception, image):
        name = sources.get(image.tobytes())
        read.update([name] if name in unsafe else [])
        line = TextLine("Anna Weber", Box(16, 16, 32, 24), 0.9, np.zeros((4, 2), np.float32))
        return [line] if left and name is None else []

    monkeypatch.setattr(Perception, "verify_text", reads)
    overrides = (f"publish.names={names}", f"engine.ahead={ahead}", "verify.max_attempts=2")
    world.run(f"read_{names}{left}{ahead}", *UNITS, *overrides)
    assert read == (Counter(dict.fromkeys(unsafe, times)) if times else Counter())


@pytest.fixture(scope="module")
def renamed(world):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Perception, "verify_faces", see_nothing)
        patched.setattr(Perception, "verify_text", see_nothing)
        return world.run("renamed", *UNITS, "publish.names=hash").output_dir


def holders(folder, text):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and text in path.read_bytes() + path.name.encode()
    }


def test_hashed_names_stand_in_no_file_that_is_handed_on(world, renamed):
    rows = read_records(renamed / "manifest.parquet", Outcome)
    assert all(is_pseudonym(row.image_id) for row in rows)
    assert holders(renamed, b"person_") == set()
    assert all("person_" not in str(pair) for pair in read_parts(renamed / "pairs", Pair))
    assert len(rows) == 12


def test_the_owner_of_the_key_gets_the_names_back(world, renamed):
    ids = {path.name for path in (world.root / "images").iterdir()}
    (names,) = (world.private / "anonymize").glob("renamed-*/names.csv")
    assert stat.S_IMODE(names.stat().st_mode) == 0o600
    assert {row["image_id"] for row in csv.DictReader(names.open())} == ids
    known = true_names(world.private, ids)
    assert set(RunRow(renamed, "run", "run", known).outcomes) == ids
    pairs = read_pairs(renamed, known)
    assert pairs
    assert {pair.source for pair in pairs} <= ids
    assert true_names(world.root / "of_somebody_else", ids) == {}


def test_the_name_of_what_is_held_back_stands_in_the_private_share_only(world):
    quiet = world.root / "quiet"
    rows = read_records(quiet / "manifest.parquet", Outcome)
    held_back = [row for row in rows if row.published_as is None]
    assert len(held_back) == 2
    assert all(is_pseudonym(row.image_id) for row in held_back)
    kept = [row for row in rows if row.published_as is not None]
    assert [row.image_id for row in kept] == [row.published_as for row in kept]
    names = {name for name, row in world.outcomes(quiet).items() if row.published_as is None}
    assert names == {"person_0003.png", "person_0010.png"}
    for name in names:
        assert holders(quiet, name.encode()) == set()
    told = [json.loads(line) for line in (quiet / "failures.jsonl").read_text().splitlines()]
    assert {row["image_id"] for row in told} == {row.image_id for row in held_back}


def test_detect_only_writes_regions_and_publishes_nothing(world):
    result = world.run("seen", *UNITS, "detect_only=true", "contact_images=true")
    assert result.counts == {"images": 12, "regions": 10, "failed": 0}
    assert len(list(read_parts(result.output_dir / "regions", Region))) == 10
    assert not list(result.output_dir.rglob("*.png"))
    assert not list(result.output_dir.rglob("*.jpg"))
    contacts = list((world.private / "detect_regions").rglob("contact/*.jpg"))
    assert len(contacts) == 10
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in contacts)
    assert not any("person" in path.name for path in contacts)
    purged = world.run("seen", *UNITS, "detect_only=true", "contact_images=true", "mode=purge")
    assert purged.counts["files"] == 10
    # a run that publishes does not take the folder for its own
    with pytest.raises(UsageError, match="written by detect_regions"):
        world.run("seen", *UNITS)


def test_detect_only_in_shards_is_the_same(world):
    world.run("seen1", *UNITS, "detect_only=true")
    for shard in (1, 0):
        world.run("seen2", *UNITS, "detect_only=true", f"engine.shard={shard}/2")
    world.run("seen2", *UNITS, "detect_only=true", "mode=merge")
    assert world.written("seen2") == world.written("seen1")


def test_a_plan_counts_and_writes_nothing_and_a_trial_lets_it_estimate(world):
    plan = world.run("planned", *UNITS, "mode=plan")
    assert plan.counts == {"images": 12, "safe": 2, "to_edit": 8, "not_described": 2}
    assert "3 of 3 units to do" in plan.message
    assert not (world.root / "planned").exists()
    trial = world.run("runs/anonymize/trial", *UNITS, "dataset.limit=2")
    assert "the whole data set has 12 images: about" in trial.message
    plan = world.run("planned", *UNITS, "mode=plan", "engine.shard=0/2")
    assert "2 of 2 units of shard 0/2 to do" in plan.message
    assert "the whole data set has 12 images: about" in plan.message
    done = world.run("quiet", *UNITS, "mode=plan")
    assert "0 of 3 units to do" in done.message


def test_a_purge_finds_the_run_whose_folder_nobody_named(world):
    """Categories that depend on the editor are part of the name, for both."""
    done = anonymize.run(world.config(*UNITS))
    purged = anonymize.run(world.config(*UNITS, "mode=purge"))
    assert purged.output_dir == done.output_dir
    assert purged.counts["files"] > 0


def test_a_purge_deletes_the_private_share_and_leaves_what_is_published(world):
    made = world.run("purged", *UNITS)
    assert list((world.private / "anonymize").glob("purged-*/names.csv"))
    purged = world.run("purged", *UNITS, "mode=purge")
    assert purged.counts["files"] >= 1
    assert not list((world.private / "anonymize").glob("purged-*"))
    assert world.run("purged", "mode=audit").status == 0
    assert world.run("purged", *UNITS).message == made.message  # complete as before
    again = world.run("purged", *UNITS, "mode=purge")
    assert "nothing to delete" in again.message


@pytest.mark.slow
def test_processes_on_one_machine_write_the_bytes_of_one_process(world):
    finished = run_script(
        "anonymize",
        *world.overrides(*UNITS, *BLIND, f"output_dir={world.root / 'devices'}"),
        "engine.devices=2",
        cwd=world.root,
        env={"PYTHONPATH": _python_path()},
    )
    assert finished.status == 3, finished.said
    assert world.written("devices") == world.written("quiet")


def _python_path():
    return os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])


def test_an_audit_starts_without_torch_and_ends_with_its_status(world, tmp_path):
    received = shutil.copytree(world.root / "quiet", tmp_path / "received")
    (received / "published" / "person_0000.png").unlink()
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['anonymize.py', 'mode=audit', 'output_dir={received}']\n"
        "try:\n"
        f"    runpy.run_path({str(REPOSITORY / 'anonymize.py')!r}, run_name='__main__')\n"
        "finally:\n"
        "    assert 'torch' not in sys.modules and 'cv2' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "published/person_0000.png: is missing" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"received"}


def test_shares_that_were_hashed_with_another_key_are_not_merged(world):
    other = f"paths.private={world.root / 'other'}"
    hashed = (*UNITS, "publish.names=hash")
    for shard in (0, 1):
        world.run("keys", *hashed, f"engine.shard={shard}/2")
    with pytest.raises(UsageError, match=r"another paths\.private"):
        world.run("keys", *hashed, "mode=merge", other)
    assert world.run("keys", *hashed, "mode=merge").status == 3
