"""The verdict: does a candidate take the champion's place? Pure functions over prediction tables of one test split.

The deciding test asks whether the candidate is better (or, if that is the aim, not worse by a margin) than the champion
beyond what chance would show on these rows; where there is no champion, than the base and each cheap predictor. Then
every gate must hold. "No" has two meanings that a user acts on in two ways, so there are three verdicts: ``promote``,
``reject`` (shown to be worse, or no row's score changed, or a gate is shown to be broken) and ``undecided`` (too few
rows to tell, with the number that would). A promotion needs the level that the test set's error budget grants
(:mod:`graft.promotion.spending`); a rejection, which risks nothing of the kind, needs alpha.

Nothing here reads a registry or moves an alias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from graft.errors import DataError
from graft.evaluation.comparison import Comparison, compare, has, holm
from graft.evaluation.intervals import Drawn, rounded
from graft.evaluation.repeated import compare_repeats
from graft.promotion.gates import Counted, Gate, Measured, passes
from graft.promotion.power import detectable, rows_needed
from graft.promotion.spending import Grant

if TYPE_CHECKING:
    from graft.evaluation.comparison import Table
    from graft.evaluation.intervals import Resampling
    from graft.tasks import Metric

Says = Literal["promote", "reject", "undecided"]
SHOWN_HELD = 10
"""Gates that hold and are told; the journal cuts longer reasons."""


class Policy(Protocol):
    """What a verdict is asked for; the params section ``promotion`` is one."""

    @property
    def alpha(self) -> float:
        """The error budget of the test set."""

    @property
    def power(self) -> float:
        """The chance to decide with the rows that an undecided verdict names."""

    @property
    def margin(self) -> float:
        """What the candidate may be worse by; 0: it must be better."""


@dataclass(frozen=True)
class Terms:
    """A :class:`Policy` for callers without a params section."""

    alpha: float = 0.05
    power: float = 0.8
    margin: float = 0.0


@dataclass(frozen=True)
class Opponent:
    """What the candidate is compared with."""

    name: str
    """For people: ``champion version 3``, ``the base``."""
    table: Table
    trained: bool
    """Whether its training had a seed that might have been another: then its luck counts too, where the candidate's is
    known."""


@dataclass(frozen=True)
class Verdict:
    """What the tests say. Positive differences speak for the candidate, whichever way the metric points."""

    decision: Says
    reason: str
    """For people: the numbers and what follows."""
    against: str
    """What the candidate was compared with: of several, the one that is hardest to beat."""
    metric: str
    rows: int
    candidate: float
    champion: float
    difference: float
    low: float
    high: float
    confidence: float
    p: float
    """One-sided: the chance of such a difference if the candidate is not better (or worse by the margin)."""
    alpha: float
    """The error budget of the test set."""
    level: float
    """The part of it that this decision may use, at which everything is tested."""
    margin: float
    test: str
    rows_needed: int | None
    """Undecided: test rows with which a difference of this size would decide at ``power``; None: there is none, or rows
    alone cannot decide."""
    detectable: float | None
    """The smallest difference that these rows would have shown with chance ``power``."""
    power: float
    repeats: int
    seed_error: float
    decision_number: int
    spent: float
    """Of alpha, by the decisions before on this test set."""
    left: float
    """Of alpha, after this one."""
    fresh_data_due: bool
    against_all: Mapping[str, float]
    """The p value against each opponent."""
    gates: tuple[Gate, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the fields with numbers rounded to 6 digits."""
        found = {name: rounded(value) if isinstance(value, float) else value for name, value in asdict(self).items()}
        found["against_all"] = {name: rounded(p) for name, p in self.against_all.items()}
        return found | {"gates": [gate.as_json() for gate in self.gates]}


@dataclass(frozen=True)
class _Bout:
    """The candidate against one opponent by the metric that speaks best for it."""

    opponent: Opponent
    comparison: Comparison
    p: float
    """Adjusted for the number of metrics."""
    own: float
    """With repeats: the difference of the one adapter that is registered."""


def decide(
    candidate: Table,
    champion: Table,
    metric: Metric,
    *,
    alpha: float = 0.05,
    margin: float = 0.0,
    resampling: Resampling | None = None,
    against: str = "the champion",
) -> Verdict:
    """Return the verdict on ``candidate`` against one system by one metric, on a test set that is asked the first time.

    Raises:
        DataError: the two tables do not hold the same test rows.
    """
    return verdict(
        candidate,
        [Opponent(against, champion, trained=True)],
        [metric],
        policy=Terms(alpha, margin=margin),
        how=resampling or Drawn(),
    )


