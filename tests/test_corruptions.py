"""Corruptions: each kind spoils what it says and nothing else, the same way each time; answers are judged by line."""

import json
from pathlib import Path

import pytest

from benchmarks.clean_rows import MAKERS, SIZES, clean_rows
from benchmarks.corruptions import KINDS, PART, TEXTS, Case, Kind, Part, applied, case_of, joined, lines_of
from benchmarks.dirty_data import Answer, measured, outcome
from graft import tasks
from graft.damage import damage
from graft.data import DataConfig, Record, read_part
from graft.languages import UNKNOWN, languages

MEASURED = {
    "UTF-8 read as cp1252": "mojibake",
    "Chinese UTF-8 read as GBK": "mojibake",
    "GBK read as Latin-1": "mojibake",
    "double encoding": "mojibake",
    "replacement characters": "replacement characters",
    "control character": "control characters",
    "private use character": "private use characters",
    "noncharacter": "noncharacters",
    "direction override": "direction overrides",
    "byte order mark in a text": "byte order marks",
    "JSON escapes encoded twice": "escape sequences",
    "HTML tags": "HTML",
    "HTML references without ampersand": "broken references",
    "script": "style and script",
    "another language": "language fi",
}


def made(kind: Kind, task: str, seed: int, folder: Path) -> tuple[Case, Part, dict[str, bytes]]:
    case, part = applied(kind, task, seed, folder)
    return case, part, {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def test_there_are_many_kinds_in_all_groups() -> None:
    assert len(KINDS) >= 150
    groups = {"encoding", "file", "values", "duplicates", "structure", "pictures", "splits"}
    assert {kind.group for kind in KINDS.values()} == groups
    assert all(kind.tasks and set(kind.tasks) <= set(MAKERS) for kind in KINDS.values())
    assert set(MAKERS) <= set(tasks.names())


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_spoils_the_lines_it_names_and_no_others(kind: Kind, tmp_path: Path) -> None:
    for task in dict.fromkeys((kind.tasks[0], kind.tasks[-1])):
        case, part, files = made(kind, task, 1, tmp_path / task)
        assert files == made(kind, task, 1, tmp_path / f"{task} again")[2]
        assert files[f"{case.split}/{PART}"] == part.content
        clean = case_of(task, 1)
        before = lines_of(clean.rows if case.split == "test" else clean.splits[case.split])
        assert part.content != joined(before) or case.files != clean.files
        lines = part.content.split(b"\n")
        assert all(1 <= line <= len(lines) for line in part.lines)
        assert part.lines or part.whole
        if not part.whole:
            left = [line for number, line in enumerate(lines, start=1) if number not in part.lines and line]
            # A row may be parted over two lines, of which the second is then whole again.
            assert set(left) <= set(before)
            assert len(left) >= len(before) - len(part.lines)


@pytest.mark.parametrize("task", MAKERS)
def test_clean_rows_are_what_the_task_reads_and_undamaged(task: str, tmp_path: Path) -> None:
    kind = KINDS["id twice"]
    case, _, _ = made(kind, task, 2, tmp_path / "data")
    one, config = tasks.get(task), tasks.config_class(task)()
    found = list(read_part(tmp_path / "data" / "train" / PART, tmp_path, one.fields_of(config), DataConfig()))
    assert len(found) == SIZES["train"]
    assert all(isinstance(record, Record) for record in found)
    state = one.learn(config, (record.row for record in found if isinstance(record, Record)))
    assert [list(one.check_row(config, row.row, state)) for row in found if isinstance(row, Record)] == [[]] * len(
        found
    )
    texts = [json.dumps(row, ensure_ascii=False) for rows in case.splits.values() for row in rows]
    assert len(set(texts)) == sum(SIZES.values())
    assert not any(count for text in texts for count in damage(text).values())


@pytest.mark.parametrize(("name", "measure"), MEASURED.items())
@pytest.mark.parametrize("task", ["text_classification", "chat"])
def test_damage_is_measured_where_it_was_done(name: str, measure: str, task: str, tmp_path: Path) -> None:
    case, part, _ = made(KINDS[name], task, 3, tmp_path)
    assert measure in measured(case, part).split(", ")


def test_made_up_sentences_are_in_their_language() -> None:
    for task, expected in {"text_classification": "en", "translation": "de"}.items():
        texts = [row[TEXTS[task]] for row in clean_rows(task, 0)["train"]]
        assert {language for language, _ in languages(texts)} - {UNKNOWN} == {expected}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer((f"data/test/{PART}:3",), ()), "caught"),
        (Answer((f"data/test/{PART}:3", f"data/test/{PART}:4"), ()), "caught, and more"),
        (Answer((f"data/test/{PART}:4",), ()), "elsewhere"),
        (Answer((f"data/train/{PART}:3",), ()), "elsewhere"),
        (Answer((), ("old",)), "missed"),
        (Answer((), ("old", "something")), "warned, no line"),
        (Answer((), ("old", f"a row (test/{PART}:3)")), "warned"),
        (Answer((), ("old", f"a row (test/{PART}:33)")), "warned, no line"),
        (Answer((), (), crashed=True), "crashed"),
    ],
)
def test_an_answer_is_worth_what_its_line_is(answer: Answer, expected: str) -> None:
    case = case_of("text_classification", 0)
    assert outcome(answer, Answer((), ("old",)), case, Part(b"", (3,))) == expected
