"""Whether a rebuild is the version: identical bytes, equivalent answers, or different, and from which stage on.

*Identical*: the adapter's folder has the recorded digest, and so has every other output that the commit's dvc.lock
records (``artifacts/training`` and ``artifacts/cost`` apart, which hold times). *Equivalent*: bytes differ, as they do
on another processor, but the adapter answers the test rows alike: either the same answer on every row, or, by the
task's headline metric on the same rows, no significant difference (two-sided paired test at ``alpha``) and an interval
of the difference at 1 - 2 alpha that lies within a margin on both sides, which is two one-sided tests at ``alpha`` each
(Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987). Too few rows to show that is *different*: no
evidence of a difference is no evidence of its absence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import yaml

from graft.errors import DataError
from graft.evaluation.intervals import Drawn, Resampling, binary_scores, rounded

if TYPE_CHECKING:
    import numpy as np

    from graft.tasks import Metric

VERDICT = Literal["identical", "equivalent", "different"]
ALPHA = 0.05
MARGIN = 0.01
"""The largest difference that counts as none, as a share of the recorded value of the metric."""
TIMED = ("artifacts/training", "artifacts/cost")
"""Outputs that hold times: they differ each time, and no stage reads them."""
# Which stage decides a part of the identity; what is not named here is decided by train.
DECIDED = (("validate", ("data", "task", "clean", "columns")), ("tokenize", ("test", "max_length_tokens")))


@dataclass(frozen=True)
class Output:
    """One output of a stage, by DVC's digest; None: that side has no such output."""

    stage: str
    path: str
    recorded: str | None
    rebuilt: str | None

    @property
    def same(self) -> bool:
        return self.recorded == self.rebuilt

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Margin:
    """What counts as the same predictions."""

    alpha: float = ALPHA
    margin: float | None = None
    """In the metric's unit; None: ``MARGIN`` of the recorded value."""


@dataclass(frozen=True)
class Equivalence:
    """What the two prediction tables say. Differences are rebuilt minus recorded, positive where it is better."""

    equivalent: bool
    how: Literal["same answers", "two one-sided tests"]
    metric: str
    rows: int
    recorded: float
    rebuilt: float
    difference: float
    low: float
    high: float
    confidence: float
    """Of the interval: 1 - 2 alpha."""
    margin: float
    p: float
    """Two-sided: the chance of such a difference, or a larger one, if there is none."""
    alpha: float
    test: str
    same_scores: float | None
    """The share of rows whose score did not change, where the metric is one of rows."""
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return the fields with numbers rounded to 6 digits."""
        return {name: rounded(value) if isinstance(value, float) else value for name, value in asdict(self).items()}


def outputs(recorded: str, rebuilt: str) -> list[Output]:
    """Return the outputs of two dvc.lock files, in the order of the stages; those with times are left out."""
    before, after = _outs(recorded), _outs(rebuilt)
    places = dict.fromkeys([*after, *before])
    return [
        Output(stage, path, before.get((stage, path)), after.get((stage, path)))
        for stage, path in places
        if path not in TIMED
    ]


def _outs(text: str) -> dict[tuple[str, str], str]:
    try:
        stages = yaml.safe_load(text)["stages"]
        return {
            (name, out["path"]): out.get("md5", "") for name, stage in stages.items() for out in stage.get("outs", ())
        }
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        return {}


def first_difference(
    found: Sequence[Output], old: Mapping[str, Any] | None, new: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the first stage whose output differs, its outputs that do, and the differing fields of the identities.

    Without recorded outputs the identities alone decide which stage it was.
    """
    fields = _fields(old, new)
    wrong = [one for one in found if not one.same]
    if wrong:
        stage: str | None = wrong[0].stage
    else:
        stage = _deciding(fields) if old is not None and new is not None else None
    note = "" if old is not None and new is not None else "the version or the rebuild has no readable identity"
    return {
        "stage": stage,
        "outputs": [one.as_json() for one in wrong if one.stage == stage],
        "fields": fields,
        **({"note": note} if note else {}),
    }


def _fields(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, list[Any]]:
    if old is None or new is None:
        return {}
    return {key: [old.get(key), new.get(key)] for key in sorted({*old, *new}) if old.get(key) != new.get(key)}


def _deciding(fields: Mapping[str, Any]) -> str:
    for stage, names in DECIDED:
        if any(name in fields for name in names):
            return stage
    return "train"


def equivalence(
    metric: Metric,
    rebuilt: Mapping[str, np.ndarray],
    recorded: Mapping[str, np.ndarray],
    *,
    margin: Margin,
    resampling: Resampling,
) -> Equivalence:
    """Compare two prediction tables of the same test rows.

    Raises:
        DataError: they do not hold the same rows, or lack what the metric reads.
    """
    from graft.evaluation.comparison import aligned, compare

    alpha = margin.alpha
    try:
        recorded = aligned(rebuilt, recorded)
        how = Drawn(confidence=1 - 2 * alpha, resamples=resampling.resamples, seed=resampling.seed)
        found = compare(metric, rebuilt, recorded, how)
    except KeyError as error:
        raise DataError(f"prediction tables: column {error} is missing; the metric cannot be computed") from None
    allowed = MARGIN * abs(found.reference) if margin.margin is None else margin.margin
    p = min(1.0, 2 * min(found.p_better, found.p_worse))
    same = _same_scores(metric, rebuilt, recorded)
    if same == 1.0 and _same_answers(rebuilt, recorded):
        equal, how_known = True, "same answers"
        reason = f"the same answer on each of {found.rows} test rows"
    else:
        within, how_known = -allowed < found.low and found.high < allowed, "two one-sided tests"
        equal = within and p > alpha
        reason = (
            f"{found.metric} {found.candidate:.4f} against {found.reference:.4f} recorded, on {found.rows} test rows: "
            f"{found.difference:+.4f}, {100 * how.confidence:.3g} % interval {found.low:+.4f} to {found.high:+.4f}, "
            f"{'within' if within else 'not within'} the margin of {allowed:.4g}; "
            f"{'a' if p <= alpha else 'no'} significant difference (p = {p:.2g}, {found.test})"
        )
    return Equivalence(
        equivalent=equal,
        how=how_known,  # type: ignore[arg-type]
        metric=found.metric,
        rows=found.rows,
        recorded=found.reference,
        rebuilt=found.candidate,
        difference=found.difference,
        low=found.low,
        high=found.high,
        confidence=how.confidence,
        margin=allowed,
        p=p,
        alpha=alpha,
        test=found.test,
        same_scores=same,
        reason=reason,
    )


def _same_scores(metric: Metric, rebuilt: Mapping[str, np.ndarray], recorded: Mapping[str, np.ndarray]) -> float | None:
    ours, theirs = binary_scores(metric, rebuilt), binary_scores(metric, recorded)
    return float((ours == theirs).mean()) if ours is not None and theirs is not None else None


def _same_answers(rebuilt: Mapping[str, np.ndarray], recorded: Mapping[str, np.ndarray]) -> bool:
    """Return whether every column that is no floating point number is the same; those are scores, not answers."""
    if rebuilt.keys() != recorded.keys():
        return False
    return all(rebuilt[name].dtype.kind == "f" or rebuilt[name].tolist() == recorded[name].tolist() for name in rebuilt)
