"""The store of generate_triplets.py: shards, processes, damage, a full disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY
from end_to_end.null_runs import ENVIRONMENT, generate, kill_when, parts, start, stored
from null_components import NULL

SMALL = ("engine.unit_size=2", "+dataset.count=13")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """An undisturbed run of seven units."""
    root = tmp_path_factory.mktemp("quiet")
    finished = generate(root, *SMALL)
    assert finished.status == 3, finished.said
    return root


@pytest.fixture
def copied(tmp_path, quiet):
    """A run of its own that is complete. (Its private share bears the first one's name.)"""
    shutil.copytree(quiet, tmp_path / "copy")
    return tmp_path / "copy"


def test_shards_in_any_order_and_a_merge_write_the_bytes_of_one_process(tmp_path, quiet):
    for shard in (2, 0, 1):
        finished = generate(tmp_path, *SMALL, f"engine.shard={shard}/3")
        assert finished.status == 0, finished.said
        assert "mode=merge" in finished.stdout
        assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "running"
    merged = generate(tmp_path, *SMALL, "mode=merge")
    assert merged.status == 3, merged.said
    assert stored(tmp_path) == stored(quiet)
    assert (tmp_path / "run/failures.jsonl").read_text().count("not parsed") == 2


@pytest.mark.slow
def test_a_merge_names_the_units_and_shards_that_are_missing(tmp_path):
    generate(tmp_path, *SMALL, "engine.shard=0/3")
    merged = generate(tmp_path, *SMALL, "mode=merge")
    assert merged.status == 2
    assert "lacks 4 of 7 units: part-000001, part-000002" in merged.stderr
    assert "engine.shard=1/3, 2/3" in merged.stderr
    assert len(merged.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_processes_on_one_machine_write_the_bytes_of_one_process(tmp_path, quiet):
    finished = generate(tmp_path, *SMALL, "engine.devices=2")
    assert finished.status == 3, finished.said
    assert "13 images" in finished.stdout
    assert stored(tmp_path) == stored(quiet)


@pytest.mark.slow
def test_processes_find_a_complete_run_complete_and_clear_what_a_kill_left(tmp_path):
    """The first one fails on single items: that is the run's status, not the shards'."""
    first = generate(tmp_path, *SMALL, "engine.devices=2")
    orphan = tmp_path / "run" / ".run.json.1.abcd.tmp"
    orphan.write_text("half")
    again = generate(tmp_path, *SMALL, "engine.devices=2")
    assert (first.status, again.status) == (3, 3)
    assert again.stdout == first.stdout
    assert not orphan.exists()


@pytest.mark.slow
def test_a_killed_child_is_told_and_the_same_command_goes_on(tmp_path, quiet):
    crashed = generate(tmp_path, *SMALL, "engine.devices=2", NULL_CRASH_AT="0000006.png")
    assert crashed.status == 1
    assert "shard 1/2 was killed by signal 9" in crashed.stderr
    assert "Traceback" not in crashed.said
    state = json.loads((tmp_path / "run/run.json").read_text())
    assert state["status"] == "running"
    assert parts(tmp_path / "run") == 5  # all four of shard 0, one of shard 1
    assert generate(tmp_path, *SMALL, "engine.devices=2").status == 3
    assert stored(tmp_path) == stored(quiet)


@pytest.mark.slow
def test_children_end_with_their_parent(tmp_path):
    process = start(tmp_path, *SMALL, "engine.devices=2", NULL_WAIT="0.3")
    assert kill_when(process, lambda: parts(tmp_path / "run") >= 1)
    # the shards' locks are free as soon as the children are gone
    for _ in range(50):
        resumed = generate(tmp_path, *SMALL, "engine.devices=2", NULL_WAIT="0.3")
        if "being written by another process" not in resumed.said:
            break
    assert resumed.status == 3, resumed.said


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        *(
            pytest.param(f"engine.shard={first}", second, told, marks=pytest.mark.slow)
            for first, second, told in (
                ("null", "engine.shard=null", "another process"),
                ("null", "engine.shard=0/2", "another process that works on it alone"),
                ("0/2", "engine.shard=null", "another process (shard 0/2)"),
                ("0/2", "engine.shard=0/2", "another process (shard 0/2)"),
                ("0/2", "engine.shard=1/4", "another process (shard 0/2)"),
            )
        ),
        ("engine.shard=0/2", "mode=merge", "another process (shard 0/2)"),
    ],
)
def test_processes_that_would_write_the_same_units_are_refused(tmp_path, first, second, told):
    process = start(tmp_path, *SMALL, first, NULL_WAIT="60")
    try:
        while not (tmp_path / "run" / "run.json").exists():
            assert process.poll() is None
        refused = generate(tmp_path, *SMALL, second, NULL_WAIT="60")
    finally:
        process.kill()
        process.wait()
    assert refused.status == 2
    assert told in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["engine.shard=8/8"], "'8/8' is no shard"),
        (["engine.shard=first"], "'first' is no shard"),
        (["engine.shard=0/2", "existing=overwrite"], "existing=overwrite with engine.shard=0/2"),
        (["mode=merge"], "holds no triplets to merge"),
        (["mode=plan"], "'export' or 'purge'"),
    ],
)
def test_a_wrong_way_to_share_work_is_one_line(tmp_path, overrides, told):
    finished = generate(tmp_path, *SMALL, *overrides)
    assert finished.status == 2, finished.said
    assert told in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_other_units_or_another_data_set_are_refused_not_mixed(tmp_path):
    generate(tmp_path, *SMALL, "engine.shard=0/2")
    other_size = generate(tmp_path, "engine.unit_size=3", "+dataset.count=13")
    assert other_size.status == 2
    assert "engine.unit_size=2, not 3" in other_size.stderr


