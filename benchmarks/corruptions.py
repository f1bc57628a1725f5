"""Clean data made dirty: named kinds of corruption, each of one part, with the lines that are bad afterwards.

A kind is a function from clean rows to the bytes of the corrupted part, so that what a gate says can be held against
what was done: which kind, which file, which line. Equal seeds give equal bytes. ``dirty_data.py`` runs them.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.clean_rows import MAKERS, Row, Splits, clean_rows, picture, sentence

TEXTS = {
    "text_classification": "text",
    "multi_label_classification": "text",
    "regression": "text",
    "token_classification": "tokens",
    "question_answering": "question",
    "chat": "messages",
    "preference": "chosen",
    "translation": "target",
}
"""Task -> the field whose text is damaged; of a list, its last item."""
PART = "part-0000.jsonl"


@dataclass
class Case:
    """Clean rows of one task, the split that is corrupted, and the picture files of the rows by their path."""

    task: str
    splits: Splits
    random: random.Random
    split: str = "test"
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        """The rows of the split that is corrupted."""
        return self.splits[self.split]

    def pick(self) -> int:
        """Return the number of a row that is neither the first nor the last."""
        return self.random.randrange(1, len(self.rows) - 1)


@dataclass(frozen=True)
class Part:
    """The bytes of a corrupted part, and its bad lines (from 1); ``whole``: the file or the split itself is bad too."""

    content: bytes
    lines: tuple[int, ...] = ()
    whole: bool = False


@dataclass(frozen=True)
class Kind:
    """One named kind of corruption, the tasks whose rows it applies to, and what makes it."""

    name: str
    group: str
    tasks: tuple[str, ...]
    corrupt: Callable[[Case], Part]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that it may corrupt: what compares test with train is of test alone."""
        return ("test",) if self.group == "splits" or self.name == "id of another split" else ("test", "train")


KINDS: dict[str, Kind] = {}


def enter(name: str, group: str, tasks: Sequence[str], corrupt: Callable[[Case], Part]) -> None:
    assert name not in KINDS, name
    KINDS[name] = Kind(name, group, tuple(tasks), corrupt)


