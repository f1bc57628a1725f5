"""The cleaning steps: what ``data.clean`` may name, and what they did to the rows of a split.

Nothing is cleaned unless a step is named, since a silent normal form changes what a tokenizer sees. A text step is a
pure function of the text, so it can be counted, recorded in the adapter's identity and applied again at predict.
``strip_html`` is one pass, as a browser would show the text: an escaped tag becomes a visible one and stays.

``redact`` is about the texts of a row together, since the same value has the same placeholder in all of them. It comes
after the other text steps, wherever it is named: ``strip_html`` would take ``<EMAIL_1>`` for a tag, and bring addresses
to light that references hid. Answers that stand at characters of a text move with them.

``duplicates`` is about rows: it drops those that a split has already, after the text steps, wherever it is named. It
never looks beyond the split, and nothing is dropped at predict: who sends a row twice gets two answers. What is
remembered of a row is two digests of 16 bytes, which is the price of finding an equal one in any later part.

Examples of what a step changed leave out what is private, whether or not ``redact`` is named.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, Literal

from graft.privacy import Redaction, masked

if TYPE_CHECKING:
    from graft.privacy.section import PrivacyConfig
    from graft.tasks import Field

CleanStep = Literal["nfc", "nfkc", "strip_html", "whitespace", "redact", "duplicates"]
REDACT = "redact"
"""The step that replaces private data, in all texts of a row together."""
DUPLICATES = "duplicates"
"""The step that drops rows; all others change text."""
EXAMPLES = 5
DIGEST_BYTES = 16
EXCERPT_CHARACTERS, LEAD_CHARACTERS = 80, 20


def text_steps(steps: Sequence[str]) -> tuple[str, ...]:
    """Return the ``steps`` that change text, in the order in which they are applied."""
    last = (REDACT,) if REDACT in steps else ()
    return (*(step for step in steps if step not in (REDACT, DUPLICATES)), *last)


def clean(text: str, steps: Sequence[str]) -> str:
    """Return ``text`` after those of the ``steps`` that change each text by itself, in their order."""
    for step in steps:
        if step in STEPS:
            text = STEPS[step](text)
    return text


def clean_value(value: Any, steps: Sequence[str]) -> Any:
    """Return the value of a text field after these steps: a text, a list of texts, or a list of messages."""
    if isinstance(value, str):
        return clean(value, steps)
    if isinstance(value, list):
        return [clean_value(one, steps) for one in value]
    return {**value, "content": clean(value["content"], steps)} if isinstance(value, Mapping) else value


def clean_row(
    row: Mapping[str, Any], fields: Sequence[Field], steps: Sequence[str], privacy: PrivacyConfig
) -> dict[str, Any]:
    """Return a typed row, such as one that is to be predicted, after the text steps; absent fields stay absent."""
    texts = {field.name for field in fields if field.text}
    cleaned = {name: clean_value(value, steps) if name in texts else value for name, value in row.items()}
    return {**cleaned, **redacted(cleaned, fields, privacy)} if REDACT in steps else cleaned


def redacted(row: Mapping[str, Any], fields: Sequence[Field], privacy: PrivacyConfig) -> dict[str, Any]:
    """Return the fields of a typed row that hold private data, with typed placeholders (``<EMAIL_1>``) for it."""
    given = {field.name: _whole(field, row[field.name]) for field in fields if field.text and row.get(field.name)}
    found = privacy.redaction(given)
    if not found.replacements:
        return {}
    new: dict[str, Any] = {name: found.applied(value) for name, value in given.items()}
    for field in fields:
        if field.words and field.name in given:
            new[field.name] = found.of_words(row[field.name])
        if field.within in given and row.get(field.name):
            new[field.name] = _moved(row[field.name], given[field.within], new[field.within], found)
    return {name: value for name, value in new.items() if value != row[name]}


def _whole(field: Field, value: Any) -> Any:
    """Return a value to search in: the words of one text as that text."""
    return " ".join(value) if field.words else value


def _moved(answers: Mapping[str, Any], before: str, after: str, found: Redaction) -> dict[str, Any]:
    """Return answers where they stand in the redacted text; one that was not where it should be stays as it is."""
    texts, starts = list[str](), list[int]()
    for text, start in zip(answers["text"], answers["answer_start"], strict=True):
        end = start + len(text)
        if start >= 0 and before[start:end] == text:
            start, end = found.moved(before, start, end)
            text = after[start:end]
        texts.append(text)
        starts.append(start)
    return {**answers, "text": texts, "answer_start": starts}


@dataclass(frozen=True, slots=True)
class Example:
    """One change, shortened to where the texts part; ``after`` is ``None`` where the row was dropped."""

    place: str
    field: str
    before: str
    after: str | None


class Cleaning:
    """Applies the steps to the rows of one split, part after part, and counts what they changed."""

    def __init__(self, steps: Sequence[str], privacy: PrivacyConfig, earlier: Cleaning | None = None) -> None:
        """``privacy`` says what ``redact`` replaces, and what no example shows.

        ``earlier`` has cleaned the earlier parts of the split: a row of theirs is there, but is not counted here.
        """
        self.single = tuple(step for step in steps if step in STEPS)
        """The steps that change each text by itself."""
        self.redacts, self.unique, self.privacy = REDACT in steps, DUPLICATES in steps, privacy
        self.counts = Counter[str](dict.fromkeys(steps, 0))
        """Step -> rows that it changed or dropped."""
        self.examples: dict[str, list[Example]] = {step: [] for step in steps}
        self.disagreeing: list[str] = []
        """Places of the first kept rows whose texts an earlier row has, with another label."""
        self.disagreements = 0
        self.dropped: list[str] = []
        """Places of the rows that the step ``duplicates`` dropped."""
        self._texts: set[bytes] = earlier._texts if earlier else set()
        self._rows: set[bytes] = earlier._rows if earlier else set()
        self._new = list[bytes]()

    def keeps(self, row: dict[str, Any], fields: Sequence[Field], place: str) -> bool:
        """Clean the text fields of ``row`` in place; say whether it stays, which an equal row of the split denies."""
        if self.single or self.redacts:
            self._clean(row, fields, place)
        return not (self.unique and self._is_duplicate(row, fields, place))

    def _clean(self, row: dict[str, Any], fields: Sequence[Field], place: str) -> None:
        changed = set[str]()
        for field in fields if self.single else ():
            value = row[field.name]
            if not (field.text and value):
                continue
            for step in self.single:
                new = clean_value(value, [step])
                if new != value and step not in changed:
                    changed.add(step)
                    self._note(step, place, field.name, *_first_change(value, new))
                value = new
            row[field.name] = value
        if self.redacts and (new_values := redacted(row, fields, self.privacy)):
            changed.add(REDACT)
            field = next(field for field in fields if field.text and field.name in new_values)
            values = (_whole(field, one[field.name]) for one in (row, new_values))
            self._note(REDACT, place, field.name, *_first_change(*values))
            row.update(new_values)
        self.counts.update(changed)

    def _is_duplicate(self, row: Mapping[str, Any], fields: Sequence[Field], place: str) -> bool:
        texts = {field.name: row[field.name] for field in fields if field.text or field.type == "image"}
        text, whole = _digest(texts), _digest({field.name: row[field.name] for field in fields})
        if whole in self._rows:
            self.counts[DUPLICATES] += 1
            self.dropped.append(place)
            name, value = next(iter(texts.items()), ("", ""))
            self._note(DUPLICATES, place, name, value if isinstance(value, str) else _json(value), None)
            return True
        if text in self._texts:
            self.disagreements += 1
            self.disagreeing += [place] if len(self.disagreeing) < EXAMPLES else []
        self._texts.add(text)
        self._rows.add(whole)
        self._new.append(text + whole)
        return False

    def kept(self) -> bytes:
        """Return the two digests, 32 bytes, of each row that was kept, for :meth:`remember`; needs ``duplicates``."""
        return b"".join(self._new)

    def remember(self, kept: bytes) -> None:
        """Take rows for seen that an earlier run kept."""
        half = DIGEST_BYTES
        for start in range(0, len(kept), 2 * half):
            self._texts.add(kept[start : start + half])
            self._rows.add(kept[start + half : start + 2 * half])

    def as_json(self, inner: Callable[[str], str]) -> dict[str, Any]:
        """Return what was counted and noted; ``inner`` shortens a place to what follows the name of its file."""
        examples = {
            step: [{**asdict(one), "place": inner(one.place)} for one in found] for step, found in self.examples.items()
        }
        return {
            "counts": dict(self.counts),
            "examples": examples,
            "disagreeing": [inner(place) for place in self.disagreeing],
            "disagreements": self.disagreements,
            "dropped": [inner(place) for place in self.dropped],
        }

    def add(self, found: Mapping[str, Any], file: str) -> None:
        """Add what another one noted of the part ``file``, from its ``as_json``."""
        self.counts.update(found["counts"])
        for step, examples in found["examples"].items():
            more = [Example(**{**one, "place": f"{file}{one['place']}"}) for one in examples]
            self.examples[step] = [*self.examples[step], *more][:EXAMPLES]
        self.disagreements += found["disagreements"]
        self.disagreeing = [*self.disagreeing, *(f"{file}{one}" for one in found["disagreeing"])][:EXAMPLES]
        self.dropped += [f"{file}{one}" for one in found["dropped"]]

    def _note(self, step: str, place: str, field: str, before: str, after: str | None) -> None:
        if len(self.examples[step]) < EXAMPLES:
            shown = None if after is None else self._shown(after)
            self.examples[step].append(Example(place, field, *_excerpts(self._shown(before), shown)))

    def _shown(self, text: str) -> str:
        return masked(text, self.privacy.find(text))


def _digest(values: Mapping[str, Any]) -> bytes:
    return hashlib.blake2b(_json(values).encode(), digest_size=DIGEST_BYTES).digest()


def _json(value: Any) -> str:
    """Return a value as JSON; a picture's bytes by their digest."""
    return json.dumps(value, default=lambda picture: f"picture {hashlib.sha256(picture).hexdigest()}")


