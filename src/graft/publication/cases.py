"""What a decision is made on: the tests between candidate and champion, then what people say to it.

A reviewer's tag, an approval by name and a rollback that still stands overrule the test.
"""

from __future__ import annotations

import contextlib
import getpass
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graft.errors import DataError, IntegrityError, PromotionConflict, ResourceMissing
from graft.identity import digest_folder
from graft.promotion import PromotionConfig
from graft.publication import measuring
from graft.tracking import TrackingConfig
from graft.workspace import Workspace, read_json

if TYPE_CHECKING:
    from graft.evaluation import EvaluationConfig
    from graft.evaluation.probes import Subject
    from graft.promotion.spending import Grant
    from graft.promotion.verdict import Verdict
    from graft.tracking.journal import Entry
    from graft.tracking.ledger import Ledger
    from graft.tracking.registry import Version
    from graft.tracking.server import Connection

EVIDENCE = (
    *("rows", "candidate", "champion", "difference", "low", "high", "p", "rows_needed", "detectable"),
    *("level", "spent", "left", "decision_number", "repeats", "seed_error"),
)
_NO_METRIC_NAME = re.compile(r"[^\w. -]")
"""What MLflow does not take in the name of a metric; ``/`` it takes in some places only."""
_METRIC_NAME_CHARACTERS = 200
"""MLflow takes 250."""


@dataclass(frozen=True)
class Decision:
    """What was decided about ``champion`` of a registered model."""

    name: str
    verdict: str
    """``promote``, ``reject``, ``undecided``, ``approved`` (by people, over the test), ``rejected`` (by people),
    ``expired`` (by nobody in time), ``waiting`` (for people; nothing is decided yet), ``champion already``,
    ``rollback``, ``adopt``, ``restore``."""
    candidate: str
    """The version it is about."""
    before: str | None
    after: str | None
    reason: str
    who: str = ""
    against: str = ""
    evidence: Mapping[str, float] = field(default_factory=dict)
    test: str = ""
    """The digest of the test rows that were looked at; empty where none were."""
    notes: tuple[str, ...] = ()
    journal: str = ""
    """The id of the journal's run; empty where nothing was decided."""
    number: int = 0
    """Its number in the journal."""

    @property
    def moved(self) -> bool:
        """Whether the alias moved."""
        return self.before != self.after

    @property
    def refused(self) -> bool:
        """Whether the candidate is not champion after it: exit code 3 at the command line."""
        return self.after != self.candidate

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Case:
    """What a decision is made on."""

    connection: Connection
    workspace: Workspace
    tracking: TrackingConfig
    candidate: Version
    champion: Version | None
    history: list[Entry]
    """The entries that stand, the newest first."""
    who: str
    book: Ledger
    finished: tuple[Entry, ...] = ()
    """Those of them that a crash left and that were finished now."""

    @property
    def before(self) -> str | None:
        return self.champion.version if self.champion else None

    @property
    def previous(self) -> str:
        from graft.tracking.journal import FIRST

        return self.history[0].key if self.history else FIRST

    @property
    def number(self) -> int:
        """The number that a decision on this case has in the journal."""
        return 1 + (self.history[0].number if self.history else 0)

    @property
    def journaled(self) -> str | None:
        """The version that the journal says is champion."""
        return self.history[0].after if self.history else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Tell of an alias that was moved by hand."""
        if self.journaled == self.before:
            return ()
        return (
            f"champion was moved outside Graft: the journal says {_said(self.journaled)}, MLflow says "
            f"{_said(self.before)}",
        )


def case_of(
    connection: Connection, workspace: Workspace, tracking: TrackingConfig, candidate: Version, who: str
) -> Case:
    """Return the case of a candidate; a decision that a crash left unfinished is finished on the way.

    Raises:
        PromotionConflict: there is one, and the alias was moved by hand meanwhile.
    """
    from graft.publication.carrying import settle
    from graft.tracking import journal, registry

    book = journal.open_ledger(connection, tracking, workspace, candidate.name)
    history, finished = settle(book)
    champion = registry.champion(connection, candidate.name)
    who = who or getpass.getuser()
    return Case(connection, workspace, tracking, candidate, champion, history, who, book, tuple(finished))


def tested(case: Case, rows: measuring.Rows, evaluation: EvaluationConfig, promotion: PromotionConfig) -> Decision:
    """Return what the tests say, before people have their say.

    A champion that cannot be scored is no verdict on the candidate: undecided, and nothing of the test set's error
    budget is spent.

    Raises:
        ConfigError: a metric or gate that asks for what is not there.
    """
    against = f"champion version {case.before}" if case.champion else "the base"
    try:
        measuring.refuse_unasked(rows, promotion)
        with _reference(case, rows, evaluation, against) as reference:
            if why := _luck_alone(case, reference, against):
                return _decided(case, "undecided", why, against)
            return _tested(case, rows, evaluation, promotion, reference)
    except (DataError, IntegrityError, ResourceMissing) as error:
        if case.champion is None:
            raise
        why = f"version {case.candidate.version} cannot be held against {against}: {error}"
        return _decided(case, "undecided", why, against)


def _luck_alone(case: Case, reference: measuring.Reference, against: str) -> str:
    """Return why there is nothing to test: the candidate is the champion's recipe with another seed. Else nothing.

    No such recipe is better than itself, so a test could be wrong alone, and would spend the test set on it. Several
    seeds of one recipe (``training.repeats``) are another matter: their mean is tested.
    """
    from graft.artifact import same_recipe

    identity = read_json(case.workspace.adapter / "identity.json")
    if not same_recipe(identity, reference.identity) or measuring.candidate_tables(case.workspace)[1]:
        return ""
    return (
        f"it is made as {against} was, from the same data, but with seed {identity['seed']} instead of "
        f"{reference.identity['seed']}: what differs is luck, so nothing was tested; change something else, or let "
        "people decide (`graft promote --approve --reason ...`)"
    )


def _tested(
    case: Case,
    rows: measuring.Rows,
    evaluation: EvaluationConfig,
    promotion: PromotionConfig,
    reference: measuring.Reference,
) -> Decision:
    """Return the verdict as a decision, at the level that the test set's error budget grants."""
    from graft.promotion.spending import grant
    from graft.promotion.verdict import verdict

    candidate, repeats = measuring.candidate_tables(case.workspace)
    opponents = measuring.opponents(case.workspace, rows.task, reference, case.champion is None, promotion)
    metrics = measuring.metrics_of(rows.task, promotion)
    gates = measuring.gates(rows, promotion, reference, candidate)

    def at(granted: Grant) -> Verdict:
        return verdict(
            candidate,
            opponents,
            metrics,
            policy=promotion,
            granted=granted,
            how=evaluation,
            gates=gates,
            repeats=repeats,
        )

    found = _asked_before(case, rows.digest, promotion, at)
    if found is None:
        found = at(grant(measuring.looks(case.history, rows.digest), promotion.alpha, promotion.decisions_per_test_set))
    reason = f"{found.reason}{_never_given(reference)}"
    return replace(_decided(case, found.decision, reason, found.against, evidence_of(found)), test=rows.digest)


