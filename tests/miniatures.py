"""Public data sets in miniature: the official layout around a few of the packaged photographs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from unsafe2safe.data.samples import photos_folder

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
