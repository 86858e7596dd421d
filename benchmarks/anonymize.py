"""What anonymize.py costs beyond its editor, against deface, and in memory.

python benchmarks/anonymize.py                 # all of it, on a machine with nothing else to do
python benchmarks/anonymize.py loop            # against the bare pipeline of diffusers
python benchmarks/anonymize.py redact --deface SCRATCH/bin/deface
python benchmarks/anonymize.py memory          # 100 and 5,000 pictures, and one of 12,000 x 9,000
python benchmarks/anonymize.py memory --many 1500    # for a smaller machine
python benchmarks/anonymize.py --small --rounds 1    # that it works, judging nothing

deface is no dependency: python -m venv SCRATCH && SCRATCH/bin/pip install deface==1.5

Every figure is a ratio of one run on one machine, in wall seconds and beside it in CPU seconds
(what counts where something else runs, too). Whatever is compared takes turns, each in a process
of its own, for some rounds; a figure is the median over the rounds of the ratio within a round,
the extremes behind it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, get_args

from anonymize_jobs import Job
from table import QUIET, Row, at_least, tell, told_ratio, warn_unless_below

from unsafe2safe.core.openmp import wait_briefly
from unsafe2safe.core.records import Box
from unsafe2safe.vision.matching import match_boxes

LEAST_OF_BARE = 1.5  # images per second of our loop, batch 8, against one by one
LEAST_OF_DEFACE = 1.2
MOST_MEMORY = 1.1  # peak at 5,000 images, or --many, against that at 100
Found = dict[str, Any]
_LOOKS = {
    "off": "without a second look",
    "edited": "with a second look by the same detector at what was edited",
    "same": "with a second look by the same detector at all of the picture",
    "checked": "verify.look=edited",
    "on": "verify.look=whole",
}

# Faces that deface finds, by its own class in its own environment: its command tells none.
_DEFACE_FACES = """
import json, sys, imageio
from deface.centerface import CenterFace
net = CenterFace(backend=sys.argv[1])
found = [net(imageio.imread(path), threshold=0.2)[0] for path in sys.argv[2:]]
print(json.dumps([[list(map(float, face[:4])) for face in faces] for faces in found]))
"""


@dataclass(frozen=True)
class Bench:
    """Where and how it is measured."""

    job: Job
    rounds: int
    small: bool
    deface: Path | None
    many: int  # pictures of part memory

    def run(self, job: Job) -> Found:
        """What a job counted in a process of its own."""
        return self._run([job])[0]

    def run_apart(self, job: Job) -> Found:
        """What a job counted in as many processes as it has threads, of one thread each."""
        shards = min(job.threads, job.images)
        shutil.rmtree(job.root / f"{job.kind}-{job.looks}", ignore_errors=True)
        parts = self._run(
            [replace(job, shard=shard, shards=shards, threads=1) for shard in range(shards)]
        )
        seconds, cpu = max(part["seconds"] for part in parts), sum(part["cpu"] for part in parts)
        return {"seconds": seconds, "cpu": cpu}  # they begin together

    def _run(self, jobs: Sequence[Job]) -> list[Found]:
        job = jobs[0]
        print(f"  {job.kind}, {job.images} images, looks {job.looks}", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(len(jobs)) as starters:
            done = list(starters.map(_start, jobs))
        for process in done:
            if process.returncode:
                print(process.stderr, file=sys.stderr)
                raise SystemExit(f"{job.kind} failed; its output is above")
        found: list[Found] = [json.loads(process.stdout) for process in done]
        print(f"    {found}", file=sys.stderr, flush=True)  # a run that is cut short has told it
        return found


def _start(job: Job) -> subprocess.CompletedProcess[str]:
    program = str(Path(__file__).with_name("anonymize_jobs.py"))
    return subprocess.run(
        [sys.executable, program, json.dumps({**asdict(job), "root": str(job.root)})],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(job.threads)},
    )


def loop(bench: Bench) -> Iterator[Row]:
    """Our loop at batch 8 against the bare pipeline, picture by picture, with equal settings."""
    job = replace(bench.job, root=bench.job.root / "loop")
    job.root.mkdir()
    bench.run(replace(job, kind="prepare_loop"))
    bare, ours, blind = [], [], []
    for _ in range(bench.rounds):
        bare.append(bench.run(replace(job, kind="bare_pipeline")))
        ours.append(bench.run(replace(job, kind="our_loop")))
        blind.append(bench.run(replace(job, kind="our_loop", looks="off")))
    yield Row("bare pipeline", _told(bare, job.images))
    yield Row(f"our loop, batch {job.batch}", _told(ours, job.images))
    yield Row("the same without the detectors' looks", _told(blind, job.images))
    counts = ours[0]["counts"]
    yield Row(
        "published and held back by our loop",
        f"{counts['safe'] + counts['anonymized']} and {counts['needs_review'] + counts['failed']}",
    )
    what = "images per second of our loop against the bare pipeline"
    yield at_least(what, _ratios(bare, ours), LEAST_OF_BARE)
    yield Row(f"{what}, by CPU seconds", told_ratio(_ratios(bare, ours, "cpu")))
    yield Row(f"{what}, without the looks", told_ratio(_ratios(bare, blind)))
    yield Row(f"{what}, without the looks, by CPU seconds", told_ratio(_ratios(bare, blind, "cpu")))


def redact(bench: Bench) -> Iterator[Row]:
    """Faces blurred by our parts and by the deface command, on the same photographs: ours in as
    many processes of one thread as there are threads, deface in one, with threads of its own."""
    if bench.deface is None:
        yield Row("redact against deface", "not measured: give --deface SCRATCH/bin/deface")
        return
    side, images = 320 if bench.small else 1024, bench.job.images
    job = replace(bench.job, root=bench.job.root / "redact", side=side)
    job.root.mkdir()
    bench.run(replace(job, kind="prepare_photos"))
    photos = sorted((job.root / "photos").iterdir())
    theirs = _deface_faces(bench.deface, photos)
    found = bench.run(replace(job, kind="find_faces"))["faces"]
    shared = sum(
        len(match_boxes(a, [Box(*box) for box in b], 0.5))
        for a, b in zip(theirs, found, strict=True)
    )
    yield Row(
        f"faces found in {images} photographs of {side} x {side * 3 // 4}, by us and by deface",
        f"{sum(map(len, found))} and {sum(map(len, theirs))}, {shared} by both",
    )
    ours: dict[str, list[Found]] = {looks: [] for looks in _LOOKS}
    defaced: list[Found] = []
    for _ in range(bench.rounds):
        defaced.append(_deface(bench.deface, photos, job))
        for looks, taken in ours.items():
            taken.append(bench.run_apart(replace(job, kind="redact_faces", looks=looks)))
    yield Row("deface, each picture (its start taken off)", _told(defaced, images))
    for looks, taken in ours.items():
        yield Row(f"ours, {_LOOKS[looks]}", _told(taken, images))
    for looks, taken in ours.items():
        what, ratios = f"{_LOOKS[looks]}, against deface", _ratios(defaced, taken)
        judged = looks == "edited"
        yield at_least(what, ratios, LEAST_OF_DEFACE) if judged else Row(what, told_ratio(ratios))
        yield Row(f"{what}, by CPU seconds", told_ratio(_ratios(defaced, taken, "cpu")))


def memory(bench: Bench) -> Iterator[Row]:
    """Peak memory at few and at many pictures, and of one very large one."""
    few, many = (20, 60) if bench.small else (100, bench.many)
    looks = "off" if bench.small else "first"
    job = replace(bench.job, root=bench.job.root / "memory", kind="memory", looks=looks)
    job.root.mkdir()
    peaks = [bench.run(replace(job, images=images))["peak_mb"] for images in (few, many)]
    ratio = peaks[1] / peaks[0]
    yield Row(
        f"peak memory at {many:,} pictures against {few}",
        f"{ratio:.3f} x ({peaks[1]:.0f} and {peaks[0]:.0f} MB)",
        f"at most {MOST_MEMORY:g}",
        ratio <= MOST_MEMORY,
    )
    yield from _large(bench, job)


def _large(bench: Bench, job: Job) -> Iterator[Row]:
    from unsafe2safe.core.config.schema import Anonymize

    regions = get_args(Anonymize.model_fields["region"].annotation)
    width = 1600 if bench.small else 12_000
    what = f"peak memory of one picture of {width:,} x {width * 3 // 4:,}, region=crops"
    if "crops" not in regions:
        yield Row(what, f"not measured: region is one of {', '.join(regions)}")
        return
    small = replace(job, kind="prepare_base", images=1)
    bench.run(small)
    usual = min(1600, width // 2)
    reference = bench.run(replace(small, kind="large", side=usual, looks="on"))
    found = bench.run(replace(small, kind="large", side=width, looks="on"))
    more = (found["peak_mb"] - reference["peak_mb"]) / found["picture_mb"]
    yield Row(
        what,
        f"{found['peak_mb']:.0f} MB: {more:.1f} times the decoded picture "
        f"({found['picture_mb']:.0f} MB) more than one of {usual:,} x {usual * 3 // 4:,} takes",
    )


def _deface(command: Path, photos: Sequence[Path], job: Job) -> Found:
    """The command over all photographs, less its start: the time that it takes for one of them
    more is all it takes for one."""
    one = _timed(command, photos[:1], job)
    everything = _timed(command, photos, job)
    print(f"    deface: {one} for one, {everything} for all", file=sys.stderr, flush=True)
    share = len(photos) / (len(photos) - 1)
    return {key: share * (everything[key] - one[key]) for key in one}


def _timed(command: Path, photos: Sequence[Path], job: Job) -> Found:
    folder = job.root / "defaced"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    copies = [str(shutil.copy(path, folder)) for path in photos]
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [str(command), *copies], capture_output=True, text=True, check=False, env=environment
    )
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    written = list(folder.glob("*_anonymized*"))
    if done.returncode or len(written) != len(photos):
        raise SystemExit(f"deface wrote {len(written)} of {len(photos)} files: {done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu": cpu}


def _deface_faces(command: Path, photos: Sequence[Path]) -> list[list[Box]]:
    """The faces of each photograph, by the backend that the command takes by itself."""
    python = str(command.with_name("python"))
    done = subprocess.run(
        [python, "-c", _DEFACE_FACES, "auto", *map(str, photos)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[list[list[float]]] = json.loads(done.stdout.splitlines()[-1])
    return [[Box(x, y, right - x, bottom - y) for x, y, right, bottom in faces] for faces in found]


def _told(found: Sequence[Found], images: int) -> str:
    seconds, cpu = (median(each[key] for each in found) / images for key in ("seconds", "cpu"))
    return f"{1000 * seconds:.0f} ms an image, {1000 * cpu:.0f} ms of CPU"


def _ratios(slow: Sequence[Found], fast: Sequence[Found], key: str = "seconds") -> list[float]:
    return [before[key] / after[key] for before, after in zip(slow, fast, strict=True)]


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "loop": loop,
    "redact": redact,
    "memory": memory,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--images", type=int, default=32, help="of parts loop and redact")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of part loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--deface", type=Path, help="the command, in an environment of its own")
    parser.add_argument("--many", type=int, default=5000, help="pictures of part memory")
    parser.add_argument("--small", action="store_true", help="toy sizes, to see that it works")
    given = parser.parse_args()
    if min(given.images, given.steps, given.rounds, given.threads, given.many) < 1:
        parser.error("--images, --steps, --rounds, --threads and --many are at least 1")
    warn_unless_below(QUIET, "before it begins")
    wait_briefly()  # as the scripts do
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            "", Path(folder), 4 if given.small else given.images,
            steps=2 if given.small else given.steps, threads=given.threads,
            size="SMALL" if given.small else "TRUE_PROPORTIONS",
        )  # fmt: skip
        bench = Bench(job, given.rounds, given.small, given.deface, given.many)
        rows = [row for part in given.parts or PARTS for row in PARTS[part](bench)]
    met = tell(rows, judged=not given.small)
    warn_unless_below(max(given.threads, 2) + QUIET, "at the end")
    return 0 if met or given.small else 1


if __name__ == "__main__":
    sys.exit(main())
