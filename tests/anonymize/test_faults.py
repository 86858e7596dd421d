"""Whatever breaks, no original is published, no half file is left, and the run goes on.

A full disk is the one fault that stops it, and the same command goes on from there.
"""

import os
import resource
import shutil
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest
from injected_editors import Identity, NotFinite, Raises, WrongSize
from PIL import Image
from small_world import UNITS

from unsafe2safe.anonymize.audit import audit
from unsafe2safe.core import files, ledger
from unsafe2safe.core.errors import StorageError
from unsafe2safe.data.source import ImageSource
from unsafe2safe.editors.redact import RedactEditor
from unsafe2safe.vision.perception import Perception

pytestmark = pytest.mark.usefixtures("blind")

SAFE = {"person_0002.png", "person_0007.png"}


def published(run):
    root = run / "published"
    return {path.relative_to(root).as_posix() for path in root.rglob("*.png")}


def assert_no_original_but(world, run, names):
    """No published picture has the patch of its original, but those that were called safe."""
    for name in published(run):
        shown = np.asarray(Image.open(run / "published" / name))
        source = np.asarray(Image.open(world.root / "images" / name))
        assert shown.shape == source.shape
        same = np.array_equal(shown[16:40, 16:48], source[16:40, 16:48])
        assert same == (name in names), name


@pytest.mark.parametrize(
    "editor", [Raises(), NotFinite(), WrongSize(), Identity()], ids=lambda editor: editor.name
)
def test_a_faulty_editor_publishes_only_what_needs_no_edit(world, editor):
    result = world.run(f"editor_{editor.name}", *UNITS, "verify.redact=false", editor=editor)
    assert result.status == 3
    assert published(result.output_dir) == SAFE
    assert_no_original_but(world, result.output_dir, SAFE)
    assert audit(result.output_dir).passed


@pytest.mark.parametrize("method", ["verify_text", "verify_faces"])
@pytest.mark.parametrize("ahead", [0, 1])
def test_a_detector_that_raises_fails_its_image_alone(world, monkeypatch, method, ahead):
    """Wherever it looks: at the source beside the loop, or at the edit in it."""
    bad = np.asarray(Image.open(world.root / "images" / "person_0004.png"))

    def raises(perception, image):
        if np.array_equal(image[:8], bad[:8]):
            raise RuntimeError("Anna Weber")
        return []

    monkeypatch.setattr(Perception, method, raises)
    once = "verify.max_attempts=1"
    result = world.run(f"{method}{ahead}", *UNITS, f"engine.ahead={ahead}", once)
    outcomes = world.outcomes(result.output_dir)
    assert outcomes["person_0004.png"].state == "needs_review"
    assert "RuntimeError" in outcomes["person_0004.png"].reason
    assert "Anna" not in outcomes["person_0004.png"].reason
    quiet = world.outcomes(world.root / "quiet")
    for name, row in outcomes.items():
        assert name == "person_0004.png" or row == quiet[name]
    assert_no_original_but(world, result.output_dir, SAFE)


