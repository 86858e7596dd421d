"""What training costs beyond its model, and what a cache of latents and texts gains.

python benchmarks/training.py             # all of it, on a machine with nothing else to do
python benchmarks/training.py steps       # against a plain loop and the barest one, and the cache
python benchmarks/training.py processes   # two processes against one
python benchmarks/training.py formats     # number and memory formats on this machine
python benchmarks/training.py --small --steps 2 --rounds 1    # that it works, judging nothing

Every figure is a ratio of one run on one machine. The loops do equal work: the same base, batch
and number of steps, in fp32. They take turns, each in a process of its own, for some rounds; a
figure is the median over the rounds of the ratio within a round, the extremes behind it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from small_ip2p import SMALL, TRUE_PROPORTIONS
from table import QUIET, Row, at_least, tell, told_ratio, warn_unless_below
from training_process import Job, free_port, measure, start_server

LEAST_CACHED_GAIN = {"full": 1.5, "lora": 2.0}
LEAST_OF_BARE = 0.97
MOST_WAITING = 0.02
MOST_GRADIENT_DIFFERENCE = 1e-4  # of the largest gradient: sums in another order, no more
TRAINED = ("full", "lora")
Found = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Where and how it is measured."""

    context: multiprocessing.context.ForkServerContext
    job: Job
    rounds: int

    def run(self, *jobs: Job) -> list[Found]:
        """Those jobs, side by side."""
        first = jobs[0]
        beside = f", {len(jobs)} processes" if jobs[1:] else ""
        print(f"  {first.kind} {first.trainable}{beside}", file=sys.stderr, flush=True)
        return measure(self.context, jobs)


def steps(bench: Bench) -> Iterator[Row]:
    """The cached trainer against both loops, and what its cache costs."""
    plain, built = [], []
    cached: dict[str, list[Found]] = {kind: [] for kind in TRAINED}
    bare: dict[str, list[Found]] = {kind: [] for kind in TRAINED}
    for number in range(bench.rounds):
        job = replace(bench.job, cache=f"cache-{number}")
        plain += bench.run(replace(job, kind="plain_loop"))
        built += bench.run(replace(job, kind="build_cache"))
        for kind in TRAINED:
            cached[kind] += bench.run(replace(job, kind="trainer_loop", trainable=kind))
            bare[kind] += bench.run(replace(job, kind="bare_loop", trainable=kind))
    yield Row("plain loop, all of the UNet", _told_step(plain))
    for kind in TRAINED:
        yield Row(f"cached, {kind}", _told_step(cached[kind]))
        yield Row(f"barest loop, {kind}", _told_step(bare[kind]))
    for kind in TRAINED:
        yield at_least(
            f"steps per second of cached, {kind}, against the plain loop",
            _ratios(plain, cached[kind]),
            LEAST_CACHED_GAIN[kind],
        )
    for kind in TRAINED:
        yield at_least(
            f"steps per second of cached, {kind}, against the barest loop",
            _ratios(bare[kind], cached[kind]),
            LEAST_OF_BARE,
        )
    for kind in TRAINED:
        share = median(sum(found["waits"]) / sum(found["steps"]) for found in cached[kind])
        yield Row(
            f"waiting for data, cached, {kind}",
            f"{100 * share:.2f} % of a step",
            f"under {100 * MOST_WAITING:g} %",
            share < MOST_WAITING,
        )
    for kind in TRAINED:
        share = _peak(cached[kind]) / _peak(plain)
        yield Row(
            f"peak memory of cached, {kind}, against the plain loop",
            f"{share:.2f} x",
            "under 1",
            share < 1,
        )
    yield from _cost_of_cache(bench, plain, built, cached)


def _cost_of_cache(
    bench: Bench, plain: list[Found], built: list[Found], cached: dict[str, list[Found]]
) -> Iterator[Row]:
    job = bench.job
    building = 2 * job.pairs / median(found["seconds"] for found in built)
    in_training = 2 * job.batch / median(median(found["encoding"]) for found in plain)
    yield Row(
        "images per second, building the cache against encoding inside training",
        f"{building / in_training:.2f} x ({building:.0f} against {in_training:.0f})",
    )
    epoch = job.pairs / job.batch
    seconds = median(found["seconds"] for found in built)
    yield Row(
        "cost of the cache", f"{seconds / (epoch * _step(plain)):.2f} epochs of the plain loop"
    )
    for kind in TRAINED:
        saved = epoch * (_step(plain) - _step(cached[kind]))
        told = f"{seconds / saved:.2f} epochs" if saved > 0 else "never"
        yield Row(f"cached, {kind}, has paid for its cache after", told)
    yield Row(
        "peak memory while the cache is built, against the plain loop",
        f"{_peak(built) / _peak(plain):.2f} x",
    )
    once = replace(job, kind="trainer_loop", cache="cache-0", steps=1, warmup=0)
    for kind in TRAINED:
        (checked,) = bench.run(replace(once, trainable=kind, gradient_check=True))
        yield Row(
            f"peak memory of cached, {kind}, with trainer.gradient_check, against the plain loop",
            f"{checked['peak_mb'] / _peak(plain):.2f} x",
        )


