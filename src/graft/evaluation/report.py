"""The evaluation report (one HTML file for the MLflow UI, phone and paper) and the model card (Markdown).

Both are filled from the same findings and hold no time, host or path of a machine, so they are stage outputs like any
other: equal inputs, equal bytes. Styles and pictures are embedded and nothing is fetched: MLflow shows an artifact in
a frame without a network, and a report that was mailed still opens in ten years.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft import tasks
from graft.errors import InputError
from graft.evaluation.findings import Confusion, Mistakes, Worth, percent
from graft.evaluation.overview import NOT_DEFINED, Row, label, summary

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from graft.evaluation.comparison import Comparison
    from graft.evaluation.probes import Finding

TEMPLATES = Path(__file__).parent / "templates"
Details = Mapping[str, Sequence[Mapping[str, Any]]]
_TAG, _ENTITY = re.compile(r"<(?=[A-Za-z/!?])"), re.compile(r"&(?=#?\w+;)")
"""What begins a tag or a character by name in Markdown; ``p < 0.01`` and ``R&D`` do not."""
SHADES = ((255, 255, 255), (15, 118, 110))


@dataclass(frozen=True)
class Drawing:
    """A picture of a task's plot data, for the report."""

    title: str
    alternative: str
    """What it shows, for who cannot see it."""
    file: Path

    @property
    def image(self) -> str:
        """The file's content in base64."""
        return base64.b64encode(self.file.read_bytes()).decode("ascii")


@dataclass(frozen=True)
class Findings:
    """All that the report and the card say."""

    metrics: Mapping[str, Any]
    """The content of metrics.json."""
    comparisons: Mapping[str, Comparison]
    """The adapter against each other system, by the headline metric."""
    worth: Worth
    details: Details
    """The task's own tables by title."""
    background: Details
    """Tables on how it was measured and on what, by title."""
    limits: Sequence[str]
    identity: Mapping[str, Any]
    """The adapter's identity.json."""
    adapter_digest: str
    confusion: Confusion | None = None
    mistakes: Mistakes | None = None
    drawings: Sequence[Drawing] = ()
    sections: Sequence[Finding] = ()
    """Slices, groups, probes, calibration: in the order of the report."""


def html(findings: Findings) -> str:
    """Return the report. It has a place for a promotion's verdict, and one for what was timed (:func:`filled`)."""
    identity = findings.identity
    return (
        _environment(html=True)
        .get_template("report.html.j2")
        .render(
            _shared(findings),
            css=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
            title=f"Evaluation: {_words(identity['task']['name'])}",
            chart=_chart(findings.metrics),
            comparisons=[_comparison(name, one) for name, one in findings.comparisons.items()],
            matrix=_matrix(findings.confusion) if findings.confusion else None,
            errors=findings.mistakes,
            pictures=findings.drawings,
            sections=[_section(one) for one in findings.sections],
            limits=findings.limits,
            background=_tables(findings.background),
            cost=_cost(findings.metrics),
            lineage={
                "method": identity["adapter"]["method"],
                "base": identity["base"]["source"],
                "facts": [*_facts(identity), *_lineage(identity, findings.adapter_digest)],
            },
        )
    )


PLACES = ("verdict", "cost")
"""What a finished report can be given: comments in it mark where."""


def with_verdict(report: Path | str, facts: Mapping[str, Any]) -> str:
    """Return a report with a promotion's verdict at its top, in place of an earlier one.

    Args:
        report: a folder with ``report.html``, or its text.
        facts: ``decision`` (promote, reject, undecided), ``reason``; if they are there: ``gates`` (lines with equal
            keys), and ``facts`` (name -> value: which version, who, when, what is left of the test set's error budget).

    Raises:
        InputError: it is no report with such a place.
    """
    decision = str(facts["decision"])
    title, mood = DECISIONS.get(decision, (_words(decision).capitalize(), "unclear"))
    gates = [{name: one for name, one in gate.items() if not isinstance(one, dict | list)} for gate in _given(facts)]
    text = (
        _environment(html=True)
        .get_template("verdict.html.j2")
        .render(
            mood=mood,
            title=title,
            reason=facts.get("reason", ""),
            tables=_tables({"Gates": gates}),
            facts=[(_words(name), _shown(value)) for name, value in facts.get("facts", {}).items()],
        )
    )
    return filled(report, "verdict", text)


DECISIONS = {
    "promote": ("Verdict: promote.", "yes"),
    "reject": ("Verdict: reject.", "no"),
    "undecided": ("Verdict: undecided.", "unclear"),
    "approved": ("Promoted: approved by a person.", "yes"),
    "rejected": ("Kept back: rejected by a person.", "no"),
    "expired": ("Kept back: nobody answered in time.", "unclear"),
    "rollback": ("Champion again, by a rollback.", "yes"),
    "adopt": ("Champion: set by hand, and journaled.", "yes"),
    "restore": ("Champion again, as the journal says.", "yes"),
}
"""Title and mood of a verdict."""


