"""Shares and histograms of two data sets over each other, as the shapes of small SVG pictures for the Data Docs.

The pages have no script and no file beside them, so a picture is markup in the page: what is now as filled bars, what
it is compared with as outlines, which a black and white print tells apart as well.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graft.errors import shown
from graft.privacy import find, masked
from graft.privacy.section import PrivacyConfig
from graft.validation.composition import Composition
from graft.validation.data_profile import said, value_of
from graft.validation.drift import Comparison
from graft.validation.label_errors import LabelErrors

WIDTH = 340
"""Of a picture, in units: it fits a phone's page, and is never shown larger."""
BAR, GAP, LINE = 7, 2, 38
"""Height of a bar, the space around it, and what a label takes in all."""
SHOWN_LABELS = 8
LABEL_CHARACTERS = 24
BINS = 18
PLOT_HEIGHT = 96
MOST_PICTURES = 8
_WHAT = {"label_shift": "labels", "length_drift": "lengths", "vocabulary_drift": "words of all texts"}


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float
    now: bool
    """Whether it is of the data at hand, not of what it is compared with."""


@dataclass(frozen=True)
class Text:
    """A line of text."""

    x: float
    y: float
    anchor: str
    words: str


@dataclass(frozen=True)
class Picture:
    """One plot."""

    title: str
    height: float
    boxes: Sequence[Box]
    texts: Sequence[Text]
    width: int = WIDTH


def drawn(found: Composition) -> dict[str, Any]:
    """Return what the page shows of a composition: its note, a table of comparisons, and pictures."""
    chosen = [one for one in found.comparisons if one.is_drift or (one.split == "train" and found.before)]
    pictures = [picture for one in chosen if (picture := _picture(one, found)) is not None]
    return {
        "note": found.note,
        "comparisons": [
            {
                "split": one.split,
                "what": f"{_WHAT[one.kind]}{f' ({one.field})' if one.field else ''}",
                "against": one.against,
                "measure": one.statistic,
                "value": one.value,
                "by_chance": one.by_chance,
                "limit": one.limit,
                "drift": one.is_drift,
            }
            for one in sorted(found.comparisons, key=lambda one: not one.is_drift)
        ],
        "pictures": pictures[:MOST_PICTURES],
    }


def _picture(one: Comparison, found: Composition) -> Picture | None:
    own = "champion" not in one.against
    now, before = found.now[one.split], found.now["train"] if own else found.before[one.split]
    title = f"{one.split}: {one.field}, {'share of rows' if one.kind == 'label_shift' else 'characters'}"
    if one.kind == "vocabulary_drift":
        return None
    if one.field in now.labels:
        return shares(title, now.labels[one.field], before.labels[one.field])
    if one.kind == "label_shift":
        return histogram(f"{one.split}: {one.field}", now.targets[one.field], before.targets[one.field], _linear)
    return histogram(title, now.characters[one.field], before.characters[one.field], _logarithmic)


def shares(title: str, now: Counter[str], before: Counter[str]) -> Picture:
    """Draw the share of each label, those that changed most first."""
    totals = max(now.total(), 1), max(before.total(), 1)
    pairs = {label: (now[label] / totals[0], before[label] / totals[1]) for label in {*now, *before}}
    chosen = sorted(pairs, key=lambda label: (-abs(pairs[label][0] - pairs[label][1]), label))[:SHOWN_LABELS]
    largest = max((max(pairs[label]) for label in chosen), default=0) or 1
    boxes, texts = list[Box](), list[Text]()
    for number, label in enumerate(chosen):
        top = number * LINE
        texts.append(Text(0, top + 12, "start", _short(label)))
        texts.append(Text(WIDTH, top + 12, "end", "{:.1%}, was {:.1%}".format(*pairs[label])))
        for row, share in enumerate(pairs[label]):
            y = top + 17 + row * (BAR + GAP)
            boxes.append(Box(0.5, y, round(share / largest * (WIDTH - 1), 1), BAR, row == 0))
    if len(pairs) > len(chosen):
        texts.append(Text(0, len(chosen) * LINE + 12, "start", f"and {len(pairs) - len(chosen)} more, changed less"))
    return Picture(title, len(chosen) * LINE + (18 if len(pairs) > len(chosen) else 0), boxes, texts)


def _short(label: str) -> str:
    text = masked(label, find(label))
    return text if len(text) <= LABEL_CHARACTERS else f"{text[: LABEL_CHARACTERS - 1]}…"


def histogram(title: str, now: Counter[int], before: Counter[int], scale: Callable[[int], float]) -> Picture:
    """Draw two histograms over each other; ``scale`` takes a step of a value to where it stands."""
    places = [scale(step) for step in (*now, *before)]
    low, high = min(places), max(places)
    wide = (high - low) / BINS or 1.0
    bins = [_binned(counts, lambda step: min(BINS - 1, int((scale(step) - low) / wide))) for counts in (now, before)]
    top = max(max(shares.values()) for shares in bins)
    each = WIDTH / BINS
    boxes = [
        Box(
            round(number * each + 1, 1),
            round(PLOT_HEIGHT * (1 - share / top), 1),
            round(each - 2, 1),
            round(PLOT_HEIGHT * share / top, 1),
            not side,
        )
        for side, shares in enumerate(bins)
        for number, share in sorted(shares.items())
    ]
    ends = {"start": min(now.keys() | before.keys(), key=scale), "end": max(now.keys() | before.keys(), key=scale)}
    texts = [
        Text(0 if anchor == "start" else WIDTH, PLOT_HEIGHT + 14, anchor, said(step, whole=scale is _logarithmic))
        for anchor, step in ends.items()
    ]
    texts.append(Text(WIDTH / 2, PLOT_HEIGHT + 14, "middle", f"highest bar {top:.0%} of the rows"))
    return Picture(title, PLOT_HEIGHT + 18, boxes, texts)


def _binned(counts: Counter[int], place: Callable[[int], int]) -> Mapping[int, float]:
    found = Counter[int]()
    for step, count in counts.items():
        found[place(step)] += count
    return {number: count / counts.total() for number, count in found.items()}


def _linear(step: int) -> float:
    return value_of(step)


def _logarithmic(step: int) -> float:
    return math.log(max(value_of(step), 0.7))


def listed(errors: LabelErrors, privacy: PrivacyConfig) -> dict[str, Any]:
    """Return what the page shows of likely label errors; what is private in a text is not."""
    thing = errors.what.split()[-1]
    return {
        "said": str(errors),
        "thing": thing,
        "measure": "nearness" if thing == "number" else "probability",
        "rows": [
            {
                "place": one.place,
                "word": one.word,
                "given": shown(one.given),
                "suggested": shown(one.suggested),
                "score": one.score,
                "text": _excerpt(one.text, privacy),
            }
            for one in errors.found[:LISTED_ERRORS]
        ],
        "total": errors.total,
    }


LISTED_ERRORS = 20
EXCERPT_CHARACTERS = 80


def _excerpt(text: str, privacy: PrivacyConfig) -> str:
    found = masked(text, privacy.find(text)).replace("\n", " ")
    return found if len(found) <= EXCERPT_CHARACTERS else f"{found[: EXCERPT_CHARACTERS - 1]}…"