def verdict(
    candidate: Table,
    opponents: Sequence[Opponent],
    metrics: Sequence[Metric],
    *,
    policy: Policy,
    granted: Grant | None = None,
    how: Resampling | None = None,
    gates: Sequence[Measured | Counted] = (),
    repeats: Sequence[Table] = (),
) -> Verdict:
    """Return the verdict on a candidate.

    Args:
        candidate: prediction table of the adapter that would become champion, over the test rows.
        opponents: it must beat each of them (or be not worse by the margin); the same rows, in any order.
        metrics: decide; of several, one is enough, and their number is paid for (Holm).
        policy: alpha, power, margin.
        granted: what the test set's error budget leaves; default: all of alpha, for one decision alone.
        how: how intervals are made (the section ``evaluation``); default: 95 %, 2000 resamples, seed 0.
        gates: must all hold.
        repeats: tables of further trainings of the same recipe with other seeds. With any, what is tested is whether
            the recipe is better, on average over seeds and rows, and the registered adapter must not be the worse
            draw that hides behind a good average: its own difference must be on the right side.

    Raises:
        DataError: tables do not hold the same rows.
    """
    how, alone = how or Drawn(), granted is None
    granted = granted or Grant(policy.alpha, 1, policy.alpha, 0.0, 1)
    level = granted.level
    bouts = [_bout(candidate, repeats, opponent, metrics, policy, how, level) for opponent in opponents]
    tested = tuple(passes(gate, how, level=level, alpha=policy.alpha, power=policy.power) for gate in gates)
    hardest = max(bouts, key=lambda bout: (bout.p, -bout.comparison.difference))
    says = _says(bouts, tested, policy, level)
    c = hardest.comparison
    needed = _needed(bouts, tested, policy, level) if says == "undecided" else None
    smallest = detectable(c, level, policy.power)
    reason = _reason(hardest, tested, says, policy, level, needed, smallest)
    return Verdict(
        decision=says,
        reason=reason if alone else f"{reason} This was {granted.said}.",
        against=hardest.opponent.name,
        metric=c.metric,
        rows=c.rows,
        candidate=c.candidate,
        champion=c.reference,
        difference=c.difference,
        low=c.low,
        high=c.high,
        confidence=c.confidence,
        p=hardest.p,
        alpha=policy.alpha,
        level=level,
        margin=policy.margin,
        test=c.test,
        rows_needed=needed,
        detectable=smallest,
        power=policy.power,
        repeats=c.repeats,
        seed_error=c.seed_error,
        decision_number=granted.number,
        spent=granted.spent,
        left=granted.left,
        fresh_data_due=granted.due,
        against_all={bout.opponent.name: bout.p for bout in bouts},
        gates=tested,
    )


def _bout(
    candidate: Table,
    repeats: Sequence[Table],
    opponent: Opponent,
    metrics: Sequence[Metric],
    policy: Policy,
    how: Resampling,
    level: float,
) -> _Bout:
    """Compare with one opponent by every metric that it has."""
    found: list[tuple[Comparison, float]] = []
    finest = level / len(metrics)
    for metric in metrics:
        if not has(opponent.table, metric):
            continue
        sign = 1 if metric.greater_is_better else -1
        if repeats:
            tables = [candidate, *repeats]
            trained, margin = opponent.trained, policy.margin
            c = compare_repeats(metric, tables, opponent.table, how, trained=trained, margin=margin, level=finest)
        else:
            c = compare(metric, candidate, opponent.table, how, margin=policy.margin, level=finest)
        found.append((c, sign * (float(metric.function(candidate)) - c.reference)))
    if not found:
        raise DataError(f"{opponent.name}: its predictions have none of the metrics that decide")
    adjusted = holm([c.p_better for c, _ in found])
    best = min(range(len(found)), key=lambda place: (adjusted[place], -found[place][0].difference))
    return _Bout(opponent, found[best][0], adjusted[best], found[best][1])


def unchanged(comparison: Comparison) -> bool:
    """Return whether the two systems score alike on every row: nothing is gained, however many rows there are."""
    return comparison.difference == 0 and comparison.standard_error == 0


def _says(bouts: Sequence[_Bout], gates: Sequence[Gate], policy: Policy, level: float) -> Says:
    if all(_won(bout, policy, level) for bout in bouts) and all(gate.state == "held" for gate in gates):
        return "promote"
    lost = any(_lost(bout, policy) for bout in bouts)
    return "reject" if lost or any(gate.state == "broken" for gate in gates) else "undecided"