def _first_change(before: str | Sequence[str], after: str | Sequence[str]) -> tuple[str, str]:
    """Return the texts, or the first of a list of texts that differ."""
    if isinstance(before, str) and isinstance(after, str):
        return before, after
    pairs = ((_content(old), _content(new)) for old, new in zip(before, after, strict=True))
    return next((old, new) for old, new in pairs if old != new)


def _content(item: Any) -> str:
    """Return the text of an item of a list: of a message, its content."""
    return str(item["content"]) if isinstance(item, Mapping) else str(item)


def _excerpts(before: str, after: str | None) -> tuple[str, str | None]:
    """Return both texts from shortly before the place where they part."""
    if after is None:
        return _excerpt(before, 0), None
    pairs = zip(before, after, strict=False)
    shared = next((at for at, (old, new) in enumerate(pairs) if old != new), min(len(before), len(after)))
    start = max(0, shared - LEAD_CHARACTERS)
    return _excerpt(before, start), _excerpt(after, start)


def _excerpt(text: str, start: int) -> str:
    end = start + EXCERPT_CHARACTERS
    return f"{'…' * (start > 0)}{text[start:end]}{'…' * (len(text) > end)}"


_BLOCKS = """
    address article blockquote br dd div dl dt figure footer form h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre
    section table tbody td tfoot th thead tr ul
"""


class _Text(HTMLParser):
    """Collects what a browser would show: no tags, comments, scripts or styles; block elements part words."""

    BLOCKS = frozenset(_BLOCKS.split())
    HIDDEN = frozenset({"script", "style"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.hidden += tag in self.HIDDEN
        if tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in self.HIDDEN and self.hidden > 0
        if tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.pieces.append(data)


def _strip_html(text: str) -> str:
    if "<" not in text and "&" not in text:
        return text
    parser = _Text()
    parser.feed(text)
    parser.close()
    return "".join(parser.pieces)


STEPS: dict[str, Callable[[str], str]] = {
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    "nfkc": lambda text: unicodedata.normalize("NFKC", text),
    "strip_html": _strip_html,
    "whitespace": lambda text: " ".join(text.split()),
}