def _never_given(reference: measuring.Reference) -> str:
    """Say which labels a champion does not know: that it is wrong on them is a fact of it, and part of the verdict."""
    names = ", ".join(map(repr, reference.unknown))
    return f" {reference.name} was not trained on {names}: rows that have one count as wrong for it." if names else ""


def _asked_before(
    case: Case, digest: str, promotion: PromotionConfig, at: Callable[[Grant], Verdict]
) -> Verdict | None:
    """Return the verdict at the level it was given when the same was asked before; None where it was not."""
    from graft.promotion.spending import grant

    before = measuring.on_test(case.history, digest)
    for number, entry in enumerate(before):
        if (entry.adapter, entry.before) != (case.candidate.adapter, case.before):
            continue
        looked = measuring.looks(case.history, digest)[:number]
        granted = grant(looked, promotion.alpha, promotion.decisions_per_test_set)
        found = at(replace(granted, level=entry.evidence["level"]))
        if measuring.question(evidence_of(found)) == measuring.question(entry.evidence):
            return found
    return None


@contextlib.contextmanager
def _reference(
    case: Case, rows: measuring.Rows, evaluation: EvaluationConfig, name: str
) -> Iterator[measuring.Reference]:
    """Yield what the candidate is held against: the champion, loaded once it is asked, or the base."""
    from graft.evaluation import cost, score_adapter

    champion = case.champion
    if champion is None:
        yield measuring.BaseOnDisk(case.workspace.evaluation)
        return
    with tempfile.TemporaryDirectory(prefix="graft-champion-") as temporary:
        folder = fetch(case.connection, champion, Path(temporary))

        def scored() -> Subject:
            return score_adapter(
                folder,
                case.workspace,
                data=rows.data,
                batch_rows=evaluation.batch_rows,
                device=evaluation.device,
                trust_remote_code=rows.trust_remote_code,
                name=f"champion (version {champion.version})",
            )

        identity = read_json(folder / "identity.json")
        yield measuring.Champion(scored, name, identity, rows, evaluation, cost.facts(folder))


@dataclass(frozen=True)
class Answer:
    """What a person said to a decision; or that nobody did in time."""

    says: Literal["approve", "reject", "expire"]
    reason: str
    number: int | None = None
    """The number in the journal that the decision was to have when the person saw it; None: as things stand now."""


def overruled(case: Case, decision: Decision, answer: Answer | None) -> Decision:
    """Return the decision after people: a reviewer's tag, an answer by name, a rollback that still stands.

    Raises:
        PromotionConflict: something was decided since the person saw what they answered to.
    """
    if answer and answer.number not in (None, case.number):
        raise PromotionConflict(
            f"{case.candidate.name}: decision {answer.number} was asked about, and {case.number - 1} are journaled by "
            "now; decide again on what is champion now"
        )
    verdict, why = _last_word(case, decision, answer)
    if verdict == decision.verdict and why == decision.reason:
        return decision
    return replace(_decided(case, verdict, why, decision.against, decision.evidence), test=decision.test)


