"""The long runs behind the figures in the docs: ``make claims``.

    python benchmarks/claims.py                 # all of them, a process per core
    python benchmarks/claims.py base phrasings  # some; base comes first, others compare with it
    python benchmarks/claims.py tables          # write the docs' tables anew from docs/claims

Each claim trains and measures with the scripts as a user runs them (what is finished is not run
again), and writes ``docs/claims/NAME.json``: figures with intervals, the bars and whether they are
met, the commit, and a digest of the sources it rests on. A test compares that digest with the
sources, so that no figure in the docs is of other code than the one beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from statistics import mean
from typing import Any

from claims_tables import REPOSITORY, RESULTS, write_tables

RUNS = Path("outputs") / "claims"  # and in it a folder per digest: nothing stale is taken for done

SEEDS = (0, 1, 2)
VIEWS = ("full", "blur", "blank")
BRANCHES = ("none", "gated")
HELD_OUT = ("dataset.size=500", "dataset.seed=1")
AUTO = "editor.precision=auto"
FIGURES = (
    *("followed", "followed_hair_color", "followed_hair_style", "followed_skin"),
    *("followed_clothing", "followed_glasses", "leaked", "leaked_glasses", "leaked_letters"),
    *("followed_letters", "reidentified", "kept_equal", "outside_ssim", "outside_psnr"),
)
# Blind guessing, over the values that hair colour, hair style, skin and clothing may take.
CHANCE = {
    "phrasings": mean((1 / 6, 1 / 5, 1 / 5, 1 / 6)),
    "values": mean((1 / 8, 1 / 5, 1 / 5, 1 / 8)),
    "base": mean((1 / 6, 1 / 5, 1 / 5, 1 / 6)),
}
# What decides the figures: scenes, weights, settings, measures. That the code which runs them does
# what it did is for the other tests to say, the short forms of these claims among them.
_RESTS_ON = (
    "src/unsafe2safe/data/synthetic/*.py",
    "src/unsafe2safe/assets/tiny/**/*.json",
    "src/unsafe2safe/assets/tiny/**/*.safetensors",
    "src/unsafe2safe/assets/attribute_reader/model.safetensors",
    "src/unsafe2safe/editors/concealment.py",
    "src/unsafe2safe/metrics/truth.py",
    "src/unsafe2safe/vision/attribute_reader.py",
    "configs/editor/tiny.yaml",
)
_FINE_TUNED = (
    *_RESTS_ON,
    "src/unsafe2safe/training/variants.py",
    "src/unsafe2safe/training/variant_latents.py",
    "configs/experiment/tiny_finetune.yaml",
    "configs/task/synthetic_editing.yaml",
)

_RETRAINED = (
    *_RESTS_ON,
    "src/unsafe2safe/training/tiny_*.py",
    "src/unsafe2safe/training/variant*.py",
    "configs/experiment/tiny_autoencoder.yaml",
    "configs/experiment/tiny_base*.yaml",
    "configs/task/tiny_*.yaml",
)

Rows = Mapping[str, Mapping[str, Any]]  # figures by row of an evaluation
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Command:
    """A script with its overrides, and where it writes."""

    script: str
    output: Path
    overrides: tuple[str, ...]
    threads: int = 1

    def run(self) -> None:
        """Run it; what is complete already is left as it is."""
        line = [sys.executable, f"{self.script}.py", f"output_dir={self.output}", *self.overrides]
        waiting = "PASSIVE" if self.threads == 1 else "ACTIVE"  # ACTIVE where nothing else runs
        openmp = {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": waiting}
        environment = {**os.environ, **openmp}
        begin = time.monotonic()
        done = subprocess.run(
            line, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(line)}\nended with {done.returncode}:\n{done.stderr}")
        print(f"{time.monotonic() - begin:6.0f} s  {self.output}", flush=True)

    @property
    def minutes(self) -> float:
        """From its first step to its end, as its run says."""
        run = json.loads((REPOSITORY / self.output / "run.json").read_text("utf-8"))
        took = datetime.fromisoformat(run["finished"]) - datetime.fromisoformat(run["started"])
        return float(took.total_seconds() / 60)


@dataclass(frozen=True)
class Bar:
    """What was asked, what came out."""

    what: str
    value: float
    bound: float
    at_least: bool

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True)
class Claim:
    """Trainings first, then measurements; ``bars`` judges the rows of the measurements.

    A ``chain`` of trainings, each from the one before and on all cores, comes before everything;
    how long it took is the figure ``minutes`` of the row ``base``.
    """

    trainings: Callable[[], list[Command]]
    measurements: Callable[[], list[Command]]
    bars: Callable[[Mapping[str, Rows]], list[Bar]]
    sources: tuple[str, ...]
    chain: Callable[[], list[Command]] = list


def _train(name: str, *overrides: str) -> Command:
    folder = RUNS / digest(_FINE_TUNED) / "train" / name
    return Command("train", folder, ("experiment=tiny_finetune", *overrides))


def _measure(name: str, runs: Iterable[Command], *overrides: str) -> Command:
    named = ",".join(str(run.output) for run in runs)
    return Command(
        "evaluate",
        RUNS / digest(_FINE_TUNED if named else _RESTS_ON) / "evaluate" / name,
        ("suite=truth", f"runs=[{named}]", "editor.batch_size=16", *overrides),
    )


def _finetunings(world: str) -> list[Command]:
    seeds = SEEDS if world != "base" else SEEDS[:1]  # no bar asks for more there
    return [_train(f"{world}-{seed}", f"task.world={world}", f"seed={seed}") for seed in seeds]


def _views() -> list[Command]:
    return [
        _train(
            f"{view}-{branch}",
            "task.world=base",
            f"editor.source={view}",
            f"editor.caption_branch={branch}",
            "trainer.max_steps=400",  # six of them, compared with each other
        )
        for view in VIEWS
        for branch in BRANCHES
    ]


def _retrainings() -> list[Command]:
    folder = RUNS / digest(_RETRAINED) / "train"
    steps = {
        "autoencoder": ("experiment=tiny_autoencoder",),
        "words": ("experiment=tiny_base_words", f"task.autoencoder={folder / 'autoencoder'}"),
        "base": ("experiment=tiny_base", "seed=1", f"task.begin_from={folder / 'words'}"),
    }
    return [Command("train", folder / name, rest, CORES) for name, rest in steps.items()]


def _retrained() -> list[Command]:
    weights = _retrainings()[-1].output / "pipeline"
    name = f"{digest(_RETRAINED)}/retraining"
    return [_measure(name, [], f"editor.weights={weights}", *HELD_OUT)]


def _base_bars(measured: Mapping[str, Rows]) -> list[Bar]:
    rows = measured["base"]
    base = {name: figure["value"] for name, figure in rows["base"].items()}
    through = rows["reconstruction"]["leaked_letters"]["value"]
    return [
        Bar("instruction following, mean of four", base["followed"], 0.90, at_least=True),
        *(
            Bar(f"instruction following, {name}", base[f"followed_{name}"], 0.85, at_least=True)
            for name in ("hair_color", "hair_style", "skin", "clothing")
        ),
        Bar("instruction following, glasses", base["followed_glasses"], 0.70, at_least=True),
        Bar("leakage of changed attributes", base["leaked"], 0.05, at_least=False),
        Bar("source's letters read from the edit", base["leaked_letters"], 0.10, at_least=False),
        Bar("source's letters read from a mere reconstruction", through, 0.80, at_least=True),
        Bar("SSIM outside the private layers", base["outside_ssim"], 0.90, at_least=True),
    ]


def _finetune_bars(world: str, measured: Mapping[str, Rows]) -> list[Bar]:
    rows = measured[world]
    after, before = [rows[f"{world}-{seed}"] for seed in SEEDS], rows["base"]

    def mean_after(name: str) -> float:
        return mean(row[name]["value"] for row in after)

    reach = before["leaked"]["value"] - CHANCE[world]
    fall = before["leaked"]["value"] - mean_after("leaked")
    if reach > 0:
        bars = [Bar("leakage falls by, of its distance to chance", fall / reach, 2 / 3, True)]
    else:  # nothing to fall to
        bars = [Bar("leakage stays below chance", mean_after("leaked"), CHANCE[world], False)]
    if world == "phrasings":
        own = _shipped()["followed"]["value"]
        kept = before["outside_ssim"]["value"]
        bars.append(Bar("instruction following after", mean_after("followed"), own - 0.10, True))
        bars.append(Bar("SSIM outside after", mean_after("outside_ssim"), kept, True))
    return bars


def _shipped() -> Rows:
    result = json.loads((RESULTS / "base.json").read_text("utf-8"))
    figures: Rows = result["measured"]["base"]["base"]
    return figures


def _retraining_bars(measured: Mapping[str, Rows]) -> list[Bar]:
    again, shipped = measured["retraining"]["base"], _shipped()
    followed = ("hair_color", "hair_style", "skin", "clothing", "glasses")
    higher = ("followed", *(f"followed_{name}" for name in followed), "outside_ssim")
    bars = [Bar("minutes on two cores", again["minutes"]["value"], 90, at_least=False)]
    for name in (*higher, "leaked", "leaked_letters"):
        up = name in higher
        bound = shipped[name]["value"] + (-0.03 if up else 0.03)
        what = f"{name.replace('_', ' ')}, shipped {shipped[name]['value']:.3f}"
        bars.append(Bar(what, again[name]["value"], bound, up))
    return bars


def _finetuned(world: str) -> Claim:
    return Claim(
        lambda: _finetunings(world),
        lambda: [_measure(world, _finetunings(world), f"dataset.world={world}", *HELD_OUT, AUTO)],
        lambda measured: _finetune_bars(world, measured) if world != "base" else [],
        _FINE_TUNED,
    )


CLAIMS: Mapping[str, Claim] = {
    "base": Claim(
        list,
        lambda: [_measure("base", [], *HELD_OUT)],
        _base_bars,
        _RESTS_ON,
    ),
    "phrasings": _finetuned("phrasings"),
    "values": _finetuned("values"),
    "unshifted": _finetuned("base"),
    "sources": Claim(
        _views,
        lambda: [_measure("sources", _views(), *HELD_OUT, AUTO)],
        lambda _: [],
        _FINE_TUNED,
    ),
    "retraining": Claim(list, _retrained, _retraining_bars, _RETRAINED, _retrainings),
}


def digest(patterns: Iterable[str]) -> str:
    """A hash of the files that a claim rests on."""
    found = blake2b(digest_size=12)
    paths = {path for pattern in patterns for path in REPOSITORY.glob(pattern) if path.is_file()}
    for path in sorted(paths):
        found.update(path.relative_to(REPOSITORY).as_posix().encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def run(names: Sequence[str]) -> None:
    """Run the claims and write their results."""
    for name in names:
        for command in CLAIMS[name].chain():
            command.run()
    with ThreadPoolExecutor(CORES) as pool:
        for stage in ("trainings", "measurements"):
            commands = [command for n in names for command in getattr(CLAIMS[n], stage)()]
            list(pool.map(Command.run, dict.fromkeys(commands)))
    for name in names:
        _write(name, CLAIMS[name])
    write_tables()


def _write(name: str, claim: Claim) -> None:
    measured: dict[str, dict[str, dict[str, Any]]] = {}
    for command in claim.measurements():
        content = json.loads((REPOSITORY / command.output / "metrics.json").read_text("utf-8"))
        measured[command.output.name] = {
            row["name"]: {n: f for n, f in row["metrics"].items() if n in FIGURES}
            for row in content["rows"]
        }
        if chain := claim.chain():
            minutes = sum(one.minutes for one in chain)
            measured[command.output.name]["base"]["minutes"] = {"value": minutes, "interval": None}
    commit = ["git", "rev-parse", "HEAD"]
    bars = claim.bars(measured)
    result = {
        "claim": name,
        "commit": subprocess.check_output(commit, cwd=REPOSITORY, text=True).strip(),
        "sources": digest(claim.sources),
        "commands": [
            f"python {c.script}.py {' '.join(c.overrides)}"
            for c in (*claim.chain(), *claim.trainings(), *claim.measurements())
        ],
        "bars": [
            {"what": b.what, "value": b.value, "bound": b.bound, "met": b.met, "least": b.at_least}
            for b in bars
        ],
        "measured": measured,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, sort_keys=True) + "\n"
    (RESULTS / f"{name}.json").write_text(text, "utf-8")
    for bar in bars:
        sign = ">=" if bar.at_least else "<="
        print(
            f"{'met ' if bar.met else 'MISSED'} {bar.what}: {bar.value:.3f} {sign} {bar.bound:.3f}"
        )


if __name__ == "__main__":
    asked = sys.argv[1:] or list(CLAIMS)
    odd = set(asked) - {*CLAIMS, "tables"}
    if odd:
        raise SystemExit(f"{min(odd)}: no claim; known: {', '.join(CLAIMS)}, tables")
    if asked == ["tables"]:
        write_tables()
    else:
        run(asked)
