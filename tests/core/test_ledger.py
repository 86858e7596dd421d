"""A run folder belongs to one configuration and one process."""

import json
import shutil

import pytest

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.ledger import (
    RunFolder,
    RunSpec,
    dataset_key,
    fingerprint,
    newest_complete,
    purge,
    result_keys,
)
from unsafe2safe.core.units import Shard, UnitCut


def spec(tmp_path, **keys):
    return RunSpec(
        "anonymize", tmp_path / "run", tmp_path / "private", {"seed": 0, **keys}, {}, "samples-1"
    )


def test_the_same_configuration_resumes(tmp_path):
    with RunFolder.open(spec(tmp_path), "resume") as first:
        private = first.private
    with RunFolder.open(spec(tmp_path), "resume") as second:
        assert second.private == private
        assert not second.complete


def test_another_configuration_is_refused_and_the_key_named(tmp_path):
    RunFolder.open(spec(tmp_path), "resume").close()
    with pytest.raises(UsageError, match=r"differs in margin"):
        RunFolder.open(spec(tmp_path, margin=1), "resume")


def test_refuse_refuses_even_the_same_configuration(tmp_path):
    RunFolder.open(spec(tmp_path), "resume").close()
    with pytest.raises(UsageError, match="exists"):
        RunFolder.open(spec(tmp_path), "refuse")


def test_overwrite_starts_anew_and_removes_the_private_share(tmp_path):
    with RunFolder.open(spec(tmp_path), "resume") as folder:
        (folder.path / "old").write_text("old")
        (folder.private / "secret").write_text("secret")
        private = folder.private
    with RunFolder.open(spec(tmp_path, margin=1), "overwrite") as folder:
        assert not (folder.path / "old").exists()
    assert not (private / "secret").exists()


def test_a_second_process_on_the_folder_is_refused(tmp_path):
    with (
        RunFolder.open(spec(tmp_path), "resume"),
        pytest.raises(UsageError, match="another process"),
    ):
        RunFolder.open(spec(tmp_path), "resume")


