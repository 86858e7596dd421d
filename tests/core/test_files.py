"""Files are whole or absent, and paths stay inside their root."""

import stat

import pytest

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.files import (
    KeyedHash,
    atomic_path,
    inside,
    make_private,
    remove_temporaries,
    write_bytes,
)


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path):
    target = tmp_path / "a.bin"
    write_bytes(target, b"old")

    def write_half():
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half of the new")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_temporaries_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".part.1.ab.tmp").write_bytes(b"half")
    (tmp_path / "sub" / "part.parquet").write_bytes(b"whole")
    remove_temporaries(tmp_path)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["part.parquet"]


@pytest.mark.parametrize("relative", ["../secret", "/etc/passwd", "a/../../b"])
def test_a_path_that_leaves_its_root_is_refused(tmp_path, relative):
    with pytest.raises(UsageError, match="leaves its root"):
        inside(tmp_path, relative)


def test_a_link_that_leaves_the_root_is_refused(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="through a link"):
        inside(root, "out/secret")


def test_private_folders_and_the_key_are_for_their_owner_only(tmp_path):
    private = make_private(tmp_path / "private")
    first, second = KeyedHash(private), KeyedHash(private)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert stat.S_IMODE((private / "hmac.key").stat().st_mode) == 0o600
    assert first.digest(b"x") == second.digest(b"x")


def test_a_keyed_hash_differs_between_private_roots(tmp_path):
    digests = {KeyedHash(tmp_path / name).digest(b"picture") for name in ("a", "b")}
    assert len(digests) == 2


def test_a_key_that_another_process_made_first_is_kept(tmp_path):
    first = KeyedHash(tmp_path)
    KeyedHash._create(tmp_path / "hmac.key")  # the loser of the race
    assert KeyedHash(tmp_path).digest(b"x") == first.digest(b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["hmac.key"]
