"""The Data Docs as pages that need nothing else: no network, no script, no file beside them.

Great Expectations writes pages for Bootstrap, jQuery and Font Awesome from other hosts: without a network, or inside
MLflow's viewer, its index is empty and its pages are bare. So the index is one of our own, and its pages keep their
markup, lose what is dead, and get an embedded style. The search and the filter of its tables are the price.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.data import Problem
from graft.validation.worst import Row

TEMPLATES = Path(__file__).parent / "templates"
LISTED_PROBLEMS = 20
"""How many problems the index lists."""


@dataclass(frozen=True)
class Part:
    """A line of the index: one part, how many of its expectations its rows met, and its page."""

    split: str
    name: str
    rows: int
    """How many are kept: they can be read, and are not in quarantine."""
    problems: int
    beside: str = ""
    """What a part without problems has all the same: ``warnings``, ``rows in quarantine``."""
    passed: int | None = None
    failed: int | None = None
    page: str | None = None


@dataclass(frozen=True)
class Index:
    """What the index shows of one run."""

    passed: bool
    total: int
    """How many problems there are, also those that nothing lists."""
    reported: int
    """How many problems report.json lists at most."""
    problems: Sequence[Problem | str] = ()
    parts: Sequence[Part] = ()
    checks: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[str] = ()
    left_out: str = ""
    """What was not compared, in words."""
    cleaning: Sequence[str] = ()
    quarantined: Sequence[str] = ()
    """A line for each split that has rows in quarantine."""
    aside: int = 0
    """How many rows are in quarantine."""
    composition: Mapping[str, Any] | None = None
    """What the splits are made of (``drawing.drawn``); None where the data was not read that far."""
    label_errors: Mapping[str, Any] | None = None
    """Likely label errors (``drawing.listed``); None where nobody asked."""
    worst: Sequence[Row] = ()
    """The rows that have the most wrong."""

    def write(self, folder: Path) -> None:
        """Write ``index.html``."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        listed = [_listed(one) for one in self.problems[:LISTED_PROBLEMS]]
        text = environment.get_template("index.html.j2").render(
            {**vars(self), "rows": self._rows, "problems": listed, "masked": masked, "css": _css()}
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text(text, encoding="utf-8", newline="\n")

    @property
    def _rows(self) -> str:
        """What becomes of the rows, in words."""
        kept = sum(part.rows for part in self.parts)
        if self.passed:
            return rows_kept(kept, self.aside)
        beside = f", beside {self.aside:,} in quarantine" if self.aside else ""
        return f"{kept:,} row{'s' if kept != 1 else ''} that can be read{beside}"


def rows_kept(kept: int, aside: int) -> str:
    """Return how many rows go on, and of how many where some are in quarantine: ``1,015 rows kept of 1,045``."""
    return f"{kept:,} row{'s' if kept != 1 else ''} kept{f' of {kept + aside:,}' if aside else ''}"


def _css() -> str:
    return (TEMPLATES / "pages.css").read_text(encoding="utf-8")


def _listed(one: Problem | str) -> dict[str, str]:
    if isinstance(one, str):
        return {"message": masked_message(one)}
    return {"message": "", "place": one.place, "field": one.field, "expected": one.expected, "found": masked(one.found)}


# From the first quote to the last one of its kind, or to where a long value was cut.
_QUOTED = re.compile(r"""(['"])(?:(.*)(?:\1|…)|.*)""", re.DOTALL)


def masked(found: str) -> str:
    """Return ``found`` with no more of a quoted value than its start: pages are published, reports are not."""

    def mask(match: re.Match[str]) -> str:
        quote, whole = match[1], match[2]
        if whole is not None and len(whole) <= 8 and match[0].endswith(quote):
            return match[0]
        return f"{quote}{match[0][1:5]}…{quote}"

    return _QUOTED.sub(mask, found)


# A quoted value in a sentence, where an apostrophe is none: from a quote behind a sign to one before a sign, or to the
# end where the value was cut and no such quote follows.
_VALUE = re.compile(r"""(?<!\w)(['"])(?:(?:\\.|(?!\1).|\1(?=\w))*\1|.*)""", re.DOTALL)


def masked_message(text: str) -> str:
    """Return a sentence whole, with no more of each quoted value in it than its start."""
    return _VALUE.sub(lambda match: masked(match[0]), text)


_RANDOM = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DEAD = re.compile(
    r"<script\b.*?</script>|<style\b.*?</style>|<link\b[^>]*>|<title>.*?</title>|<footer\b.*?</footer>"
    r"|<nav class=\"navbar navbar-expand-md.*?</nav>\s*</div>\s*</nav>"
    r"|<div class=\"card mb-3\">\s*<div[^>]*>\s*<strong>Actions</strong>.*?(?=<div class=\"card d-md)"
    r"|<p class=\"m-0\">\s*<a data-toggle=\"collapse\".*?</p>|Data asset: None<br>"
    r"|<tr>(?:(?!</tr>).)*>Run Time</div>.*?</tr>",
    re.DOTALL,
)
_BLANK = re.compile(r"\n\s*\n+")


def settle(folder: Path, parts: Mapping[str, str]) -> None:
    """Make Great Expectations' pages the same in every run and readable without a network.

    Args:
        folder: The Data Docs.
        parts: The page of each documented part, relative to ``folder``.
    """
    names = {page: part for part, page in parts.items()}
    for path in sorted(folder.rglob("*.html")):
        page = path.relative_to(folder)
        title = html.escape(names.get(page.as_posix(), "Expectations of every part"))
        up = "../" * (len(page.parts) - 1)
        text = _DEAD.sub("", path.read_text(encoding="utf-8"))
        for number, name in enumerate(dict.fromkeys(_RANDOM.findall(text))):
            text = text.replace(name, f"n{number}")
        head = f"<title>{title}</title>\n<style>\n{_css()}</style>\n</head>"
        body = f'<body class="pages">\n<p class="sub"><a href="{up}index.html">Data Docs</a></p>\n<h1>{title}</h1>'
        text = text.replace("</head>", head, 1).replace("<body>", body, 1)
        path.write_text(_BLANK.sub("\n", text), encoding="utf-8", newline="\n")
    shutil.rmtree(folder / "static", ignore_errors=True)