def test_a_folder_with_foreign_files_is_never_written(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    for existing in ("resume", "overwrite"):
        with pytest.raises(UsageError, match=r"thesis\.tex"):
            RunFolder.open(spec(tmp_path), existing)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "mine"


def test_private_and_public_folders_never_lie_in_each_other(tmp_path):
    inner = RunSpec("train", tmp_path / "private" / "run", tmp_path / "private", {}, {}, "x")
    outer = RunSpec("train", tmp_path, tmp_path / "private", {}, {}, "x")
    for nested in (inner, outer):
        with pytest.raises(UsageError, match="inside"):
            RunFolder.open(nested, "resume")


def test_only_complete_runs_of_the_data_set_are_found_and_the_newest_wins(tmp_path):
    def finished(name, dataset, complete):
        folder = RunFolder.open(
            RunSpec("anonymize", tmp_path / "anonymize" / name, tmp_path / "p", {}, {}, dataset),
            "resume",
        )
        if complete:
            folder.finish({})
        folder.close()

    finished("first", "coco", complete=True)
    finished("second", "coco", complete=True)
    finished("running", "coco", complete=False)
    finished("other", "samples", complete=True)
    assert newest_complete(tmp_path, "anonymize", "coco") == tmp_path / "anonymize" / "second"
    assert newest_complete(tmp_path, "train", "coco") is None


def test_what_does_not_change_the_result_does_not_change_the_fingerprint():
    base = {"seed": 0, "paths": {"runs": "a"}, "existing": "resume", "editor": {"name": "tiny"}}
    moved = {**base, "paths": {"runs": "b"}, "existing": "overwrite"}
    changed = {**base, "editor": {"name": "redact"}}
    assert fingerprint(result_keys(base)) == fingerprint(result_keys(moved))
    assert fingerprint(result_keys(base)) != fingerprint(result_keys(changed))


def test_a_trial_belongs_to_the_same_data_set():
    assert dataset_key({"name": "coco", "root": "a", "limit": 3}) == dataset_key(
        {"name": "coco", "root": "a", "limit": None}
    )
    assert dataset_key({"name": "coco", "root": "a"}) != dataset_key({"name": "coco", "root": "b"})


def test_a_damaged_run_file_is_named(tmp_path):
    RunFolder.open(spec(tmp_path), "resume").close()
    (tmp_path / "run" / "run.json").write_text('{"script": ')
    with pytest.raises(UsageError, match=r"run\.json cannot be read"):
        RunFolder.open(spec(tmp_path), "resume")


def test_failures_are_one_json_object_a_line(tmp_path):
    with RunFolder.open(spec(tmp_path), "resume") as folder:
        folder.write_failures([{"image_id": "ä b.png", "reason": "empty file"}])
    lines = (tmp_path / "run" / "failures.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"image_id": "ä b.png", "reason": "empty file"}]


def test_shards_share_a_folder_and_none_of_them_completes_it(tmp_path):
    with (
        RunFolder.open(spec(tmp_path), "resume", Shard(0, 2)) as first,
        RunFolder.open(spec(tmp_path), "resume", Shard(1, 2)) as second,
    ):
        assert first.private == second.private
        with pytest.raises(RuntimeError, match="never completes"):
            second.finish({})
        for shard in (None, Shard(0, 2), Shard(1, 3)):
            with pytest.raises(UsageError, match="another process"):
                RunFolder.open(spec(tmp_path), "resume", shard)
    with RunFolder.open(spec(tmp_path), "resume") as alone:
        alone.finish({})


def test_a_shard_leaves_the_temporary_files_of_others_alone(tmp_path):
    RunFolder.open(spec(tmp_path), "resume", Shard(0, 2)).close()
    temporary = tmp_path / "run" / ".part.1.aa.tmp"
    temporary.write_text("")
    RunFolder.open(spec(tmp_path), "resume", Shard(1, 2)).close()
    assert temporary.exists()
    with RunFolder.open(spec(tmp_path), "resume") as folder:
        private = folder.private / ".part.1.aa.tmp"
        private.write_text("")
        assert not temporary.exists()
    RunFolder.open(spec(tmp_path), "resume").close()
    assert not private.exists()


def test_a_run_keeps_to_the_units_it_began_with(tmp_path):
    for cut, told in (
        (UnitCut(64, 10, "a"), None),
        (UnitCut(64, 10, "a"), None),
        (UnitCut(32, 10, "a"), "unit_size=64, not 32"),
        (UnitCut(64, 11, "b"), "it had 10 images, now there are 11"),
    ):
        with RunFolder.open(spec(tmp_path), "resume") as folder:
            if told is None:
                folder.keep_to(cut)
                continue
            with pytest.raises(UsageError, match=told):
                folder.keep_to(cut)


def test_purge_deletes_the_private_share_of_this_run_only(tmp_path):
    with RunFolder.open(spec(tmp_path), "resume") as folder:
        (folder.private / "secret").write_text("secret")
        other = tmp_path / "private" / "anonymize" / "other"
        other.mkdir()
        with pytest.raises(UsageError, match="another process"):
            purge("anonymize", folder.path, tmp_path / "private")
        private = folder.private
    assert purge("anonymize", tmp_path / "run", tmp_path / "private") == (private, 1)
    assert not private.exists()
    assert other.exists()
    with pytest.raises(UsageError, match=r"written by anonymize\.py"):
        purge("train", tmp_path / "run", tmp_path / "private")


def test_purge_finds_the_share_of_a_run_folder_that_is_gone(tmp_path):
    with RunFolder.open(spec(tmp_path), "resume") as folder:
        (folder.private / "secret").write_text("secret")
    shutil.rmtree(tmp_path / "run")
    assert purge("anonymize", tmp_path / "run", tmp_path / "private")[1] == 1


@pytest.mark.parametrize("name", ["../x", "/etc", "anonymize", ".", "train/x"])
def test_purge_never_follows_a_forged_run_file(tmp_path, name):
    (tmp_path / "x").mkdir()
    with RunFolder.open(spec(tmp_path), "resume") as folder:
        (folder.private / "secret").write_text("secret")
        state = {**folder.state, "private": name}
        (folder.path / "run.json").write_text(json.dumps(state))
    with pytest.raises(UsageError):
        purge("anonymize", tmp_path / "run", tmp_path / "private")
    assert (tmp_path / "x").exists()
    assert list((tmp_path / "private").rglob("secret"))