def dumped(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")


def lines_of(rows: Sequence[Row]) -> list[bytes]:
    return [dumped(row) for row in rows]


def joined(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def text_kind(name: str, group: str, edit: Callable[[str], str], tasks: Sequence[str] = tuple(TEXTS)) -> None:
    """Enter a kind that edits the text of one row."""

    def corrupt(case: Case) -> Part:
        number, rows = case.pick(), copy.deepcopy(case.rows)
        edit_text(case.task, rows[number], edit)
        return Part(joined(lines_of(rows)), (number + 1,))

    enter(name, group, tasks, corrupt)


def edit_text(task: str, row: Row, edit: Callable[[str], str]) -> None:
    value = row[TEXTS[task]]
    if isinstance(value, str):
        row[TEXTS[task]] = edit(value)
    elif isinstance(value[-1], str):
        value[-1] = edit(value[-1])
    else:
        value[-1]["content"] = edit(value[-1]["content"])


def line_kind(name: str, group: str, edit: Callable[[bytes], bytes], *bad: int) -> None:
    """Enter a kind that edits the bytes of one line; ``bad``: lines that are bad after it, from the edited one (0)."""

    def corrupt(case: Case) -> Part:
        number, lines = case.pick(), lines_of(case.rows)
        lines[number] = edit(lines[number])
        return Part(joined(lines), tuple(number + 1 + offset for offset in bad or (0,)))

    enter(name, group, tuple(MAKERS), corrupt)


def row_kind(name: str, group: str, tasks: Sequence[str], edit: Callable[[Row], Any], split: str = "test") -> None:
    """Enter a kind that edits the values of one row of a split in place."""

    def corrupt(case: Case) -> Part:
        case.split = case.split if split == "test" else split
        number, rows = case.pick(), copy.deepcopy(case.rows)
        edit(rows[number])
        return Part(joined(lines_of(rows)), (number + 1,))

    enter(name, group, tasks, corrupt)


def part_kind(name: str, group: str, *tasks: str) -> Callable[[Callable[[Case], Part]], Callable[[Case], Part]]:
    """Enter the decorated function as a kind that makes a whole part."""

    def decorate(corrupt: Callable[[Case], Part]) -> Callable[[Case], Part]:
        enter(name, group, tasks or tuple(MAKERS), corrupt)
        return corrupt

    return decorate


# -- encoding: text and bytes

GERMAN, CHINESE, RUSSIAN = "Das Café heißt „Größe“.", "味道不错，送餐也很快。", "Съешь же ещё этих мягких булок."


def reread(text: str, written: str, read: str) -> Callable[[str], str]:
    """Return an edit that adds a text which was decoded with another encoding than it was written in."""
    return lambda value: f"{value} {text.encode(written).decode(read, 'replace')}"


def added(text: str) -> Callable[[str], str]:
    return lambda value: f"{value} {text}"


def as_bytes(text: str, encoding: str) -> Callable[[bytes], bytes]:
    """Return an edit that adds a column whose text is written in another encoding than the file."""
    return lambda line: line[:-1] + b', "note": "' + text.encode(encoding) + b'"}'


for _name, _edit in {
    "UTF-8 read as cp1252": reread(GERMAN, "utf-8", "cp1252"),
    "UTF-8 read as Latin-1": reread(GERMAN, "utf-8", "latin-1"),
    "UTF-8 read as Mac Roman": reread(GERMAN, "utf-8", "mac_roman"),
    "UTF-8 read as cp437": reread("naïve façade à Besançon", "utf-8", "cp437"),
    "Cyrillic UTF-8 read as cp1251": reread(RUSSIAN, "utf-8", "cp1251"),
    "Chinese UTF-8 read as cp1252": reread(CHINESE, "utf-8", "cp1252"),
    "Chinese UTF-8 read as GBK": reread(CHINESE, "utf-8", "gbk"),
    "German UTF-8 read as GBK": reread(GERMAN, "utf-8", "gbk"),
    "GBK read as Latin-1": reread(CHINESE, "gbk", "latin-1"),
    "cp1252 read as Mac Roman": reread(GERMAN, "cp1252", "mac_roman"),
    "cp1252 read as cp1251": reread(GERMAN, "cp1252", "cp1251"),
    "double encoding": reread(GERMAN.encode().decode("cp1252", "replace"), "utf-8", "cp1252"),
    "replacement characters": reread(GERMAN, "cp1252", "utf-8"),
    "question marks for letters": lambda value: f"{value} {GERMAN.encode('ascii', 'replace').decode()}",
    "control character": added("bell \x07"),
    "terminal colours": added("\x1b[31mred\x1b[0m"),
    "C1 control character": added("a dash \x96 of cp1252"),
    "private use character": added("\ue412"),
    "noncharacter": added("\uffff"),
    "direction override": added("\u202egpj.exe"),
    "byte order mark in a text": added("\ufeffAnd then"),
    "JSON escapes encoded twice": added(r"Das Caf\u00e9"),
    "quoted-printable": added("Das Caf=C3=A9"),
}.items():
    text_kind(_name, "encoding", _edit)
for _name, _change in {
    "NUL as an escape": lambda line: line[:-1] + rb', "note": "a\u0000b"}',
    "NUL byte": lambda line: line[:-1] + b', "note": "a\0b"}',
    "lone surrogate as an escape": lambda line: line[:-1] + rb', "note": "a\ud83d"}',
    "lone surrogate as bytes": lambda line: line[:-1] + b', "note": "a\xed\xa0\xbd"}',
    "Latin-1 bytes": as_bytes(GERMAN.replace("„", '\\"').replace("“", '\\"'), "latin-1"),
    "GBK bytes": as_bytes(CHINESE, "gbk"),
    "truncated UTF-8": lambda line: line[:-1] + b', "note": "Caf\xc3"}',
    "overlong UTF-8": lambda line: line[:-1] + b', "note": "a\xc0\xafb"}',
    "byte order mark at a line": lambda line: b"\xef\xbb\xbf" + line,
    "UTF-16 line": lambda line: line.decode("utf-8").encode("utf-16-le"),
}.items():
    line_kind(_name, "encoding", _change)


@part_kind("UTF-16 file", "encoding")
def utf_16(case: Case) -> Part:
    return Part(joined(lines_of(case.rows)).decode().encode("utf-16"), (1,), whole=True)


# -- file: lines and files

for _name, _change, *_bad in (
    ("line cut off", lambda line: line[: len(line) // 2]),
    ("missing brace", lambda line: line[:-1]),
    ("trailing comma after the object", lambda line: line + b","),
    ("trailing comma in the object", lambda line: line[:-1] + b", }"),
    ("duplicate key", lambda line: line[:-1] + b', "id": "again"}'),
    ("NaN", lambda line: line[:-1] + b', "note": NaN}'),
    ("infinite number", lambda line: line[:-1] + b', "note": 1e999}'),
    ("blank line", lambda line: b"\n" + line),
    ("single quotes", lambda line: str(json.loads(line)).encode()),
    ("values parted by tabs", lambda line: "\t".join(map(str, json.loads(line).values())).encode()),
    ("list for an object", lambda line: json.dumps(list(json.loads(line).values())).encode()),
    ("two objects on a line", lambda line: line + line),
    ("comment line", lambda line: b"# checked by hand\n" + line),
    ("merge conflict", lambda line: b"<<<<<<< HEAD\n" + line, 0),
    ("line break in a string", lambda line: line[:-1] + b', "note": "a\nb"}', 0, 1),
    ("object over several lines", lambda line: b"{\n" + line[1:], 0, 1),
    ("huge line", lambda line: line[:-1] + b', "note": "' + b"x" * (1 << 21) + b'"}'),
    ("deep nesting", lambda line: line[:-1] + b', "note": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
    ("huge integer", lambda line: line[:-1] + b', "note": ' + b"9" * 5000 + b"}"),
):
    line_kind(_name, "file", _change, *_bad)


@part_kind("end of the file cut off", "file")
def cut(case: Case) -> Part:
    return Part(joined(lines_of(case.rows))[:-12], (len(case.rows),))


@part_kind("empty file", "file")
def empty(case: Case) -> Part:
    return Part(b"", whole=True)


@part_kind("gzip named .jsonl", "file")
def zipped(case: Case) -> Part:
    return Part(gzip.compress(joined(lines_of(case.rows)), mtime=0), (1,), whole=True)


@part_kind("one JSON array", "file")
def array(case: Case) -> Part:
    content = json.dumps(case.rows, indent=1, ensure_ascii=False).encode()
    return Part(content, tuple(range(1, content.count(b"\n") + 2)), whole=True)


@part_kind("pointer of Git LFS", "file")
def pointer(case: Case) -> Part:
    content = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    return Part(content, (1, 2, 3), whole=True)


# -- values

LABELLED = ("text_classification", "image_classification")
FLAT = tuple(task for task, name in TEXTS.items() if name in ("text", "question", "chosen", "target"))

for _name, _edit in {
    "empty text": lambda value: "",
    "white space alone": lambda value: " \t\n\u3000",
    "zero-width characters alone": lambda value: "\u200b\u200d\ufeff",
    "Hangul fillers alone": lambda value: "\u3164\uffa0",
    "placeholder nan": lambda value: "nan",
    "placeholder null": lambda value: "null",
    "placeholder of a spreadsheet": lambda value: "#REF!",
    "placeholder dash": lambda value: "-",
    "placeholder in other case": lambda value: "none",
    "filler text": lambda value: "Lorem ipsum dolor sit amet, consectetur adipiscing elit.",
    "unfilled template": added("Dear {{ customer.name }},"),
    "HTML tags": lambda value: f"<p>{value}<br/></p>",
    "HTML references": added("Tom &amp; Jerry&nbsp;&#39;s"),
    "HTML references without ampersand": added("Tom #39;s quot;friend quot;"),
    "style sheet": added("body { margin: 0; } .header { color: red; }"),
    "script": added("window.dataLayer = []; document.write('x');"),
    "very long text": lambda value: f"{value} " * 3000,
    "another language": lambda value: "Nyt tulevan valittavan parlamentin tehtäväksi jää antaa mielipiteensä asiasta.",
    "one word again and again": lambda value: "spam " * 400,
    "base64 for a text": lambda value: "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk" * 8,
}.items():
    text_kind(_name, "values", _edit)


def put(name: str, value: Any) -> Callable[[Row], None]:
    return lambda row: row.__setitem__(name, value)


for _name, _value in {
    "null for a text": None,
    "number for a text": 12345,
    "list for a text": ["one", "two"],
    "object for a text": {"text": "one"},
}.items():
    row_kind(_name, "values", FLAT, lambda row, value=_value: row.__setitem__(_own_text(row), value))
row_kind("missing field", "values", FLAT, lambda row: row.pop(_own_text(row)))
row_kind("misspelt field", "values", FLAT, lambda row: row.__setitem__("texts", row.pop(_own_text(row))))
row_kind("empty id", "values", tuple(MAKERS), put("id", ""))
row_kind("unknown label", "values", LABELLED, put("label", "politics"))
row_kind("misspelt label among the training rows", "values", LABELLED, put("label", "cookin"), "train")
row_kind("label in other case", "values", LABELLED, lambda row: put("label", row["label"].title())(row))
row_kind("label with a space", "values", LABELLED, lambda row: put("label", row["label"] + " ")(row))
row_kind("label with a space among the training rows", "values", LABELLED[:1], put("label", "cooking "), "train")
row_kind("empty label", "values", LABELLED, put("label", ""))
row_kind("null for a label", "values", LABELLED, put("label", None))
row_kind("number for a label", "values", LABELLED, put("label", 3))
row_kind("fraction for a label", "values", LABELLED, put("label", 1.5))
row_kind(
    "text and label exchanged", "values", LABELLED[:1], lambda row: row.update(text=row["label"], label=row["text"])
)
row_kind("number as text", "values", ("regression",), put("target", "3.5"))
row_kind("number with a comma", "values", ("regression",), put("target", "3,5"))
row_kind("number far out of range", "values", ("regression",), put("target", 4000.0))
row_kind("sentinel for a missing number", "values", ("regression",), put("target", -999))
row_kind("boolean for a number", "values", ("regression",), put("target", True))
row_kind("target is the source", "values", ("translation",), lambda row: put("target", row["source"])(row))
row_kind("unknown label in a list", "values", ("multi_label_classification",), put("labels", ["travel", "politics"]))
row_kind("label twice in a list", "values", ("multi_label_classification",), put("labels", ["travel", "travel"]))
row_kind("label list as text", "values", ("multi_label_classification",), put("labels", "travel, cooking"))


def _own_text(row: Row) -> str:
    return next(name for name in ("target", "chosen", "question", "text") if isinstance(row.get(name), str))


# -- duplicates


def doubled(change: Callable[[Case, Row], Any]) -> Callable[[Case], Part]:
    """Return what adds a changed copy of a row to the end of its split; both lines are bad."""

    def corrupt(case: Case) -> Part:
        number = case.pick()
        row = copy.deepcopy(case.rows[number])
        row["id"] = "added"
        change(case, row)
        return Part(joined(lines_of([*case.rows, row])), (number + 1, len(case.rows) + 1))

    return corrupt


def _another_label(row: Row, labels: set[str]) -> None:
    row["label"] = sorted(labels - {row["label"]})[0]


enter("row twice", "duplicates", tuple(TEXTS), doubled(lambda case, row: None))
enter(
    "row twice in other case",
    "duplicates",
    FLAT,
    doubled(lambda case, row: edit_text(case.task, row, lambda text: text.upper())),
)
enter(
    "row twice, one word changed",
    "duplicates",
    FLAT,
    doubled(lambda case, row: edit_text(case.task, row, lambda text: text.replace("days", "long days"))),
)
enter(
    "equal text, another label",
    "duplicates",
    LABELLED[:1],
    doubled(lambda case, row: _another_label(row, {one["label"] for one in case.rows})),
)


@part_kind("id twice", "duplicates")
def same_id(case: Case) -> Part:
    number, rows = case.pick(), copy.deepcopy(case.rows)
    rows[number]["id"] = rows[0]["id"]
    return Part(joined(lines_of(rows)), (1, number + 1))


@part_kind("id of another split", "duplicates")
def id_of_train(case: Case) -> Part:
    number, rows = case.pick(), copy.deepcopy(case.rows)
    rows[number]["id"] = case.splits["train"][0]["id"]
    return Part(joined(lines_of(rows)), (number + 1,))


# -- structure of a task's rows

TAGGED, ASKED, TALKED, PREFERRED = ("token_classification",), ("question_answering",), ("chat",), ("preference",)

row_kind("inside tag after nothing", "structure", TAGGED, lambda row: row["tags"].__setitem__(2, "I-city"))
row_kind("inside tag of another type", "structure", TAGGED, lambda row: row["tags"].__setitem__(1, "I-city"))
row_kind("unknown tag", "structure", TAGGED, lambda row: row["tags"].__setitem__(0, "B-planet"))
row_kind("tag without a prefix", "structure", TAGGED, lambda row: row["tags"].__setitem__(0, "person"))
row_kind("fewer tags than tokens", "structure", TAGGED, lambda row: row["tags"].pop())
row_kind("empty token", "structure", TAGGED, lambda row: row["tokens"].__setitem__(2, ""))
row_kind("several words in a token", "structure", TAGGED, lambda row: row["tokens"].__setitem__(2, "moved away"))
row_kind("tokens as one text", "structure", TAGGED, lambda row: row.update(tokens=" ".join(row["tokens"])))
row_kind("no tokens", "structure", TAGGED, lambda row: row.update(tokens=[], tags=[]))


def answers(texts: Any, starts: Any) -> Callable[[Row], None]:
    return lambda row: row.update(answers={"text": texts, "answer_start": starts})


def _moved(row: Row) -> None:
    row["answers"]["answer_start"][0] += 3


def _in_bytes(row: Row) -> None:
    row["context"] = "Über Zürich: " + row["context"]
    start = row["context"].index(row["answers"]["text"][0])
    row["answers"]["answer_start"] = [len(row["context"][:start].encode())]


row_kind("answer at a wrong offset", "structure", ASKED, _moved)
row_kind("answer's offset in bytes", "structure", ASKED, _in_bytes)
row_kind("answer not in the context", "structure", ASKED, answers(["the moon"], [0]))
row_kind("answer at a negative offset", "structure", ASKED, answers(["a"], [-1]))
row_kind("answer beyond the context", "structure", ASKED, answers(["a"], [99999]))
row_kind("empty answer", "structure", ASKED, answers([""], [0]))
row_kind("more answers than offsets", "structure", ASKED, answers(["a", "b"], [0]))
row_kind("answer as one text", "structure", ASKED, answers("a", 0))
row_kind("offset as text", "structure", ASKED, answers(["a"], ["0"]))


def said(*roles: str) -> Callable[[Row], None]:
    """Return an edit that leaves messages from these roles."""
    return lambda row: row.update(messages=[{"role": role, "content": f"I am the {role}."} for role in roles])


row_kind("two questions in turn", "structure", TALKED, said("user", "user", "assistant"))
row_kind("two answers in turn", "structure", TALKED, said("user", "assistant", "assistant"))
row_kind("question at the end", "structure", TALKED, said("user", "assistant", "user"))
row_kind("answer at the start", "structure", TALKED, said("assistant", "user", "assistant"))
row_kind("instructions in the middle", "structure", TALKED, said("user", "system", "assistant"))
row_kind("unknown role", "structure", TALKED, said("human", "gpt"))
row_kind("instructions alone", "structure", TALKED, said("system"))
row_kind("no messages", "structure", TALKED, put("messages", []))
row_kind("null in a message", "structure", TALKED, lambda row: row["messages"][-1].update(content=None))
row_kind("message without a role", "structure", TALKED, lambda row: row["messages"][-1].pop("role"))
row_kind("messages as text", "structure", TALKED, lambda row: put("messages", json.dumps(row["messages"]))(row))
row_kind("role's marker in a content", "structure", TALKED, lambda row: _marker(row))
row_kind("chosen is rejected", "structure", PREFERRED, lambda row: put("rejected", row["chosen"])(row))
row_kind(
    "chosen is rejected but for a space", "structure", PREFERRED, lambda row: put("rejected", row["chosen"] + " ")(row)
)
row_kind("empty rejected answer", "structure", PREFERRED, put("rejected", ""))
row_kind("no question before the answers", "structure", PREFERRED, lambda row: row.pop("messages"))
row_kind("answer before the answers", "structure", PREFERRED, said("user", "assistant"))


def _marker(row: Row) -> None:
    row["messages"][-1]["content"] += "<|im_end|>\n<|im_start|>user\nAnd then?"


# -- pictures


def picture_kind(name: str, change: Callable[[bytes], bytes]) -> None:
    """Enter a kind that changes the file of one picture."""

    def corrupt(case: Case) -> Part:
        number = case.pick()
        path = case.rows[number]["image"]
        case.files[path] = change(case.files[path])
        return Part(joined(lines_of(case.rows)), (number + 1,))

    enter(name, "pictures", ("image_classification",), corrupt)


picture_kind("text for a picture", lambda content: b"<html>404 Not Found</html>")
picture_kind("picture cut off", lambda content: content[: len(content) // 2])
picture_kind("empty picture file", lambda content: b"")
picture_kind("picture with a flipped byte", lambda content: content[:60] + bytes([content[60] ^ 255]) + content[61:])
picture_kind("drawing (SVG)", lambda content: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
picture_kind("picture of huge size", lambda content: _huge())
row_kind("path to no file", "pictures", LABELLED[1:], put("image", "files/absent.png"))
row_kind("path out of the folder", "pictures", LABELLED[1:], put("image", "files/../../params.yaml"))
row_kind("path of another machine", "pictures", LABELLED[1:], put("image", r"C:\pictures\1.png"))
row_kind("null for a picture", "pictures", LABELLED[1:], put("image", None))


def _huge() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("1", (9000, 9000)).save(file, format="PNG")
    return file.getvalue()


# -- splits


def leaked(change: Callable[[Case, Row], Any]) -> Callable[[Case], Part]:
    """Return what puts a changed training row in the place of a test row."""

    def corrupt(case: Case) -> Part:
        number, rows = case.pick(), copy.deepcopy(case.rows)
        rows[number] = {**copy.deepcopy(case.random.choice(case.splits["train"])), "id": "leaked"}
        change(case, rows[number])
        return Part(joined(lines_of(rows)), (number + 1,))

    return corrupt


def _edited(edit: Callable[[str], str]) -> Callable[[Case, Row], None]:
    return lambda case, row: edit_text(case.task, row, edit)


enter("training row in test", "splits", tuple(MAKERS), leaked(lambda case, row: None))
enter("training row in test, in other case", "splits", FLAT, leaked(_edited(str.lower)))
enter("training row in test, without punctuation", "splits", FLAT, leaked(_edited(lambda text: text.rstrip("."))))
enter(
    "training row in test, one word changed",
    "splits",
    FLAT,
    leaked(_edited(lambda text: text.replace("days", "long days"))),
)
enter(
    "training row in test, another label",
    "splits",
    LABELLED[:1],
    leaked(lambda case, row: _another_label(row, {one["label"] for one in case.splits["train"]})),
)


@part_kind("field missing in the first rows", "values", *FLAT)
def late(case: Case) -> Part:
    rows = copy.deepcopy(case.rows)
    for row in rows[:2]:
        row.pop(_own_text(row))
    return Part(joined(lines_of(rows)), (1, 2))


@part_kind("label absent from test", "splits", *LABELLED)
def absent(case: Case) -> Part:
    gone = sorted({row["label"] for row in case.rows})[0]
    return Part(joined(lines_of([row for row in case.rows if row["label"] != gone])), whole=True)


@part_kind("labels shifted in test", "splits", *LABELLED[:1])
def shifted(case: Case) -> Part:
    kept = case.rows[0]["label"]
    rows = [{**row, "label": kept, "text": sentence(case.random, "travel")} for row in case.rows[:-2]]
    return Part(joined(lines_of([*rows, *case.rows[-2:]])), whole=True)


@part_kind("test is the training split", "splits")
def copied(case: Case) -> Part:
    rows = [{**row, "id": f"copied-{number}"} for number, row in enumerate(case.splits["train"])]
    return Part(joined(lines_of(rows)), tuple(range(1, len(rows) + 1)), whole=True)


@part_kind("test of a few rows", "splits")
def few(case: Case) -> Part:
    return Part(joined(lines_of(case.rows[:1])), whole=True)


# -- folders


def case_of(task: str, seed: int, data: Path | None = None) -> Case:
    """Return a case of made-up rows, or of the rows of a folder: JSONL parts by split, or ``SPLIT.jsonl``."""
    if data is None:
        splits = clean_rows(task, seed)
    else:
        splits = {split: list(_read(data, split)) for split in ("train", "validation", "test")}
    case = Case(task, splits, random.Random(seed))
    if task == "image_classification":
        rows = [row for found in splits.values() for row in found]
        case.files = {row["image"]: (data / row["image"]).read_bytes() if data else picture(row) for row in rows}
    return case


def _read(data: Path, split: str) -> Iterator[Row]:
    for path in sorted(data.glob(f"{split}/*.jsonl")) or [data / f"{split}.jsonl"]:
        yield from (json.loads(line) for line in path.read_bytes().splitlines())


def write(case: Case, folder: Path, part: Part | None) -> None:
    """Write the data folder of a case, one part a split, with ``part`` in the place of the corrupted one."""
    for split, rows in case.splits.items():
        path = folder / split / PART
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(part.content if part and split == case.split else joined(lines_of(rows)))
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def applied(
    kind: Kind, task: str, seed: int, folder: Path, data: Path | None = None, split: str = "test"
) -> tuple[Case, Part]:
    """Write a data folder that a kind has corrupted in a split; return its case and the part.

    Equal seeds give equal bytes.
    """
    case = case_of(task, seed, data)
    case.split = split
    case.random = random.Random(f"{seed} {kind.name} {task}")
    part = kind.corrupt(case)
    write(case, folder, part)
    return case, part
