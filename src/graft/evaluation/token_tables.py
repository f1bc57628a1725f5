"""What the checks after tokenizing found, as tables of the report, from the token tables' manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.evaluation.findings import percent
from graft.tasks import PIECES
from graft.workspace import SPLITS

SHOWN_PLACES = 2


def token_tables(manifest: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return a table of the splits in tokens, and one of the checks that some rows break (empty where none do)."""
    return {
        "Rows as tokens": [_split(name, manifest["splits"][name]) for name in SPLITS],
        "Checks of tokens": [_check(one) for one in manifest["checks"] if one["failed"] or one["share"] > one["limit"]],
    }


def _split(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "split": name,
        "rows": entry["rows"],
        "tokens": entry["tokens"],
        "rows_cut": entry["truncated"],
        **{f"lost_{piece}": entry["lost"][piece] for piece in PIECES},
        "unknown_tokens": percent(entry["unknown_tokens"] / max(entry["text_tokens"], 1)),
        f"padding_in_random_batches_of_{entry['padding']['batch']}": percent(entry["padding"]["share"]),
        "in_quarantine": entry["quarantined"],
    }


def _check(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "split": one["split"],
        "check": one["check"],
        "severity": one["severity"],
        "rows": one["failed"],
        "share": percent(one["share"]),
        "allowed": percent(one["limit"]),
        "first": ", ".join(one["rows"][:SHOWN_PLACES]),
    }