def _last_word(case: Case, decision: Decision, answer: Answer | None) -> tuple[str, str]:
    """Return verdict and reason."""
    name, number, last = case.candidate.name, case.candidate.version, case.history[0] if case.history else None
    promotes = decision.verdict == "promote"
    again = "to promote it again: `graft promote --approve --reason ...`"
    if case.candidate.review == "rejected":
        return "rejected", f"a reviewer set review = rejected on version {number}; {decision.reason}"
    if answer and answer.says == "reject":
        return "rejected", f"rejected by {case.who}: {answer.reason} ({decision.reason})"
    if answer and answer.says == "expire":
        return "expired", f"{answer.reason} ({decision.reason})"
    if answer:
        why = f"approved by {case.who}: {answer.reason} ({decision.reason})"
        return "promote" if promotes else "approved", why
    if case.candidate.review == "approved" and decision.verdict in ("undecided", "promote"):
        why = f"a reviewer set review = approved on version {number}; {decision.reason}"
        return "promote" if promotes else "approved", why
    if case.candidate.review == "approved":
        no = f"a reviewer set review = approved on version {number}, which overrules no rejection by the tests"
        return decision.verdict, f"{decision.reason} ({no}; `graft promote --approve --reason ...` does)"
    if promotes and last and last.kind == "rollback" and last.before == number:
        return "undecided", f"{last.who} rolled {name} back from version {number} ({last.why}); {again}"
    if promotes and number == case.journaled != case.before:
        return "undecided", f"{case.notes[0]}; {again}"
    return decision.verdict, decision.reason


def waits(case: Case, decision: Decision, answer: Answer | None, promotion: PromotionConfig) -> bool:
    """Return whether a promotion needs a person's approval and has none."""
    asked = answer is not None or case.candidate.review == "approved"
    return promotion.approval == "required" and decision.moved and not asked


def waiting(decision: Decision, case: Case) -> Decision:
    """Return a decision that waits for a person; it is not journaled before it is taken."""
    how = (
        "promotion.approval is required: answer the form in the Prefect UI, run `graft promote --approve --reason "
        "...`, or set review = approved on the version in MLflow and run `graft promote`"
    )
    why = f"waits for an approval; the tests say: {decision.reason}"
    return replace(
        decision,
        verdict="waiting",
        after=decision.before,
        reason=why,
        notes=(*decision.notes, how),
        number=case.number,
    )


def _decided(
    case: Case, verdict: str, reason: str, against: str, evidence: Mapping[str, float] | None = None
) -> Decision:
    number = case.candidate.version
    after = number if verdict in ("promote", "approved") else case.before
    return Decision(
        *(case.candidate.name, verdict, number, case.before, after, reason, case.who, against),
        evidence=evidence or {},
        notes=case.notes,
    )


def fetch(connection: Connection, version: Version, to: Path) -> Path:
    """Download a version's adapter to ``to`` and check that it is the one that was published; return its folder.

    Raises:
        IntegrityError: its bytes differ from the digest in the version's tag, the version is not Graft's, or it has no
            valid signature though ``tracking.signing.public_keys`` names keys.
    """
    from graft.artifact import verified
    from graft.tracking import provenances
    from graft.tracking.models import download, location

    if version.adapter is None:
        raise IntegrityError(f"{version.uri}: has no tag graft.adapter: Graft did not publish it")
    folder = download(connection, location(connection, version), "artifacts/adapter", to)
    found = digest_folder(folder)
    if found != version.adapter:
        raise IntegrityError(
            f"{version.uri}: its adapter has digest {found[:12]} and was published as {version.adapter[:12]}: the "
            f"artifact store was changed; `graft reproduce {version.uri}` makes it again, to hold against that"
        )
    verified(folder)
    provenances.check(connection, version, folder)
    return folder


def evidence_of(verdict: Verdict) -> dict[str, float]:
    """Return the numbers of a verdict that the journal keeps; of each gate its p value."""
    found = {name: getattr(verdict, name) for name in EVIDENCE}
    found |= {f"p {gate.name}": gate.p for gate in verdict.gates}
    if verdict.gates:
        found |= {"gates": len(verdict.gates), "gates_held": sum(gate.state == "held" for gate in verdict.gates)}
    names = _metric_names(found)
    return {
        names[name]: float(f"{value:.8g}")
        for name, value in found.items()
        if value is not None and math.isfinite(value)
    }


def _metric_names(names: Iterable[str]) -> dict[str, str]:
    """Return each name as MLflow takes it; two that would be one there are numbered."""
    found: dict[str, str] = {}
    for name in names:
        plain = _NO_METRIC_NAME.sub("_", name)[:_METRIC_NAME_CHARACTERS]
        tries = (plain, *(f"{plain} {number}" for number in range(2, len(found) + 2)))
        found[name] = next(one for one in tries if one not in found.values())
    return found


def _said(version: str | None) -> str:
    return f"version {version}" if version else "none"
