"""The worst rows: most of what stops the chain first, private data masked, the same from any parts."""

from graft.data import Problem, Record
from graft.privacy.section import PrivacyConfig
from graft.tasks import Field
from graft.validation.contract import Broken
from graft.validation.frame import Frame
from graft.validation.section import Severity
from graft.validation.worst import WORST_ROWS, Worst, told


def broken(severity: Severity, line: int, field: str = "text") -> Broken:
    return Broken(severity, Problem(f"p:{line}", field, "good", "bad"))


def frame(*texts: str) -> Frame:
    made = Frame((Field("text", "string", text=True),), PrivacyConfig(), hides=PrivacyConfig())
    for line, text in enumerate(texts, start=1):
        made.add(Record({"text": text}, f"p:{line}"))
    return made


def worst(found: list[Broken], *texts: str) -> Worst:
    made = Worst()
    made.take("data/p", told(found, frame(*texts), lambda place: place.removeprefix("p")))
    return made


def test_rows_stand_by_severity_then_number_then_place() -> None:
    found = [
        *(broken("warn", line, name) for line in (4, 2) for name in "ab"),
        broken("fail", 5),
        broken("warn", 3),
        broken("quarantine", 6),
    ]
    rows = worst(found, *"abcdef").first()
    assert [row.place for row in rows] == [f"data/p:{line}" for line in (5, 6, 2, 4, 3)]
    assert [row.excerpt for row in rows] == ["e", "f", "b", "d", "c"]
    assert rows[2].reasons == [["warn", "a", "good", "bad"], ["warn", "b", "good", "bad"]]


def test_an_excerpt_is_short_and_shows_nothing_private() -> None:
    mail = "jane.roe" + "@" + "example.org"
    rows = worst([broken("warn", 1), broken("warn", 2)], f"{mail} wrote", "a text that goes on and on").first()
    assert [row.excerpt for row in rows] == ["<EMAIL> wrot…", "a text that …"]


def test_what_rows_have_wrong_beside_others_counts_too() -> None:
    made = worst([broken("warn", 1), broken("warn", 2)], "one", "two")
    made.add("warn", [Problem("data/p:2", "text", "not twice", "twice"), Problem("data/q:9", "text", "not twice", "x")])
    assert [(row.place, row.counts, row.excerpt) for row in made.first()] == [
        ("data/p:2", [0, 0, 2], "two"),
        ("data/p:1", [0, 0, 1], "one"),
        ("data/q:9", [0, 0, 1], ""),
    ]


def test_no_more_rows_are_kept_than_shown() -> None:
    found = [broken("warn", line) for line in range(1, 101)]
    kept = told(found, frame(*map(str, range(100))), str)
    assert [row["place"] for row in kept] == [f"p:{line}" for line in range(1, WORST_ROWS + 1)]
    made = Worst()
    made.add("warn", [one.problem for one in found])
    assert len(made.rows) == len(made.first()) == WORST_ROWS


def test_one_kind_does_not_fill_the_list() -> None:
    worst = Worst()
    same = [Problem(f"data/train/a.jsonl:{n}", "text", "a text of its own", "that of 1") for n in range(2, 40)]
    worst.add("warn", same)
    reasons = [["warn", "text", "a text without private data", "1 email"]]
    worst.take("data/train/b.jsonl", [{"place": ":7", "excerpt": "w", "counts": [0, 0, 1], "reasons": reasons}])
    found = [row.place for row in worst.first()]
    assert "data/train/b.jsonl:7" in found
    assert len(found) == 20
