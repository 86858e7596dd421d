"""Sets whose pictures are no files of their own: tar shards and tables of `datasets`."""

from __future__ import annotations

import gzip
import io
import json
import logging
import pickle
import stat
import tarfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from miniatures import ids, settings, write_miniature_shards, write_tar

from unsafe2safe.core.config.components import build
from unsafe2safe.core.errors import UnreadableImage, UsageError
from unsafe2safe.core.units import cut_units
from unsafe2safe.data.hub import HubSource
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.data.source import ImageSource
from unsafe2safe.data.webdataset import WebDatasetSource, expand_braces

CAT = (photos_folder() / "cat.jpg").read_bytes()
COFFEE = (photos_folder() / "coffee.jpg").read_bytes()


def png() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(buffer, "PNG")
    return buffer.getvalue()


# -- WebDataset ------------------------------------------------------------------------------------


def test_shards_give_their_pictures_with_what_stands_beside_them(tmp_path):
    photos = write_miniature_shards(tmp_path)
    given = settings("webdataset", root=str(tmp_path), shards="data/{000..001}.tar")
    source = build(given, "dataset", ImageSource)
    assert ids(source) == sorted(photos)
    cut_units(ids(source), 2)
    for record in source.records():
        photo = photos[record.image_id]
        assert source.read(record) == (photos_folder() / photo).read_bytes()
        assert source.decode(record).format == "JPEG"
        assert record.label == photo.split(".")[0]
        assert record.captions == (f"A photo of {photo}.",)
        assert (record.licence, record.credit) == ("CC0", f"http://photos.example/{photo}")
    copy = pickle.loads(pickle.dumps(source))
    assert copy.records() == source.records()
    assert ids(WebDatasetSource(root=tmp_path, shards="data/*.tar")) == ids(source)
    assert len(build({**given, "limit": 1}, "dataset", ImageSource).records()) == 1


def test_braces_stand_for_names():
    assert list(expand_braces("a.tar")) == ["a.tar"]
    assert list(expand_braces("{08..10}.tar")) == ["08.tar", "09.tar", "10.tar"]
    assert list(expand_braces("{a,b}/{0..1}")) == ["a/0", "a/1", "b/0", "b/1"]
    for wrong in ("{0..1", "0}", "{{0..1}}", "{5..2}", "{0..99999999}"):
        with pytest.raises(UsageError, match=r"dataset\.shards="):
            list(expand_braces(wrong))


def test_missing_shards_are_counted_and_patterns_stay_in_the_root(tmp_path):
    write_miniature_shards(tmp_path)
    with pytest.raises(UsageError, match=r"no shard data/002\.tar and 1 more"):
        WebDatasetSource(root=tmp_path, shards="data/{000..003}.tar").records()
    with pytest.raises(UsageError, match=r"has no shard \*\.tar"):
        WebDatasetSource(root=tmp_path).records()
    for outside in ("../*.tar", "/data/*.tar"):
        with pytest.raises(UsageError, match=r"leaves dataset\.root"):
            WebDatasetSource(root=tmp_path / "data", shards=outside).records()
    (tmp_path / "data" / "sub").mkdir()
    (tmp_path / "data" / "sub" / "x.tar").symlink_to(tmp_path / "data" / "000.tar")
    with pytest.raises(UsageError, match="link that leaves"):
        WebDatasetSource(root=tmp_path / "data" / "sub").records()


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg"])
def test_a_shard_whose_names_leave_it_is_refused(tmp_path, name):
    write_tar(tmp_path / "a.tar", [("fine.jpg", CAT), (name, CAT)])
    with pytest.raises(UsageError, match=r"a\.tar holds .*not to be trusted"):
        WebDatasetSource(root=tmp_path).records()