def with_cost(report: Path | str, lines: Sequence[tuple[str, str]]) -> str:
    """Return a report with what was timed: names and values (``cost.lines``).

    Raises:
        InputError: it is no report with such a place.
    """
    text = _environment(html=True).get_template("cost.html.j2").render(lines=lines)
    return filled(report, "cost", text)


def filled(report: Path | str, place: str, content: str) -> str:
    """Return a report (a folder with one, or its text) with ``content`` (HTML) in one of its ``PLACES``.

    Raises:
        InputError: it is no report with such a place.
    """
    text = (report / "report.html").read_text(encoding="utf-8") if isinstance(report, Path) else report
    begin, end = f"<!-- {place} -->", f"<!-- end of {place} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        where = report if isinstance(report, Path) else "the report"
        raise InputError(f"{where}: has no place for a {place}; run `graft stage evaluate`, which makes it anew")
    return f"{before}{begin}\n{content.strip()}\n{end}{after}"


def _given(facts: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return facts.get("gates") or ()


def model_card(findings: Findings) -> str:
    """Return the model card."""
    identity = findings.identity
    return (
        _environment(html=False)
        .get_template("model_card.md.j2")
        .render(
            _shared(findings),
            base=identity["base"],
            method=identity["adapter"]["method"],
            task=identity["task"]["name"],
            labels=identity["task"]["state"].get("labels"),
            clean=identity["clean"],
            pictures=_reads_pictures(identity),
            facts=_facts(identity),
            lineage=_lineage(identity, findings.adapter_digest),
            limits=findings.limits,
        )
    )


def _environment(*, html: bool) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda value: _ticked_plainly(str(value).replace("|", "\\|"))
    environment.filters["marked"] = _marked
    environment.filters["ticked"] = _ticked_plainly
    environment.filters["code"] = lambda value: _ticked_plainly(f"`{value}`")
    return environment


def _plain(value: Any) -> str:
    """Return a text as Markdown that is read as no HTML: labels and names of files come from the data."""
    return _TAG.sub("&lt;", _ENTITY.sub("&amp;", str(value)))


def _ticked_plainly(sentence: str) -> str:
    """Return a sentence as Markdown: what stands in backticks is code, the rest no HTML."""
    sentence = " ".join(sentence.split())
    pieces = _ticked(sentence)
    if len(pieces) == 1 or "``" in sentence:  # an end of code is not where it seems
        return _plain(sentence).replace("`", "&#96;")
    return "".join(f"`{one}`" if place % 2 else _plain(one) for place, one in pieces)


def _marked(sentence: str) -> Markup:
    """Return a sentence as HTML; what stands in backticks, as in the model card, is code."""
    from markupsafe import Markup, escape

    pieces = [Markup("<code>{}</code>").format(one) if place % 2 else escape(one) for place, one in _ticked(sentence)]
    return Markup("").join(pieces)


def _ticked(sentence: str) -> list[tuple[int, str]]:
    return list(enumerate(sentence.split("`"))) if sentence.count("`") % 2 == 0 else [(0, sentence)]


def _shared(findings: Findings) -> dict[str, Any]:
    """Return what both templates read."""
    metrics, rows = findings.metrics, summary(findings.metrics)
    chart = _chart(metrics)
    return {
        "rows": metrics["test"]["rows"],
        "headline": metrics["headline"],
        "metric_names": list(rows[0].metrics),
        "smaller": set(metrics["smaller_is_better"]),
        "confidence": percent(metrics["confidence"]),
        "systems": [_system(row, metrics["headline"], chart) for row in rows],
        "worth": findings.worth,
        "test_note": _test_note(findings.comparisons),
        "details": _tables(findings.details),
        "untrained": bool(findings.identity["adapter"]["new_modules"]),
    }


def _system(row: Row, headline: str, chart: Mapping[str, float] | None) -> dict[str, Any]:
    cells = [
        {
            "value": NOT_DEFINED if value is None else f"{value:.3f}",
            "range": "" if low is None else f"{low:.3f} to {high:.3f}",
        }
        for value, low, high in row.metrics.values()
    ]
    return {"name": row.system, "label": row.label, "cells": cells, "bar": _bar(row.metrics[headline], chart)}


def _chart(metrics: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the axis of the headline chart: 0 to 1 where it holds all, else the range of all intervals."""
    cells = [row.metrics[metrics["headline"]] for row in summary(metrics)]
    ends = [end for cell in cells for end in cell if end is not None]
    if not ends:
        return None
    low, high = min(0.0, *ends), max(1.0, *ends)
    return {"low": low, "high": high}


def _bar(cell: Sequence[float | None], chart: Mapping[str, float] | None) -> dict[str, float] | None:
    """Return a value and its interval as percentages of the chart's width."""
    value, low, high = cell
    if chart is None or value is None or low is None or high is None:
        return None
    at, left, right = (100 * (end - chart["low"]) / (chart["high"] - chart["low"]) for end in (value, low, high))
    return {"at": round(at, 2), "left": round(left, 2), "width": round(right - left, 2)}


def _comparison(system: str, one: Comparison) -> dict[str, str]:
    counted = one.only_candidate is not None
    return {
        "label": label(system),
        "difference": f"{one.difference:+.3f}",
        "range": f"{one.low:+.3f} to {one.high:+.3f}",
        "p": "< 0.0001" if one.p_better < 0.0001 else f"{one.p_better:.4f}",
        "rows": f"adapter {one.only_candidate}, other {one.only_reference}" if counted else "–",
    }


def _test_note(comparisons: Mapping[str, Comparison]) -> str:
    tests = {one.test for one in comparisons.values()}
    if tests == {"mcnemar"}:
        return "Differences are tested on the same rows: McNemar's exact test, Newcombe's interval."
    if tests == {"sign flips"}:
        return "Differences are tested on the same rows: their signs exchanged at random, bootstrap interval."
    return "Differences are tested on the same rows: paired bootstrap."


def _section(one: Finding) -> dict[str, Any]:
    return {
        "title": one.title,
        "text": one.text,
        "tables": _tables(one.tables),
        "drawings": one.drawings,
        "passages": one.passages,
    }


def _tables(tables: Details) -> list[tuple[str, dict[str, Any]]]:
    return [(title, _table(lines)) for title, lines in tables.items() if lines]


def _cost(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the adapter takes that no clock measures, for people."""
    found = metrics.get("cost", {})
    return [(_words(name), f"{value:,}") for name, value in found.items()]


def _table(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = list(lines[0])
    columns = [
        {"name": _words(name), "number": all(isinstance(line[name], int | float) for line in lines)} for name in names
    ]
    return {"columns": columns, "lines": [[_shown(line[name]) for name in names] for line in lines]}


def _matrix(confusion: Confusion) -> dict[str, Any]:
    lines = []
    for name, counts in zip(confusion.labels, confusion.counts.tolist(), strict=True):
        shares = [count / max(1, sum(counts)) for count in counts]
        lines.append(
            {
                "label": name,
                "cells": [
                    {"count": count, "colour": _colour(share), "dark": share > 0.5}
                    for count, share in zip(counts, shares, strict=True)
                ],
            }
        )
    return {"labels": confusion.labels, "lines": lines}


def _colour(share: float) -> str:
    return "#" + "".join(f"{round(low + (high - low) * share):02x}" for low, high in zip(*SHADES, strict=True))


def _facts(identity: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the adapter is, for people."""
    config = identity["adapter"]["config"]
    known = ("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "modules_to_save")
    given = [(name, config[name]) for name in known if config.get(name) not in (None, [], "")]
    return [
        ("base", identity["base"]["source"]),
        (
            "method",
            ", ".join(
                [identity["adapter"]["method"], *(f"{name} {_shown(value, digits='g')}" for name, value in given)]
            ),
        ),
        ("new modules, trained in full", ", ".join(identity["adapter"]["new_modules"]) or "none"),
        *_reading(identity),
    ]


def _reading(identity: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how the adapter reads a row, for people."""
    if _reads_pictures(identity):
        return [("a picture", f"{identity['max_length_tokens']} patches, the class token counted")]
    return [
        ("longest input", f"{identity['max_length_tokens']} tokens"),
        ("cleaning", ", ".join(identity["clean"]) or "none: the text's bytes stay as they are"),
    ]


def _reads_pictures(identity: Mapping[str, Any]) -> bool:
    return tasks.get(identity["task"]["name"]).processor == "image"


def _lineage(identity: Mapping[str, Any], adapter_digest: str) -> list[tuple[str, str]]:
    """Return what the adapter was made from: digests and versions."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(identity["versions"].items()))
    return [
        ("adapter digest", adapter_digest),
        (
            "base revision",
            identity["base"]["revision"] if identity["base"]["kind"] == "hub" else "none (not a Hub model)",
        ),
        ("base digest", identity["base"]["digest"]),
        ("data digest", identity["data"]),
        ("test rows digest", identity["test"]),
        ("params digest", identity["params"]),
        ("training code digest", identity["code"]),
        ("lock file digest", identity["environment"] or "none (outside a checkout)"),
        ("seed", str(identity["seed"])),
        ("trained on", f"{identity['device']}, {identity['threads']} threads"),
        ("versions", versions),
        ("signature", "made, or not, when the version is published: `graft provenance models:/NAME/NUMBER`"),
    ]


def _shown(value: Any, *, digits: str = ".3f") -> str:
    if isinstance(value, float):
        return format(value, digits)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
