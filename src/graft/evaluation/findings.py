"""What a reader should take from the numbers: is the adapter worth it, where it errs most surely, what limits it.

Every sentence is computed from the tables, so a report never praises what its own intervals do not show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from graft.evaluation.overview import label
from graft.pictures import thumbnail
from graft.privacy.section import PrivacyConfig

if TYPE_CHECKING:
    import numpy as np

    from graft.evaluation.comparison import Comparison
    from graft.tasks import Metric

SHOWN_ERRORS = 20
SHOWN_CHARACTERS = 400
EVERYTHING = PrivacyConfig()
NOTHING = "(none)"
"""An answer without any content: no label, no span."""


@dataclass(frozen=True)
class Worth:
    """Whether the adapter is worth it, in a title and a sentence."""

    mood: Literal["yes", "no", "unclear"]
    title: str
    text: str


@dataclass(frozen=True)
class Mistake:
    """A test row that the adapter has wrong."""

    place: str
    text: str
    expected: str
    got: str
    score: str
    picture: str = ""
    """Where the row has a picture: a small copy of it, as a data URI."""


@dataclass(frozen=True)
class Mistakes:
    """The worst rows, and how many there are."""

    title: str
    shown: Sequence[Mistake]
    total: int


@dataclass(frozen=True)
class Confusion:
    """Counts of actual against predicted labels: int64 [C, C] over ``labels``."""

    labels: Sequence[str]
    counts: np.ndarray


def worth(comparisons: Mapping[str, Comparison]) -> Worth:
    """Judge the adapter against the strongest other system, by the interval of their difference."""
    system, hardest = min(comparisons.items(), key=lambda item: item[1].difference)
    facts = (
        f"Its {hardest.metric} is {hardest.candidate:.3f} against {hardest.reference:.3f} of the best other system "
        f"here ({label(system)}): {hardest.difference:+.3f}, {percent(hardest.confidence)} interval "
        f"{hardest.low:+.3f} to {hardest.high:+.3f}, on {hardest.rows} test rows."
    )
    if hardest.low > 0:
        return Worth("yes", "The adapter is worth it.", facts)
    if hardest.high < 0:
        return Worth("no", f"The adapter is not worth it: {label(system)} does better.", facts)
    return Worth("unclear", "It is not shown that the adapter is worth it.", facts)


def mistakes(
    metric: Metric,
    table: Mapping[str, np.ndarray],
    expected: Sequence[str],
    answers: Sequence[Mapping[str, Any]],
    texts: Sequence[str],
    pictures: Sequence[bytes] = (),
    privacy: PrivacyConfig = EVERYTHING,
) -> Mistakes | None:
    """Return the worst rows, or None where the metric has no row scores.

    Where each row is right or wrong, those are the wrong ones with the highest scores; else the rows that the metric
    likes least.

    Args:
        metric: its row scores rank the rows.
        table: the adapter's predictions, N rows.
        expected: the right answer of each row, for people.
        answers: the task's answers, one per row: ``label``, and ``score`` (0-1) where the task has one.
        texts: the text of each row.
        pictures: the encoded picture of each row; empty where rows have none.
        privacy: what is private in texts and has a placeholder here.
    """
    import numpy as np

    if metric.per_row is None:
        return None
    order, right_or_wrong = worst_rows(metric, table, answers)
    surest = order[:SHOWN_ERRORS]
    if right_or_wrong:
        notes = {row: _confidence(answers[row]) for row in surest}
        title, total = f"The {len(surest)} most confident errors, of {len(order)}", len(order)
    else:
        scores = np.asarray(metric.per_row(table), dtype=np.float64)
        notes = {row: f"{metric.name} {scores[row]:.3f}" for row in surest}
        title, total = f"The {len(surest)} rows with the worst {metric.name}, of {len(scores)}", len(scores)
    shown = []
    for row in surest:
        text, right, answer = privacy.redacted([texts[row], expected[row], answers[row]])
        shown.append(
            Mistake(
                place=str(table["row"][row]),
                text=shortened(text),
                expected=shortened(right),
                got=said(answer),
                score=notes[row],
                picture=thumbnail(pictures[row]) if pictures else "",
            )
        )
    return Mistakes(title, shown, total)


def worst_rows(
    metric: Metric, table: Mapping[str, np.ndarray], answers: Sequence[Mapping[str, Any]]
) -> tuple[list[int], bool]:
    """Return row numbers, the worst first, and whether each row is right or wrong: then those are the wrong ones.

    Args:
        metric: has row scores, which rank the rows.
        table: the adapter's predictions, N rows.
        answers: the task's answers, one per row, whose ``score`` ranks wrong rows.
    """
    import numpy as np

    assert metric.per_row is not None
    scores = np.asarray(metric.per_row(table), dtype=np.float64)
    if metric.greater_is_better and bool(np.isin(scores, (0.0, 1.0)).all()):
        wrong = np.flatnonzero(scores < 1).tolist()
        return sorted(wrong, key=lambda row: (-float(answers[row].get("score") or 0), row)), True
    order = np.argsort(-scores if metric.greater_is_better else scores, kind="stable")[::-1]
    return [int(row) for row in order if np.isfinite(scores[row])], False


def _confidence(answer: Mapping[str, Any]) -> str:
    score = answer.get("score")
    return f"{score:.2f}" if isinstance(score, float) else ""


def said(answer: Mapping[str, Any]) -> str:
    """Return an answer for people: its label, its text or its tags where it has them, else all of it."""
    if "tags" in answer:
        return shortened(" ".join(answer["tags"])) or NOTHING
    said = next((answer[name] for name in ("label", "labels", "text") if name in answer), dict(answer))
    return shortened(", ".join(map(str, said)) if isinstance(said, list | tuple) else str(said)) or NOTHING


def percent(share: float) -> str:
    """Return ``95 %`` for 0.95, with a space that does not break."""
    return f"{100 * share:.3g}\N{NO-BREAK SPACE}%"


def shortened(text: str, characters: int = SHOWN_CHARACTERS) -> str:
    """Return at most ``characters`` of ``text``, cut at a space where there is one near the end."""
    if len(text) <= characters:
        return text
    head = text[: characters - 1]
    cut = head.rfind(" ", characters * 3 // 4)
    return (head[:cut] if cut > 0 else head).rstrip() + "…"


def limits(
    metrics: Mapping[str, Any],
    manifest: Mapping[str, Any],
    confusion: Confusion | None,
    *,
    pictures: bool = False,
) -> Iterator[str]:
    """Yield the limits of an adapter, from its metrics.json, its token manifest and its errors."""
    headline, test = metrics["headline"], manifest["splits"]["test"]
    cell = metrics["adapter"][headline]
    if cell["low"] is not None:
        yield (
            f"Measured on {test['rows']} test rows: the true {headline} on rows like these may be anywhere from "
            f"{cell['low']:.3f} to {cell['high']:.3f}."
        )
    if "test_sets" not in metrics.get("probes", {}):
        other = "pictures of other kinds were" if pictures else "text of other kinds was"
        yield f"The test rows come from the same source as the training rows; {other} not measured."
    if not pictures and test["truncated"]:
        yield (
            f"It reads at most {manifest['max_length_tokens']} tokens; {test['truncated']} of {test['rows']} test rows "
            "were longer and were cut."
        )
    for has, rows in manifest.get("leaked", {}).items():
        verb = "has" if rows == 1 else "have"
        yield f"{rows} of {test['rows']} test rows {verb} {has}: the figures flatter it."
    if test.get("also_in_train"):
        same = "picture" if pictures else "tokens"
        yield f"{test['also_in_train']} test rows have the same {same} as a training row: the figures flatter it."
    if confusion is not None:
        yield from _weakest(confusion)


def _weakest(confusion: Confusion) -> Iterator[str]:
    actual = confusion.counts.sum(axis=1)
    recalls = [
        (int(confusion.counts[place, place]) / int(actual[place]), name, int(actual[place]))
        for place, name in enumerate(confusion.labels)
        if actual[place]
    ]
    if len(recalls) > 1:
        recall, name, rows = min(recalls)
        yield f"Weakest label: `{name}`, of whose {rows} cases it finds {percent(recall)}."
    unseen = [f"`{name}`" for place, name in enumerate(confusion.labels) if not actual[place]]
    if unseen:
        yield f"Not measured, since no test row has them: {', '.join(unseen)}."