@pytest.mark.slow
@pytest.mark.parametrize("where", ["triplets", "regions", "private"])
def test_a_damaged_part_is_named_and_redone_once_it_is_deleted(copied, quiet, where):
    share = next((quiet / "private/generate_triplets").glob("run-*")).name
    folder = {"private": copied / "private/generate_triplets" / share / "private"}.get(
        where, copied / "run" / where
    )
    part = folder / "part-000003.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    for mode in ("run", "merge"):
        told = generate(copied, *SMALL, f"mode={mode}")
        assert told.status == 2, told.said
        assert str(part.relative_to(copied)) in told.stderr
        assert f"delete {'it' if where == 'triplets' else copied / 'run/triplets'}" in told.stderr
        assert len(told.stderr.strip().splitlines()) == 1
    (copied / "run/triplets/part-000003.parquet").unlink()
    assert generate(copied, *SMALL).status == 3
    assert part.read_bytes() == whole


def test_anonymize_names_a_damaged_part(copied):
    from unsafe2safe.anonymize.lookup import TripletLookup
    from unsafe2safe.core.errors import UsageError

    part = copied / "run/triplets/part-000002.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(UsageError, match=r"part-000002\.parquet .*damaged"):
        TripletLookup(copied / "run")


def test_a_part_with_a_flipped_bit_is_named(copied):
    part = copied / "run/triplets/part-000004.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 10] ^= 0x10
    part.write_bytes(bytes(content))
    (copied / "run/triplets/part-000006.parquet").unlink()  # so that the run is completed again
    told = generate(copied, *SMALL)
    assert told.status == 2, told.said
    assert str(part) in told.stderr


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, quiet):
    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

    command = [
        sys.executable, str(REPOSITORY / "generate_triplets.py"), *NULL,
        f"output_dir={tmp_path / 'run'}", "engine.unit_size=64", "+dataset.count=200",
    ]  # fmt: skip
    full = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True,
        preexec_fn=no_room, check=False,
    )  # fmt: skip
    assert full.returncode == 2, full.stderr
    assert "cannot write" in full.stderr
    assert "file too large" in full.stderr
    assert len(full.stderr.strip().splitlines()) == 1
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path.name for path in written if path.suffix in (".tmp", ".parquet")]
    assert generate(tmp_path, "engine.unit_size=64", "+dataset.count=200").status == 3