def break_file(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "gone":
        path.unlink()
        path.symlink_to(path.with_name("nowhere.png"))
    elif how == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize("how", ["truncated", "empty", "gone"])
def test_an_unreadable_file_fails_alone(world, how):
    path = world.root / "images" / "person_0001.png"
    kept = path.read_bytes()
    try:
        break_file(path, how)
        result = world.run(f"file_{how}", *UNITS)
        outcomes = world.outcomes(result.output_dir)
    finally:
        path.unlink()
        path.write_bytes(kept)
    assert outcomes["person_0001.png"].state == "failed"
    quiet = world.outcomes(world.root / "quiet")
    assert {n: o for n, o in outcomes.items() if n != "person_0001.png"} == {
        n: o for n, o in quiet.items() if n != "person_0001.png"
    }


def test_a_decoder_that_raises_anything_fails_its_image_alone(world, monkeypatch):
    decode = ImageSource.decode

    def raises(source, record):
        if record.image_id == "person_0005.png":
            raise RuntimeError("Anna Weber")
        return decode(source, record)

    monkeypatch.setattr(ImageSource, "decode", raises)
    result = world.run("decoder", *UNITS)
    outcomes = world.outcomes(result.output_dir)
    assert "decoding raised RuntimeError" in outcomes["person_0005.png"].reason
    assert "Anna" not in outcomes["person_0005.png"].reason
    assert result.counts["failed"] == 1


class StoppedError(BaseException):
    pass


class StopsAtOnce(RedactEditor):
    """Ends the run in its second unit, so that run.json and the first unit are there."""

    def edit(self, requests):
        if not any(np.ptp(request.image) for request in requests) or self._edited() > 1:
            raise StoppedError
        return super().edit(requests)

    def _edited(self):
        vars(self)["count"] = vars(self).get("count", 0) + 1
        return vars(self)["count"]


@contextmanager
def no_file_greater_than(size):
    """The system refuses to write more into a file, as it does when a quota is reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_the_run_and_the_same_command_ends_as_if_nothing_had_been(world):
    run = world.root / "full"
    with pytest.raises(StoppedError):
        world.run("full", *UNITS, editor=StopsAtOnce(name="redact"))
    parts = sorted((run / "audit").glob("part-*"))
    smallest = min((run / "published" / name).stat().st_size for name in published(run))
    with no_file_greater_than(smallest // 2), pytest.raises(StorageError) as stopped:
        world.run("full", *UNITS)
    assert "cannot write" in str(stopped.value)
    assert "published/person_" in str(stopped.value)
    assert sorted((run / "audit").glob("part-*")) == parts
    assert not list(run.rglob("*.tmp"))
    for name in published(run):
        Image.open(run / "published" / name).load()  # whole, every one of them
    assert_no_original_but(world, run, SAFE)
    assert not (run / "manifest.parquet").exists()
    world.run("full", *UNITS)
    assert world.written("full") == world.written("quiet")


def test_a_device_without_space_stops_the_run_and_leaves_no_part_of_the_file(world, monkeypatch):
    """The kernel's own ENOSPC, for one picture: its temporary file is a link to /dev/full."""
    run = world.root / "device"
    with pytest.raises(StoppedError):
        world.run("device", *UNITS, editor=StopsAtOnce(name="redact"))
    before = published(run)
    named = next(n for n in sorted(published(world.root / "quiet")) if n not in before)
    with monkeypatch.context() as patched:
        patched.setattr(files.secrets, "token_hex", lambda count: "0" * 2 * count)
        temporary = run / "published" / f".{named}.{os.getpid()}.00000000.tmp"

        def linked(folder):  # in place of removing what a killed run left: it would go as well
            if folder == run:
                temporary.symlink_to("/dev/full")

        patched.setattr(ledger, "remove_temporaries", linked)
        with pytest.raises(StorageError, match=rf"{named}: no space left on device"):
            world.run("device", *UNITS)
    assert not temporary.is_symlink()
    assert named not in published(run)
    assert_no_original_but(world, run, SAFE)
    world.run("device", *UNITS)
    assert world.written("device") == world.written("quiet")


@contextmanager
def small_disk(path, kilobytes):
    """A file system of its own at ``path``; expected to fail where nobody may mount one."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.xfail("this process may mount nothing; /dev/full above stands for it")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, capture_output=True)


@pytest.mark.parametrize("free", [0, 8, 24])  # kilobytes
def test_a_full_file_system_stops_the_run_wherever_it_is_and_the_same_command_goes_on(world, free):
    name = f"disk{free}"
    with small_disk(world.root / name, 4096) as run:
        with pytest.raises(StoppedError):
            world.run(name, *UNITS, editor=StopsAtOnce(name="redact"))
        parts = sorted((run / "audit").glob("part-*"))
        room = shutil.disk_usage(run).free - 1024 * free
        (run / ".lock-ballast").write_bytes(bytes(room))  # no file of the run's
        with pytest.raises(StorageError, match="no space left on device"):
            world.run(name, *UNITS)
        (run / ".lock-ballast").unlink()
        assert set(parts) <= set((run / "audit").glob("part-*"))
        assert not list(run.rglob("*.tmp"))
        for shown in published(run):
            Image.open(run / "published" / shown).load()  # whole, every one of them
        assert_no_original_but(world, run, SAFE)
        assert not (run / "manifest.parquet").exists()
        world.run(name, *UNITS)
        assert world.written(name) == world.written("quiet")
        assert audit(run).passed


def test_two_runs_of_the_same_world_are_equal_and_a_copy_is_audited(world, tmp_path):
    copy = shutil.copytree(world.root / "quiet", tmp_path / "copy")
    assert audit(copy).passed
    assert audit(copy).published == 10
