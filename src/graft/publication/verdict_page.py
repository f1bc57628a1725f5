"""The decision about a version at the top of its evaluation report in MLflow: what a reviewer opens says what followed.

The file of the stage stays as it is, since its bytes belong to a run of the chain; the copy in MLflow is given the
verdict, in place of an earlier one, and the journal's run gets the same page.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import InputError, ResourceMissing

if TYPE_CHECKING:
    from graft.tracking.journal import Entry
    from graft.tracking.ledger import Ledger
    from graft.tracking.registry import Version

PLACE = "evaluation"
FILE = "report.html"
OF_GATE = "p "
"""How the p value of a gate is called in the evidence: ``p <gate>``."""
TOLD = {"detectable": "difference these rows would show", "repeats": "seeds trained"}
"""What of the evidence stands beside the reason, which has the other numbers."""


def show(book: Ledger, entry: Entry, version: Version) -> None:
    """Put a decision on the report of the version that it is about; a version without one keeps none."""
    from graft.evaluation import report
    from graft.tracking.models import download_of_run

    if version.run_id is None:
        return
    with (
        tempfile.TemporaryDirectory(prefix="graft-verdict-") as temporary,
        contextlib.suppress(ResourceMissing, InputError),
    ):
        found = download_of_run(book.connection, version.run_id, f"{PLACE}/{FILE}", Path(temporary))
        text = report.with_verdict(found.read_text(encoding="utf-8"), facts(entry))
        page = Path(temporary) / "page" / FILE
        page.parent.mkdir()
        page.write_text(text, encoding="utf-8")
        book.connection.client.log_artifact(version.run_id, str(page), PLACE)
        book.connection.client.log_artifact(entry.run_id, str(page))


def facts(entry: Entry) -> dict[str, Any]:
    """Return what ``report.with_verdict`` reads."""
    evidence: Mapping[str, float] = entry.evidence
    gates = [
        {"gate": name.removeprefix(OF_GATE), "p, one-sided": value}
        for name, value in evidence.items()
        if name.startswith(OF_GATE)
    ]
    known = {title: f"{evidence[name]:.3g}" for name, title in TOLD.items() if name in evidence}
    return {
        "decision": entry.verdict,
        "reason": entry.why,
        "gates": gates,
        "facts": {
            "version": f"{entry.name} {entry.candidate}",
            "champion": f"{entry.before or 'none'} → {entry.after or 'none'}" if entry.moved else "stays",
            "decided by": entry.who,
            "on": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(entry.at_ms / 1000)),
            "decision": f"{entry.number}",
        }
        | known,
    }
