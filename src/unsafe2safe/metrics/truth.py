"""Edits of synthetic scenes against the truth: what was followed, what leaked, what was kept.

Attributes and letters are read by :class:`AttributeReader`, whose own accuracy bounds every figure:
score the targets themselves beside the edits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from unsafe2safe.core.errors import UsageError
from unsafe2safe.core.randomness import generator
from unsafe2safe.core.records import MetricResult
from unsafe2safe.data.synthetic import Redrawn, Scene, private_mask, render
from unsafe2safe.data.synthetic.attributes import LETTERS
from unsafe2safe.metrics.statistics import clustered_interval
from unsafe2safe.vision.attribute_reader import (
    PERSON_VALUES,
    AttributeReader,
    Reading,
    board_texts,
)

Pixels = NDArray[np.uint8]
Scores = dict[str, list[float]]  # of one scene, by the name of a figure

AVERAGED = ("hair_color", "hair_style", "skin", "clothing")
_BOOTSTRAP = 1000


def attribute_scores(redrawn: Redrawn, reading: Reading) -> Scores:
    """``followed/A``: is an attribute that was to change read at its new value; ``leaked/A``: at
    its old one; ``kept/A``: is one that was to stay read at its value. 1 or 0 per person.

    A hair style counts where it shows: in the target, and for a leak in both.
    """
    scores: Scores = {}
    sides = zip(redrawn.source.private.persons, redrawn.scene.private.persons, strict=True)
    for index, (old, new) in enumerate(sides):
        for name in PERSON_VALUES:
            styled = name == "hair_style"
            if styled and not new.style_shows:
                continue
            before, after = getattr(old, name), getattr(new, name)
            shown = old.style_shows or not styled
            read = reading.value(index, name)
            if before == after:
                if shown:
                    scores.setdefault(f"kept/{name}", []).append(float(read == after))
                continue
            scores.setdefault(f"followed/{name}", []).append(float(read == after))
            if shown:
                scores.setdefault(f"leaked/{name}", []).append(float(read == before))
    return scores


def letter_scores(redrawn: Redrawn, reading: Reading) -> Scores:
    """``leaked/letters``: is a letter of the source that was to go read at its place;
    ``followed/letters``: is what was to be there. Signs, plates and name tags, per letter."""
    scores: Scores = {}
    before, after = board_texts(redrawn.source), board_texts(redrawn.scene)
    for board, old in before.items():
        new, read = after[board], reading.text(board)
        if old == new:
            continue
        for place, letter in enumerate(read):
            wanted = new[place] if new else ""
            if old and old[place] != wanted:
                scores.setdefault("leaked/letters", []).append(float(letter == old[place]))
            scores.setdefault("followed/letters", []).append(float(letter == wanted))
    return scores


def all_scores(redrawn: Redrawn, reading: Reading) -> Scores:
    """Both of the above."""
    return attribute_scores(redrawn, reading) | letter_scores(redrawn, reading)


def outside_private(redrawn: Redrawn, side: int) -> NDArray[np.bool_]:
    """(side, side) bool: outside the private layers of source and target."""
    return ~(private_mask(redrawn.source, side) | private_mask(redrawn.scene, side))


def bystander_scores(redrawn: Redrawn, edited: Pixels) -> Scores:
    """``outside/psnr`` in dB and ``outside/ssim`` of an edit (R, R, 3) against its source, outside
    the private layers of source and target (Wang et al. 2004; window of 7, mean over pixels)."""
    side = edited.shape[0]
    outside = outside_private(redrawn, side)
    if not outside.any():
        return {}
    source = render(redrawn.source, side)
    error = np.square(source.astype(np.float64) - edited)[outside].mean()
    # Windows near a mask reach into it: what was to change there must not count as unlike.
    beside = np.where(outside[..., None], edited, source)
    _, similar = structural_similarity(source, beside, channel_axis=2, data_range=255, full=True)
    return {
        "outside/psnr": [float(10 * np.log10(255.0**2 / max(error, 1e-9)))],
        "outside/ssim": [float(similar[outside].mean())],
    }


def reidentified(source: Scene, gallery: Sequence[Scene], reading: Reading) -> float:
    """1 where the source's record is the likeliest of the gallery's, given what is read of its
    edit; equal likelihoods share the rank.

    A record with another number of persons is ruled out. ``source`` is one of ``gallery``.
    """
    likely = np.array([_likelihood(scene, reading) for scene in gallery])
    own = _likelihood(source, reading)
    return float(own >= likely.max() - 1e-9) / int((likely >= likely.max() - 1e-9).sum())


def _likelihood(scene: Scene, reading: Reading) -> float:
    persons = scene.private.persons
    if len(persons) != len(reading.persons):
        return -np.inf
    total = 0.0
    for person, read in zip(persons, reading.persons, strict=True):
        for name, values in PERSON_VALUES.items():
            if name != "hair_style" or person.style_shows:
                total += float(read[name][values.index(getattr(person, name))])
    return total


def score(
    pairs: Sequence[Redrawn], edited: Pixels, reader: AttributeReader, seed: int = 0
) -> dict[str, MetricResult]:
    """All figures of edits (N, R, R, 3) uint8 of the pairs' sources, by name.

    ``followed/mean`` and ``leaked/mean`` average hair colour, hair style, skin and clothing.
    Intervals are bootstrapped by scene.

    Raises:
        UsageError: there are not as many edits as pairs, or none.
    """
    if len(pairs) != len(edited) or not len(pairs):
        raise UsageError(f"{len(edited)} edits of {len(pairs)} scenes cannot be scored")
    readings = reader.read(edited, [pair.source for pair in pairs])
    clusters: dict[str, list[list[float]]] = {}
    for pair, reading, picture in zip(pairs, readings, edited, strict=True):
        found = all_scores(pair, reading) | bystander_scores(pair, picture)
        for group in ("followed", "leaked"):
            four = [found.get(f"{group}/{name}", []) for name in AVERAGED]
            found[f"{group}/mean"] = [value for values in four for value in values]
        for name, values in found.items():
            if values:
                clusters.setdefault(name, []).append(values)
    gallery = [pair.source for pair in pairs]
    hits = [reidentified(*one) for one in zip(gallery, repeat(gallery), readings, strict=False)]
    clusters["reidentified/rank1"] = [[hit] for hit in hits]
    return {name: _result(values, seed, name) for name, values in sorted(clusters.items())}


def _result(clusters: Sequence[Sequence[float]], seed: int, name: str) -> MetricResult:
    values = [value for cluster in clusters for value in cluster]
    interval = clustered_interval(clusters, _BOOTSTRAP, generator(seed, name, stream="bootstrap"))
    return MetricResult(value=float(np.mean(values)), n=len(values), interval=interval)


def chance(pairs: Sequence[Redrawn]) -> Mapping[str, float]:
    """What blind guessing would give for the leaks: one over the number of values an edit may
    take, for letters one in 20, for rank 1 one over the sources with as many persons."""
    counts = np.array([len(pair.source.private.persons) for pair in pairs])
    table = {f"leaked/{name}": 1 / len(values) for name, values in PERSON_VALUES.items()}
    table["leaked/letters"] = 1 / len(LETTERS)
    table["reidentified/rank1"] = float(np.mean([1 / (counts == count).sum() for count in counts]))
    return table


def as_table(rows: Mapping[str, Mapping[str, MetricResult]]) -> str:
    """Rows by name side by side as text, a line per figure with its interval."""
    figures = sorted({name for row in rows.values() for name in row})
    lines = ["".join([f"{'':22}", *(f"{name:>24}" for name in rows)])]
    for figure in figures:
        cells = [_cell(row.get(figure)) for row in rows.values()]
        lines.append("".join([f"{figure:22}", *(f"{cell:>24}" for cell in cells)]))
    return "\n".join(lines)


def _cell(result: MetricResult | None) -> str:
    if result is None or result.value is None:
        return "-"
    if result.interval is None:
        return f"{result.value:.3f}"
    return f"{result.value:.3f} [{result.interval[0]:.3f}, {result.interval[1]:.3f}]"
