"""Public data sets in miniature: the official layout around a few of the packaged photographs."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from omegaconf import OmegaConf
from PIL import Image

from unsafe2safe.core.config.compose import config_dir
from unsafe2safe.core.config.schema import GenerateTriplets
from unsafe2safe.core.ledger import RunFolder
from unsafe2safe.core.records import PrivateRecord, Region, Triplet
from unsafe2safe.core.tables import write_records
from unsafe2safe.data.samples import photos_folder
from unsafe2safe.data.source import ImageSource
from unsafe2safe.jobs.common import run_spec

_LICENCES = [
    {"id": 1, "name": "Attribution-NonCommercial-ShareAlike License", "url": "http://x/by-nc-sa/"},
    {"id": 3, "name": "Attribution-NonCommercial-NoDerivs License", "url": "http://x/by-nc-nd/"},
    {"id": 4, "name": "Attribution License", "url": "http://x/by/"},
]
_CATEGORIES = [
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 17, "name": "cat", "supercategory": "animal"},
    {"id": 47, "name": "cup", "supercategory": "kitchen"},
]
_CONTENT = {  # category ids, caption
    "astronaut.jpg": ((1,), "A person in an orange suit in front of a flag."),
    "cat.jpg": ((17,), "A cat that looks to the side."),
    "coffee.jpg": ((47, 47, 17), "A cup of coffee on a wooden table."),
    "coffee_note.jpg": ((47,), "A cup of coffee with a note beside it."),
    "cat_poster.jpg": ((17,), "A poster with a cat on it."),
}


def write_miniature_coco(
    root: Path,
    photos: Sequence[str] = ("astronaut.jpg", "cat.jpg", "coffee.jpg", "coffee_note.jpg"),
    split: str = "train2017",
    no_derivatives: Sequence[str] = (),
) -> dict[str, str]:
    """Write ``root/<split>/*.jpg`` and ``root/annotations/{instances,captions}_<split>.json``.

    ``no_derivatives`` names the photographs whose licence forbids edited copies; the others are
    under an attribution licence. Returns the photograph behind each ``image_id``.
    """
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    prefix = f"COCO_{split}_" if split.endswith("2014") else ""
    images, objects, captions, ids = [], [], [], {}
    for number, photo in enumerate(photos):
        identifier = 9 + 16 * number
        name = f"{prefix}{identifier:012d}.jpg"
        shutil.copyfile(photos_folder() / photo, root / split / name)
        ids[f"{split}/{name}"] = photo
        with Image.open(root / split / name) as image:
            width, height = image.size
        images.append(
            {
                "id": identifier,
                "file_name": name,
                "width": width,
                "height": height,
                "license": 3 if photo in no_derivatives else 4,
                "coco_url": f"http://images.example/{split}/{name}",
                "flickr_url": f"http://photos.example/{identifier}.jpg",
                "date_captured": "2013-11-15 02:41:42",
            }
        )
        categories, caption = _CONTENT.get(photo, ((1,), "A portrait of a person."))
        for category in categories:
            objects.append(
                {
                    "id": 1000 + len(objects),
                    "image_id": identifier,
                    "category_id": category,
                    "bbox": [width / 4, height / 4, width / 2, height / 2],
                    "area": width * height / 4,
                    "iscrowd": 0,
                    "segmentation": [[width / 4, height / 4, width / 2, height / 2, 0.0, height]],
                }
            )
        for text in (caption, f"{caption[:-1]}, seen by another annotator.\n"):
            captions.append({"id": 5000 + len(captions), "image_id": identifier, "caption": text})
    common = {
        "info": {"description": "COCO in miniature", "year": int(split[-4:])},
        "licenses": _LICENCES,
        "images": images,
    }
    for kind, content in (
        ("instances", {**common, "annotations": objects, "categories": _CATEGORIES}),
        ("captions", {**common, "annotations": captions}),
    ):
        (root / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))
    return ids


def write_miniature_caltech101(root: Path, nested: str = "") -> dict[str, str]:
    """Write ``root/101_ObjectCategories/<class>/image_0001.jpg`` and the background folder.

    ``nested`` is a folder between the two, as some downloads have it. Returns the label of each
    ``image_id``, the background's included.
    """
    labels = {}
    for label, photos in (
        ("Faces", ("president_a.jpg", "vice_president.jpg")),
        ("cup", ("coffee.jpg",)),
        ("wild_cat", ("cat.jpg",)),
        ("BACKGROUND_Google", ("cameraman.jpg",)),
    ):
        for number, photo in enumerate(photos, 1):
            name = PurePosixPath(nested, "101_ObjectCategories", label, f"image_{number:04d}.jpg")
            _copy(photo, root / name)
            labels[str(name)] = label
    (root / nested / "101_ObjectCategories" / "BACKGROUND_Google" / "tmp").write_bytes(b"")
    return labels


def write_miniature_indoor67(root: Path) -> dict[str, str]:
    """Write ``root/Images/<scene>/*.jpg`` with both lists; one picture is in neither.

    Returns the split of each ``image_id``: 'train', 'test' or ''.
    """
    placed = {
        "Images/bakery/b 1.jpg": ("coffee.jpg", "train"),
        "Images/bakery/b2.jpg": ("coffee_note.jpg", "test"),
        "Images/office/o1.jpg": ("portrait_wall.jpg", "train"),
        "Images/office/o2.jpg": ("cat_poster.jpg", ""),
    }
    for name, (photo, _) in placed.items():
        _copy(photo, root / name)
    for split, listing in (("train", "TrainImages.txt"), ("test", "TestImages.txt")):
        lines = [name.removeprefix("Images/") for name, (_, of) in placed.items() if of == split]
        (root / listing).write_bytes("\r\n".join(lines).encode())  # no line end at the end
    return {name: split for name, (_, split) in placed.items()}


VISPR_LABELS = {
    "cat.jpg": ("a0_safe",),
    "coffee.jpg": ("a0_safe",),
    "coffee_note.jpg": ("a19_name_full", "a49_phone"),
    "president_a.jpg": ("a1_age_approx", "a9_face_complete", "a4_gender"),
}


def write_miniature_vispr(
    root: Path, split: str = "test2017", annotations: str = "{split}_anno", images: str = "{split}"
) -> dict[str, tuple[str, ...]]:
    """Write pictures to ``images`` and a JSON file for each to ``annotations``, under ``root``.

    Returns the labels of each ``image_id``.
    """
    beside = root / annotations.format(split=split)
    beside.mkdir(parents=True, exist_ok=True)
    labels = {}
    for number, (photo, attributes) in enumerate(VISPR_LABELS.items()):
        name = f"2017_{10000000 + number}"
        _copy(photo, root / images.format(split=split) / f"{name}.jpg")
        content = {
            "id": name,
            "image_path": f"images/{split}/{name}.jpg",
            "labels": list(attributes),
            "source_url": f"http://photos.example/{number}.jpg",
        }
        (beside / f"{name}.json").write_text(json.dumps(content))
        labels[f"{images.format(split=split)}/{name}.jpg"] = attributes
    return labels


def write_miniature_shards(root: Path) -> dict[str, str]:
    """Write ``root/data/{000,001}.tar`` with labels and captions beside the pictures.

    Returns the photograph behind each ``image_id``.
    """
    (root / "data").mkdir(parents=True, exist_ok=True)
    photos = {}
    for shard, content in (
        ("000", {"a": "cat.jpg", "sub/b": "coffee.jpg"}),
        ("001", {"a": "astronaut.jpg"}),
    ):
        members: list[tuple[str, bytes]] = []
        for stem, photo in content.items():
            members.append((f"{stem}.cls", photo.split(".")[0].encode()))
            members.append((f"./{stem}.jpg", (photos_folder() / photo).read_bytes()))
            members.append((f"{stem}.txt", f"A photo of {photo}.\n".encode()))
            facts = {"license": "CC0", "url": f"http://photos.example/{photo}"}
            members.append((f"{stem}.json", json.dumps(facts).encode()))
            photos[f"data/{shard}.tar/{stem}.jpg"] = photo
        write_tar(root / "data" / f"{shard}.tar", members)
    return photos


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    """Write an uncompressed tar of ``members``; names are taken as they are, good or bad."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _copy(photo: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(photos_folder() / photo, target)


def settings(name: str, **changes: Any) -> dict[str, Any]:
    """The shipped YAML of a data set, with changes, as it reaches ``build``."""
    loaded = OmegaConf.load(config_dir() / "dataset" / f"{name}.yaml")
    paths = {"data": "data", "private": "private"}
    base = OmegaConf.create({"dataset": loaded, "paths": paths})
    base.dataset.update(changes)
    return OmegaConf.to_container(base, resolve=True)["dataset"]


def ids(source: ImageSource) -> list[str]:
    """All image ids of a source, in its order."""
    return [record.image_id for record in source.records()]


def write_triplets_run(
    config: GenerateTriplets,
    folder: Path,
    triplets: Sequence[Triplet],
    regions: Sequence[Region],
    private_caption: str,
    parts: int = 1,
    complete: bool = True,
) -> Path:
    """Write a run folder of generate_triplets.py with these records; returns it."""
    spec = run_spec(
        config.model_copy(update={"output_dir": folder}), "generate_triplets", "miniature"
    )
    size = -(-len(triplets) // parts)
    with RunFolder.open(spec, "resume") as run:
        for part in range(parts):
            rows = triplets[part * size : (part + 1) * size]
            names = {row.image_id for row in rows}
            private = [PrivateRecord(name, private_caption, ()) for name in sorted(names)]
            file = f"part-{part:06d}.parquet"
            write_records(run.private / "private" / file, PrivateRecord, private, mode=0o600)
            own = [region for region in regions if region.image_id in names]
            write_records(folder / "regions" / file, Region, own)
            write_records(folder / "triplets" / file, Triplet, rows)
        if complete:
            run.finish({"images": len(triplets)})
    return folder
