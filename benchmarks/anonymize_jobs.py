"""What ``benchmarks/anonymize.py`` measures, each in a process of its own.

python benchmarks/anonymize_jobs.py '{"kind": "our_loop", "root": "...", ...}' prints one line of
JSON: what was counted, wall seconds and CPU seconds of the measured part, peak memory of the
process.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Found = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """``kind`` names a function below; ``root`` is where all of them work.

    ``looks``: whether the detectors look at the edited pictures again. Of ``shards`` processes that
    share a job, this one is number ``shard``.
    """

    kind: str
    root: Path
    images: int
    batch: int = 8
    side: int = 128
    steps: int = 20
    threads: int = 2
    looks: str = "on"
    size: str = "TRUE_PROPORTIONS"
    shard: int = 0
    shards: int = 1

    @property
    def places(self) -> list[str]:
        return [
            f"paths.runs={self.root / 'runs'}",
            f"paths.private={self.root / 'private'}",
            f"engine.threads={self.threads}",
            "existing=overwrite",
        ]


class Clock:
    """Wall and CPU seconds between entry and exit; of this process and its children."""

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), _cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, _cpu() - self._cpu

    @property
    def found(self) -> Found:
        return {"seconds": self.wall, "cpu": self.cpu}


def _cpu() -> float:
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


@contextmanager
def looking(job: Job) -> Iterator[None]:
    """With ``looks=off`` no detector looks at an edit, nor at a source to compare it with; with
    ``first`` only at the first 64 pictures. All else (fidelity, metadata, decoding what was
    encoded) goes on. No setting can do this: it is for measuring alone."""
    from unsafe2safe.vision.perception import Perception

    most = {"on": sys.maxsize, "first": 64, "off": 0}[job.looks]
    real = {name: getattr(Perception, name) for name in ("verify_faces", "verify_text")}
    seen = dict.fromkeys(real, 0)

    def limited(name: str) -> Callable[..., list[Any]]:
        def look(self: Perception, image: Any) -> list[Any]:
            seen[name] += 1
            return real[name](self, image) if seen[name] <= most else []

        return look

    for name in real:
        setattr(Perception, name, limited(name))
    try:
        yield
    finally:
        for name, look in real.items():
            setattr(Perception, name, look)


def prepare_loop(job: Job) -> Found:
    """The small base, scenes as PNG files, and their triplets by the oracle."""
    import small_ip2p
    from PIL import Image

    from unsafe2safe import api
    from unsafe2safe.core.config.components import build
    from unsafe2safe.core.config.compose import load
    from unsafe2safe.data.source import ImageSource

    small_ip2p.save_base(getattr(small_ip2p, job.size), job.root / "base")
    drawn = ["dataset=synthetic", f"dataset.size={job.images}", f"dataset.side={job.side}"]
    api.generate_triplets(
        *drawn, *job.places, "stage1=oracle", f"output_dir={job.root / 'triplets'}"
    )
    source = build(load("generate_triplets", drawn).dataset, "dataset", ImageSource)
    scenes = job.root / "scenes"
    scenes.mkdir()
    for record in source.records():
        Image.fromarray(source.decode(record).pixels).save(scenes / record.image_id)
    return {}


def prepare_base(job: Job) -> Found:
    """The small base alone."""
    import small_ip2p

    small_ip2p.save_base(getattr(small_ip2p, job.size), job.root / "base")
    return {}


def our_loop(job: Job) -> Found:
    """anonymize.py over the scenes, after a run over the first batch of them."""
    from typing import cast

    from unsafe2safe.core.config.components import build
    from unsafe2safe.core.config.compose import load
    from unsafe2safe.core.config.schema import Anonymize
    from unsafe2safe.editors.base import Editor
    from unsafe2safe.jobs import anonymize

    editor = None

    def run(name: str, images: int) -> Any:
        nonlocal editor
        config = cast(
            Anonymize,
            load("anonymize", [
                *job.places, "dataset=folder", f"dataset.root={job.root / 'scenes'}",
                f"dataset.limit={images}", f"triplets={job.root / 'triplets'}", "editor=ip2p",
                f"editor.weights={job.root / 'base'}", f"editor.resolution={job.side}",
                f"editor.steps={job.steps}", f"editor.batch_size={job.batch}",
                f"batch_size={job.batch}", "verify.max_attempts=1", "publish.format=png",
                "mask_categories=[face,head,person,text,plate,other]",
                f"output_dir={job.root / name}",
            ]),
        )  # fmt: skip
        editor = editor or build({**config.editor, "adapter": None}, "editor", Editor)
        return anonymize.run(config, editor)

    with looking(job):
        run("warm", min(job.batch, job.images))
        with Clock() as clock:
            counts = run(f"ours-{job.looks}", job.images).counts
    return {**clock.found, "counts": counts}


def bare_pipeline(job: Job) -> Found:
    """diffusers' pipeline, called picture by picture, after a call for the first of them."""
    import torch
    from diffusers import StableDiffusionInstructPix2PixPipeline
    from PIL import Image

    from unsafe2safe.core.records import Triplet
    from unsafe2safe.core.tables import read_parts

    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        job.root / "base", local_files_only=True, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    rows = list(read_parts(job.root / "triplets" / "triplets", Triplet))[: job.images]
    folder = job.root / "bare"
    folder.mkdir(exist_ok=True)

    def edit(seed: int, row: Triplet) -> None:
        picture = Image.open(job.root / "scenes" / row.image_id).convert("RGB")
        edited = pipeline(
            row.edit_instruction,
            image=picture.resize((job.side, job.side), Image.Resampling.LANCZOS),
            num_inference_steps=job.steps,
            guidance_scale=7.5,
            image_guidance_scale=1.5,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        edited.resize(picture.size, Image.Resampling.LANCZOS).save(folder / row.image_id)

    edit(0, rows[0])
    with Clock() as clock:
        for seed, row in enumerate(rows):
            edit(seed, row)
    return clock.found


def prepare_photos(job: Job) -> Found:
    """Sample photographs with faces, all of one size (deface takes the first one's for all), with
    mirrored copies."""
    from PIL import Image, ImageOps

    from unsafe2safe.data.samples import SamplesSource, photos_folder

    folder = job.root / "photos"
    folder.mkdir()
    labels = SamplesSource().labels()
    names = sorted(name for name, label in labels.items() if label.face_boxes)
    for index in range(job.images):
        picture = Image.open(photos_folder() / names[index % len(names)]).convert("RGB")
        sides = job.side, job.side * 3 // 4
        upper = (0.5, 0.2)  # where the faces are, of portraits
        fitted = ImageOps.fit(picture, sides, Image.Resampling.LANCZOS, centering=upper)
        if index // len(names) % 2:
            fitted = ImageOps.mirror(fitted)
        fitted.save(folder / f"{index:04d}.jpg", quality=95)
    return {}


def find_faces(job: Job) -> Found:
    """Boxes of the faces in each photograph."""
    from unsafe2safe.data.decode import decode_file

    detector = _detector(job)
    photos = sorted((job.root / "photos").iterdir())
    found = [detector.detect([decode_file(path, path.name).pixels])[0] for path in photos]
    return {"faces": [[face.box for face in faces] for faces in found]}


def _detector(job: Job) -> Any:
    """As deface looks: once, at the picture's own size, from a score of 0.2 on."""
    from unsafe2safe.vision.faces import FaceDetector

    return FaceDetector(0.2, None, job.threads)


def redact_faces(job: Job) -> Found:
    """What deface does, by our parts: find faces once, blur them, write without metadata.

    ``looks``: off; ``edited``, the same detector once more at what was edited; ``same``, at all of
    what was written; ``checked``, all of verify.look=edited, with that detector; ``on``, the whole
    verification, its readings of text included.
    """
    from unsafe2safe.anonymize.candidate import Candidate
    from unsafe2safe.anonymize.ladder import Step
    from unsafe2safe.anonymize.publish import Publisher
    from unsafe2safe.anonymize.region_editing import edit_regions, edited_windows
    from unsafe2safe.anonymize.verify import least_face, verify
    from unsafe2safe.core.config.compose import load
    from unsafe2safe.core.files import KeyedHash
    from unsafe2safe.core.records import (
        Category,
        ImageRecord,
        PrivacyFlag,
        Provenance,
        Region,
        Triplet,
        TripletState,
    )  # fmt: skip
    from unsafe2safe.data.decode import decode_file
    from unsafe2safe.editors.redact import RedactEditor
    from unsafe2safe.vision.perception import Perception

    look = "edited" if job.looks == "checked" else "whole"
    config: Any = load("anonymize", [*job.places, "mask_categories=[face]", f"verify.look={look}"])
    detector, editor = _detector(job), RedactEditor(name="redact")
    perception = Perception(config.vision, job.threads)
    perception.faces = detector
    keyed = KeyedHash(job.root / "private")
    publisher = Publisher(job.root / f"redacted-{job.looks}", config.publish, keyed)
    files = sorted((job.root / "photos").iterdir())[job.shard : job.images : job.shards]
    faces = left = 0
    warm = decode_file(files[0], files[0].name).pixels
    detector.detect([warm])
    if job.looks == "on":
        perception.verify_faces(warm[:64, :64])
        perception.verify_text(warm[:64, :64])
    _wait_for_others(job)
    with Clock() as clock:
        for path in files:
            image = decode_file(path, path.name)
            found = detector.detect([image.pixels])[0]
            regions = [
                Region(path.name, f.box, Category.FACE, f.score, "centerface") for f in found
            ]
            triplet = Triplet(
                path.name, PrivacyFlag.UNSAFE, TripletState.COMPLETE, "", "", None, "face",
                Provenance("centerface"),
            )  # fmt: skip
            record = ImageRecord(path.name, path)
            candidate = Candidate(record, image, triplet, regions, perception)
            request = candidate.request(config, Step("first", editor, "", config.margin))
            (edited,) = edit_regions(editor, [request], config)
            encoded = publisher.encode(path.name, edited, image, None)
            faces += len(found)
            if job.looks == "edited":
                edited_parts = edited_windows(request.mask)
                sides = [least_face(part, regions) for part in edited_parts]
                left += len(detector.detect_in(encoded.pixels, edited_parts, sides))
            elif job.looks == "same":
                left += len(detector.detect([encoded.pixels])[0])
            elif job.looks in ("checked", "on"):
                verdict = verify(candidate, encoded.pixels, request.mask, config.verify, editor)
                left += not verdict.passed
            publisher.write(path.name, encoded)
    return {**clock.found, "faces": faces, "left": left}


def _wait_for_others(job: Job) -> None:
    """Until all processes that share the job are ready to begin; one of them may have failed."""
    latest = time.monotonic() + 120
    meeting = job.root / f"{job.kind}-{job.looks}"
    meeting.mkdir(exist_ok=True)
    (meeting / str(job.shard)).touch()
    while len(list(meeting.iterdir())) < job.shards:
        if time.monotonic() > latest:
            raise TimeoutError("another process of this job has not begun")
        time.sleep(0.001)


def memory(job: Job) -> Found:
    """Redaction of drawn pictures from their oracle's triplets."""
    from unsafe2safe import api

    drawn = ["dataset=synthetic", f"dataset.size={job.images}", *job.places]
    name = job.root / f"triplets-{job.images}"
    api.generate_triplets(*drawn, "stage1=oracle", f"output_dir={name}")
    with looking(job), Clock() as clock:
        result = api.anonymize(
            *drawn, f"triplets={name}", "verify.max_attempts=1",
            "mask_categories=[face,head,person,text,plate,other]",
            f"output_dir={job.root / f'memory-{job.images}'}",
        )  # fmt: skip
    return {**clock.found, "counts": result.counts}


def large(job: Job) -> Found:
    """One photograph of 12,000 x 9,000 pixels (``side`` x 3/4 of it) under ``region=crops``, until
    it is published: an editor of random weights may leave a face, a redaction will not."""
    import numpy as np
    from PIL import Image

    from unsafe2safe import api
    from unsafe2safe.data.samples import photos_folder

    folder = job.root / f"large-{job.side}"
    folder.mkdir()
    height, width = job.side * 3 // 4, job.side
    picture = Image.new("RGB", (width, height), "white")
    portrait = Image.open(photos_folder() / "astronaut.jpg").convert("RGB")
    side = min(512, height)
    portrait = portrait.resize((side, side))
    for corner in ((0, 0), (width - side, height - side)):
        picture.paste(portrait, corner)
    picture.save(folder / "large.jpg", quality=90)
    del picture
    given = ["dataset=folder", f"dataset.root={folder}", *job.places]
    triplets = job.root / f"large-triplets-{job.side}"
    api.generate_triplets(*given, f"output_dir={triplets}")
    before = _peak_mb()
    with Clock() as clock:
        result = api.anonymize(
            *given, f"triplets={triplets}", "region=crops", "editor=ip2p",
            f"editor.weights={job.root / 'base'}", "editor.resolution=128",
            f"editor.steps={job.steps}", "verify.ladder=[redact,margin,margin]",
            f"output_dir={job.root / f'large-run-{job.side}'}",
        )  # fmt: skip
    picture_mb = np.prod((height, width, 3)) / 2**20
    return {**clock.found, "counts": result.counts, "before_mb": before, "picture_mb": picture_mb}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    given = json.loads(sys.argv[1])
    job = Job(**{**given, "root": Path(given["root"])})
    out = os.dup(1)
    os.dup2(2, 1)  # what the jobs print is no result
    import cv2
    import torch

    torch.set_num_threads(job.threads)
    cv2.setNumThreads(job.threads)
    found = globals()[job.kind](job)
    with os.fdopen(out, "w") as file:
        file.write(json.dumps({**found, "peak_mb": _peak_mb()}) + "\n")


if __name__ == "__main__":
    main()