def processes(bench: Bench) -> Iterator[Row]:
    """Two processes on this machine, one thread each, against one process with one thread."""
    job = replace(bench.job, kind="trainer_loop", threads=1, cache="cache-processes")
    for kind in TRAINED:
        single = replace(job, trainable=kind)
        short = replace(single, batch=2 * job.batch, steps=1, warmup=0, gradients="doubled")
        bench.run(short)  # makes the cache, too
        one: list[Found] = []
        both: list[Found] = []
        for _ in range(bench.rounds):
            one += bench.run(single)
            two = replace(single, world=2, port=free_port(), gradients="averaged")
            both.append(bench.run(two, replace(two, rank=1))[0])
        compared = replace(single, kind="compare_gradients", gradients="averaged,doubled")
        (found,) = bench.run(compared)
        share = found["difference"] / found["largest"]
        yield Row(
            f"averaged gradient, {kind}, against one process with the doubled batch",
            f"max difference {found['difference']:.1e}, {share:.1e} of the largest gradient",
            f"at most {MOST_GRADIENT_DIFFERENCE:g}",
            share <= MOST_GRADIENT_DIFFERENCE,
        )
        scaling = [2 * ratio for ratio in _ratios(one, both)]
        yield Row(
            f"samples per second, {kind}, two processes against one, one thread each",
            told_ratio(scaling),
        )


def formats(bench: Bench) -> Iterator[Row]:
    """The barest loop in other formats: what to choose on this machine. A few steps will do, since
    bf16 takes twenty times as long where the processor does not compute in it."""
    few = max(2, bench.job.steps // 5)
    job = replace(bench.job, kind="bare_loop", cache="cache-formats", steps=few, warmup=1)
    for kind in TRAINED:
        found: dict[tuple[bool, bool], list[Found]] = {}
        for _ in range(bench.rounds):
            for bf16 in (False, True):
                for last in (False, True):
                    chosen = replace(job, trainable=kind, channels_last=last, bf16=bf16)
                    found.setdefault((bf16, last), []).extend(bench.run(chosen))
        usual = found.pop((False, False))
        for (bf16, last), measured in found.items():
            name = f"{'bf16' if bf16 else 'fp32'}, {'channels last' if last else 'contiguous'}"
            yield Row(
                f"steps per second, {kind}, {name}, against fp32, contiguous",
                told_ratio(_ratios(usual, measured)),
            )


def _step(found: Sequence[Found]) -> float:
    """Seconds a step: the median over the rounds of their medians."""
    return median(median(each["steps"]) for each in found)


def _ratios(slow: Sequence[Found], fast: Sequence[Found]) -> list[float]:
    """In each round, how many steps of ``fast`` go into one of ``slow``."""
    return [
        median(before["steps"]) / median(after["steps"])
        for before, after in zip(slow, fast, strict=True)
    ]


def _peak(found: Sequence[Found]) -> float:
    return max(each["peak_mb"] for each in found)


def _told_step(found: Sequence[Found]) -> str:
    return f"{1000 * _step(found):.0f} ms a step, peak {_peak(found):.0f} MB"


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "steps": steps,
    "processes": processes,
    "formats": formats,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--steps", type=int, default=15, help="measured steps of a loop and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--small", action="store_true", help="a toy base, to see that it works")
    given = parser.parse_args()
    if min(given.steps, given.rounds, given.pairs, given.threads) < 1:
        parser.error("--steps, --rounds, --pairs and --threads are at least 1")
    warn_unless_below(QUIET, "before it begins")
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            "prepare", Path(folder), SMALL if given.small else TRUE_PROPORTIONS,
            pairs=4 if given.small else given.pairs, batch=2 if given.small else 8,
            steps=given.steps, warmup=1 if given.small else 3, threads=given.threads,
        )  # fmt: skip
        bench = Bench(start_server(Path(__file__).resolve().parent), job, given.rounds)
        bench.run(job)
        rows = [row for part in given.parts or PARTS for row in PARTS[part](bench)]
    met = tell(rows, judged=not given.small)
    warn_unless_below(max(given.threads, 2) + QUIET, "at the end")
    return 0 if met or given.small else 1


if __name__ == "__main__":
    sys.exit(main())