def _won(bout: _Bout, policy: Policy, level: float) -> bool:
    return bout.p <= level and bout.own > -policy.margin


def _lost(bout: _Bout, policy: Policy) -> bool:
    return bout.comparison.p_worse <= policy.alpha or (not policy.margin and unchanged(bout.comparison))


def _needed(bouts: Sequence[_Bout], gates: Sequence[Gate], policy: Policy, level: float) -> int | None:
    """Return the rows with which everything that is open would be decided; None where rows alone do not decide it."""
    found: list[int | None] = []
    for bout in bouts:
        c = bout.comparison
        at = level if c.difference + c.margin > 0 else policy.alpha
        if not _won(bout, policy, level):
            found.append(rows_needed(c, at, policy.power) if at > 0 else None)
    # A gate counts its own rows: those of a slice grow with the test set. What probes ask does not; their gate says it.
    whole = bouts[0].comparison.rows
    for gate in gates:
        if gate.state == "unclear" and gate.of_test:
            found.append(None if gate.rows_needed is None else -(-gate.rows_needed * whole // gate.rows))
    return None if None in found or not found else max(one for one in found if one is not None)


def _reason(
    bout: _Bout,
    gates: Sequence[Gate],
    says: Says,
    policy: Policy,
    level: float,
    needed: int | None,
    smallest: float | None,
) -> str:
    c = bout.comparison
    mean = f", mean of {c.repeats} seeds (own adapter {bout.own:+.4f})" if c.repeats > 1 else ""
    facts = (
        f"{c.metric} {c.candidate:.4f}{mean} against {c.reference:.4f} of {bout.opponent.name} on {c.rows} rows: "
        f"{c.difference:+.4f} ({100 * c.confidence:.3g} % interval {c.low:+.4f} to {c.high:+.4f}), one-sided p = "
        f"{bout.p:.2g}"
    )
    parts = [f"{facts}{_conclusion(bout, says, policy, level, needed, smallest)}"]
    open_ = [gate.said for state in ("broken", "unclear") for gate in gates if gate.state == state]
    held = [gate.said for gate in gates if gate.state == "held"]
    if open_:
        # Where gates alone hold the candidate back, they come first.
        parts.insert(0 if _won(bout, policy, level) else 1, f"Gates that do not hold: {'; '.join(open_)}.")
    if held:
        more = f"; and {len(held) - SHOWN_HELD} more" if len(held) > SHOWN_HELD else ""
        parts.append(f"{'Gates that hold' if open_ else 'Every gate holds'}: {'; '.join(held[:SHOWN_HELD])}{more}.")
    if gates and c.repeats > 1:
        parts.append("Gates are of the adapter of the first seed, which would be champion.")
    return " ".join(parts)


def _conclusion(
    bout: _Bout, says: Says, policy: Policy, level: float, needed: int | None, smallest: float | None
) -> str:
    """Return what follows from the numbers, from the sign between p and the level on."""
    c, won = bout.comparison, _won(bout, policy, level)
    worse_by = f"worse by {policy.margin:g} or more" if policy.margin else "worse"
    if says == "promote":
        aim = f"not worse by {policy.margin:g}" if policy.margin else "better"
        return f" ≤ {level:.3g}: the candidate is {aim}."
    if not policy.margin and unchanged(c):
        return ": both score alike on every row, so nothing is gained."
    if _lost(bout, policy):
        return f": the candidate is {worse_by} (p = {c.p_worse:.2g} for that)."
    if won:
        return f" ≤ {level:.3g}, but not every gate holds{_rows(needed)}."
    if bout.p <= level:
        return f" ≤ {level:.3g}, but the adapter of the first seed, which would be champion, is not; try another seed."
    if level == 0:
        return ": the error budget of this test set is used up, so it cannot promote any more; it needs fresh rows."
    if needed is None and c.repeats > 1 and c.difference + c.margin > 0:
        return f" > {level:.3g}: the seeds differ too much for rows alone to decide; raise training.repeats."
    seen = f"; they show a difference of {smallest:.2g} {100 * policy.power:.3g} times in 100" if smallest else ""
    more = f"about {needed} test rows would decide a difference of this size" if needed else "there is no difference"
    if not needed and c.difference + c.margin != 0:
        more = "no number of rows is known that would"
    return f" > {level:.3g}: these rows cannot tell the two apart; {more}{seen}."


def _rows(needed: int | None) -> str:
    return f"; about {needed} test rows would tell" if needed else ""