def test_compressed_damaged_and_empty_shards_are_named(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, [("one.jpg", CAT), ("two.jpg", COFFEE)])
    whole = path.read_bytes()
    second = 512 + -(-len(CAT) // 512) * 512  # where the header of two.jpg begins
    for content, told in (
        (gzip.compress(whole), r"a\.tar is compressed \(gzip\)"),
        (b"", "is no tar, or damaged after its beginning"),
        (b"no tar at all" * 100, "is no tar, or damaged after its beginning"),
        (whole[: second - 700], r"is no tar, or damaged after"),
        (whole[: second + 100], r"damaged after one\.jpg"),
        (whole[:second] + b"\xff" * 512 + whole[second + 512 :], r"damaged after one\.jpg"),
        (b"\0" * 10240, "no images in 1 shards"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=told):
            WebDatasetSource(root=tmp_path).records()


def test_a_shard_without_end_mark_is_used_and_told(tmp_path, caplog):
    path = tmp_path / "a.tar"
    write_tar(path, [("one.jpg", CAT)])
    path.write_bytes(path.read_bytes()[: 512 + -(-len(CAT) // 512) * 512])
    with caplog.at_level(logging.WARNING):
        assert ids(WebDatasetSource(root=tmp_path)) == ["a.tar/one.jpg"]
    assert "no end mark" in caplog.text


def test_odd_members_fail_alone(tmp_path, caplog):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in (("x.jpg", CAT), ("x.jpg", COFFEE), ("broken.jpg", b"text"),
                              ("broken.json", b"{"), ("x.cls", b"\xff\n"), ("x.json", b"[1]"),
                              ("notes.md", b"")):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    source = WebDatasetSource(root=tmp_path)
    with caplog.at_level(logging.WARNING):
        assert ids(source) == ["a.tar/broken.jpg", "a.tar/link.jpg", "a.tar/x.jpg"]
    assert "appears twice; the first is used" in caplog.text
    assert source.read(source.record("a.tar/x.jpg")) == CAT
    assert source.record("a.tar/x.jpg").label == "�"
    with pytest.raises(UnreadableImage, match="no plain file"):
        source.decode(source.record("a.tar/link.jpg"))
    with pytest.raises(UnreadableImage, match="not an image"):
        source.decode(source.record("a.tar/broken.jpg"))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UnreadableImage, match="shorter than it was"):
        source.decode(source.record("a.tar/x.jpg"))


# -- datasets --------------------------------------------------------------------------------------


def table(**columns) -> datasets.Dataset:
    rows = {"image": [{"bytes": CAT, "path": None}, {"bytes": png(), "path": "x.jpg"}], **columns}
    made = datasets.Dataset.from_dict(rows)
    return made.cast_column("image", datasets.Image())


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "private" / "datasets"


def test_a_saved_set_gives_rows_named_by_number_and_true_format(tmp_path, cache):
    table().save_to_disk(tmp_path / "set")
    given = settings("hub", path=str(tmp_path / "set"), cache=str(cache))
    source = build(given, "dataset", ImageSource)
    assert ids(source) == ["00000000.jpg", "00000001.png"]
    assert source.read(source.record("00000000.jpg")) == CAT
    assert source.decode(source.record("00000001.png")).pixels.shape == (6, 8, 3)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.records() == source.records()
    assert copy.decode(copy.records()[0]).format == "JPEG"
    assert len(build({**given, "limit": 1}, "dataset", ImageSource).records()) == 1
    assert not cache.exists()  # a saved set is read where it lies


def test_ids_labels_and_captions_come_from_their_columns(tmp_path):
    made = table(
        key=["b/cat", "coffee.png"], kind=[1, 0], text=["A cat. ", None], many=[["x", " "], []]
    ).cast_column("kind", datasets.ClassLabel(names=["cup", "pet"]))
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "set")
    source = HubSource(
        path=str(tmp_path / "set"), id_column="key", label_column="kind", caption_column="text"
    )
    assert [(r.image_id, r.label, r.captions) for r in source.records()] == [
        ("b/cat.jpg", "pet", ("A cat.",)),
        ("coffee.png", "cup", ()),
    ]
    lists = HubSource(path=str(tmp_path / "set"), label_column="key", caption_column="many")
    assert [(r.label, r.captions) for r in lists.records()] == [
        ("b/cat", ("x",)),
        ("coffee.png", ()),
    ]
    for ids_given, told in (
        (["../x", "a"], "row 0 .* cannot be an image id"),
        (["a", None], "row 1 .* cannot be an image id"),
        (["a.jpg", "a.jpg"], "rows 0 and 1 .* are both 'a.jpg'"),
    ):
        table(key=ids_given).save_to_disk(tmp_path / f"bad{ids_given[1]}")
        with pytest.raises(UsageError, match=told):
            HubSource(path=str(tmp_path / f"bad{ids_given[1]}"), id_column="key").records()


def test_what_a_set_lacks_is_named(tmp_path, cache):
    datasets.DatasetDict({"train": table(), "test": table()}).save_to_disk(tmp_path / "set")
    path = str(tmp_path / "set")
    with pytest.raises(UsageError, match=r"dataset\.split=tain is not in .*did you mean 'train'"):
        HubSource(path=path, split="tain").records()
    with pytest.raises(UsageError, match=r"no column 'imgae'; did you mean 'image'"):
        HubSource(path=path, image_column="imgae").records()
    with pytest.raises(UsageError, match=r"does not exist"):
        HubSource(path=str(tmp_path / "gone")).records()
    table(number=[1, 2]).save_to_disk(tmp_path / "numbers")
    with pytest.raises(UsageError, match=r"column 'number' of .* holds no images"):
        HubSource(path=str(tmp_path / "numbers"), image_column="number").records()
    table().select([]).save_to_disk(tmp_path / "none", num_shards=1)
    with pytest.raises(UsageError, match="has no rows"):
        HubSource(path=str(tmp_path / "none")).records()
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    with pytest.raises(UsageError, match=r"broken\.parquet cannot be loaded by `datasets`"):
        HubSource(path=str(tmp_path / "broken.parquet"), cache=cache).records()
    (tmp_path / "broken.txt").write_bytes(b"no table")
    with pytest.raises(UsageError, match=r"known are \.parquet"):
        HubSource(path=str(tmp_path / "broken.txt"), cache=cache).records()


def test_a_set_that_brings_code_is_refused(tmp_path, cache):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UsageError, match="cannot be loaded"):
        HubSource(path=str(tmp_path / "set"), cache=cache).records()
    assert not (tmp_path / "ran").exists()


def test_a_parquet_file_is_read_and_the_librarys_copy_is_private(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "public")
    table().to_parquet(tmp_path / "set.parquet")
    source = HubSource(path=str(tmp_path / "set.parquet"), cache=cache)
    assert ids(source) == ["00000000.jpg", "00000001.png"]
    assert source.decode(source.records()[0]).format == "JPEG"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert list(cache.rglob("*.arrow"))
    assert not list((tmp_path / "public").rglob("*.arrow"))


def test_a_folder_of_files_is_a_set(tmp_path, cache):
    for name in ("train/a.jpg", "train/b.jpg"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(CAT)
    source = HubSource(path=str(tmp_path / "set"), cache=cache)
    assert ids(source) == ["00000000.jpg", "00000001.jpg"]
    assert source.read(source.records()[1]) == CAT


def test_rows_without_bytes_are_read_inside_the_set_only(tmp_path, cache):
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.jpg").write_bytes(CAT)
    inside = tmp_path / "set" / "a.jpg"
    cells = [
        {"bytes": None, "path": str(inside)},
        {"bytes": None, "path": str(tmp_path / "secret.jpg")},
        {"bytes": None, "path": str(tmp_path / "set" / ".." / "secret.jpg")},
        None,
        {"bytes": b"text", "path": None},
    ]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), tmp_path / "set" / "rows.parquet")
    inside.write_bytes(COFFEE)
    source = HubSource(path=str(tmp_path / "set" / "rows.parquet"), cache=cache)
    fates = []
    for record in source.records():
        try:
            fates.append(source.decode(record).format)
        except UnreadableImage as error:
            fates.append(error.reason)
    assert fates == [
        "JPEG",
        "the row names a file outside its data set",
        "the row names a file outside its data set",
        "the row holds no image",
        "not an image",
    ]
    assert str(tmp_path) not in str(fates)


def test_a_column_of_plain_bytes_is_a_column_of_pictures(tmp_path, cache):
    pq.write_table(pa.table({"picture": pa.array([CAT, COFFEE])}), tmp_path / "raw.parquet")
    source = HubSource(path=str(tmp_path / "raw.parquet"), image_column="picture", cache=cache)
    assert [source.read(record) for record in source.records()] == [CAT, COFFEE]
    assert json.dumps(ids(source)) == '["00000000.jpg", "00000001.jpg"]'
