"""The file reader: each way in which a file can be wrong, at its line; and that good text comes through unchanged."""

import csv
import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft.data import DataConfig, read_part
from graft.reading import Limits, Problem, describe, has_bom, names_of, read_rows
from graft.tasks import Field

GOOD = '{"text": "a", "label": "x"}'
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, **limits: int) -> list[Any]:
    return list(read_rows(path, path.parent, Limits(**limits)))


def problems(path: Path, **limits: int) -> list[str]:
    return [str(found) for found in read(path, **limits) if isinstance(found, Problem)]


def rows(path: Path, **limits: int) -> list[dict[str, Any]]:
    return [found[1] for found in read(path, **limits) if not isinstance(found, Problem)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a", "label": }', "broken JSON at column 24"),
        ("", "found an empty line; remove it"),
        ("[1, 2]", "expected one JSON object per line, found a list: [1, 2]"),
        ('{"text": NaN, "label": "x"}', "expected JSON values (null where there is none), found NaN"),
        ('{"text": "a", "score": -Infinity}', "found -Infinity"),
        ('{"text": "a", "score": 1e999}', "expected finite numbers, found '1e999'"),
        ('{"text": "a", "text": "b"}', "text: expected each key once, found the key 'text' twice"),
        ('{"a": {"b": 1, "b": 2}}', "b: expected each key once"),
        (
            '{"text": "\\ud83d", "label": "x"}',
            "text: expected text that can be written as UTF-8, found a lone surrogate",
        ),
        ('{"a": [{"b": "\\u0000"}]}', "a[0].b: expected text without NUL"),
        ('{"text": "a\0b"}', "expected text without NUL, found a NUL at column 12"),
        ('{"a": ' + "9" * 5000 + "}", "expected JSON that can be read"),
        (
            '{"text": "caf' + "\udce9" + '"}',
            "expected UTF-8, found the byte 0xe9 at byte 14 of the line; save it as UTF-8",
        ),
    ],
)
def test_bad_json_line_is_a_problem_at_its_line_and_the_others_are_read(
    tmp_path: Path, line: str, message: str
) -> None:
    lines = [GOOD] * 9
    lines[6] = line
    content = "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n"
    path = write(tmp_path, "part.jsonl", content)
    assert len(rows(path)) == 8
    (found,) = problems(path)
    assert found.startswith("part.jsonl:7: ")
    assert message in found


def test_deep_nesting_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = write(tmp_path, "part.jsonl", GOOD + '\n{"a": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    assert problems(path) == [
        "part.jsonl:2: expected JSON nested at most 16 deep (data.max_depth), found deeper nesting"
    ]


def test_depth_counts_brackets_outside_strings_only(tmp_path: Path) -> None:
    path = write(tmp_path, "part.jsonl", json.dumps({"text": '[[[[{{{"\\[[[[[', "more": [[1]]}) + "\n")
    assert problems(path, max_depth=3) == []
    assert len(problems(path, max_depth=2)) == 1


def test_long_line_is_named_and_not_held_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path, "part.jsonl", b"\n".join([GOOD.encode(), b'{"text": "' + b"x" * (1 << 24), GOOD.encode()]))
    tracemalloc.start()
    found = read(path, max_line_bytes=1 << 12)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [str(one) for one in found if isinstance(one, Problem)] == [
        "part.jsonl:2: expected a line of at most 4096 bytes (data.max_line_bytes), found a longer one"
    ]
    assert len(found) == 3
    assert peak < 1 << 20


def test_line_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    line = json.dumps({"text": "x" * 87})
    assert len(line) == 99
    for ending in ("\n", "\r\n", ""):
        assert len(rows(write(tmp_path, "part.jsonl", line + ending), max_line_bytes=99)) == 1
        assert len(problems(write(tmp_path, "part.jsonl", line + " " + ending), max_line_bytes=99)) == 1


@pytest.mark.parametrize("name", ["part.jsonl", "part.csv", "part.tsv"])
def test_empty_file_is_a_problem(tmp_path: Path, name: str) -> None:
    assert problems(write(tmp_path, name, "")) == [f"{name}: expected at least one row, found an empty file"]


def test_table_with_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert problems(write(tmp_path, "part.csv", "text,label\n")) == [
        "part.csv: expected at least one row, found no rows"
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(GOOD.encode(), mtime=0), "found a gzip file; name it part.jsonl.gz, or unpack it"),
        (GOOD.encode("utf-16"), "found UTF-16; save it as UTF-8"),
        (b"PK\x03\x04rest", "found a zip archive or spreadsheet"),
    ],
)
def test_file_that_is_something_else_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (found,) = problems(write(tmp_path, "part.jsonl", content))
    assert message in found


@pytest.mark.parametrize(("name", "content"), [("part.jsonl", GOOD), ("part.csv", "text,label\na,x\n")])
def test_byte_order_mark_is_skipped_and_can_be_noted(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path, name, b"\xef\xbb\xbf" + content.encode())
    assert rows(path) == [{"text": "a", "label": "x"}]
    assert has_bom(path)


def test_unknown_file_type_is_a_problem(tmp_path: Path) -> None:
    assert (
        "expected one of .jsonl, .json, .csv, .tsv (also with .gz or .zst), .parquet, .arrow, found a file of type .xml"
        in problems(write(tmp_path, "part.xml", "<rows/>"))[0]
    )


def test_csv_record_over_several_lines_has_the_number_of_its_first(tmp_path: Path) -> None:
    path = write(tmp_path, "part.csv", 'text,label\r\n"one\r\ntwo",x\r\nb,y\r\n')
    assert read(path) == [
        ("part.csv:2", {"text": "one\r\ntwo", "label": "x"}),
        ("part.csv:4", {"text": "b", "label": "y"}),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text,label\na,x\nb\nc,z\n", ["part.csv:3: expected 2 columns as in the header, found 1"]),
        (
            "text,label\na,x\n\nc,z\n",
            ["part.csv:3: expected 2 columns as in the header, found an empty line; remove it"],
        ),
        ("text,text\na,x\n", ["part.csv:1: expected a header with distinct columns, found 'text' twice"]),
        (
            "text;label\na, b;x\n",
            ["part.csv:1: expected columns that are separated by commas, found 'text;label', which has semicolons"],
        ),
        (
            "text\tlabel\na\tx\n",
            ["part.csv:1: expected columns that are separated by commas, found 'text\\tlabel', which has tabs"],
        ),
        ('text,label\n"a" b,x\nc,z\n', ["part.csv:2: expected well-formed CSV, found ',' expected after '\"'"]),
        ('text,label\nc,z\n"a,x\nc,z\n', ["part.csv:4: expected well-formed CSV, found unexpected end of data"]),
        ("text,label\na,x\n\udce9,y\nc,z\n", ["part.csv:3: expected UTF-8, found the byte 0xe9 at byte 1"]),
        ('text,label\n"a\n\udce9",y\nc,z\n', ["part.csv:3: expected UTF-8, found the byte 0xe9 at byte 1"]),
        ("text,label\na\0,x\nc,z\n", ["part.csv:2: expected text without NUL"]),
        ("text,label\n" + "y" * 200 + ",x\n", ["part.csv:2: expected a line of at most 128 bytes"]),
        ('text,label\n"' + ("y" * 60 + "\n") * 4 + '",x\n', ["part.csv:2: text: expected at most 128 bytes"]),
    ],
)
def test_bad_csv_is_a_problem_at_its_line(tmp_path: Path, content: str, expected: list[str]) -> None:
    path = write(tmp_path, "part.csv", content.encode("utf-8", "surrogateescape"))
    found = problems(path, max_line_bytes=128)
    assert len(found) == len(expected)
    assert all(one.startswith(start) for one, start in zip(found, expected, strict=True)), found


def test_tsv_has_no_quoting(tmp_path: Path) -> None:
    path = write(tmp_path, "part.tsv", 'text\tlabel\n"Hi," she said\tx\n"quoted"\ty\n')
    assert rows(path) == [{"text": '"Hi," she said', "label": "x"}]
    assert problems(path)[0].startswith("part.tsv:3: text: expected a cell without quoting")


@QUICK
@given(values=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_any_text_survives_jsonl_and_csv(tmp_path: Path, values: list[tuple[str, str]]) -> None:
    wanted = [{"text": text, "label": label} for text, label in values]
    lines = write(tmp_path, "part.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in wanted))
    assert rows(lines) == wanted
    table = tmp_path / "part.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["text", "label"])
        writer.writerows(values)
    assert rows(table) == wanted


@QUICK
@given(values=st.lists(TEXTS, min_size=1, max_size=5))
def test_any_text_survives_parquet(tmp_path: Path, values: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": values}), tmp_path / "part.parquet")
    assert [row["text"] for row in rows(tmp_path / "part.parquet")] == values


@QUICK
@given(content=st.binary(max_size=200), name=st.sampled_from(["part.jsonl", "part.csv", "part.tsv", "part.parquet"]))
def test_any_bytes_are_rows_or_problems_never_a_crash(tmp_path: Path, content: bytes, name: str) -> None:
    found = read(write(tmp_path, name, content))
    assert found
    assert all(isinstance(one, Problem) or json.dumps(one[1]).encode() for one in found)


def test_parquet_problems_have_the_row_number(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.array([b"good", b"caf\xe9", b"nul\0"]).view(pa.string())
    pq.write_table(pa.table({"text": column, "n": [1, 2, 3]}), tmp_path / "part.parquet")
    assert rows(tmp_path / "part.parquet") == [{"text": "good", "n": 1}]
    first, second = problems(tmp_path / "part.parquet")
    assert first.startswith("part.parquet:2: text: expected UTF-8, found the byte 0xe9 at byte 4 of the value")
    assert second.startswith("part.parquet:3: text: expected text without NUL")


def test_parquet_that_is_broken_or_repeats_a_column_is_a_problem(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (found,) = problems(write(tmp_path, "part.parquet", GOOD))
    assert "part.parquet: expected a Parquet file, found one that cannot be read" in found
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "part.parquet")
    assert "expected a header with distinct columns, found 'text' twice" in problems(tmp_path / "part.parquet")[0]


@pytest.mark.parametrize(
    "value",
    [
        "ann" + "@example.org",
        "x" * 70 + " ann" + "@example.org",  # cut in the middle of the address
        ["ann" + "@example.org"],
        {"to": ["ann" + "@example.org"]},
        {"ann" + "@example.org": 1},
    ],
)
def test_no_message_about_a_value_shows_private_data(value: Any) -> None:
    told = describe(value)
    assert "ann" not in told
    assert "<EMAIL" in told


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("part.jsonl", '{"ANN": 1, "ANN": 2}\n'),
        ("part.jsonl", '{"ANN": "\\ud800"}\n'),
        ("part.csv", "ANN,ANN\na,b\n"),
        ("part.jsonl", '{"text": 4111111111111111, "label": "x"}\n'),
        ("part.csv", "ANN,4111111111111111\nbob,2\n"),  # no header
    ],
)
def test_no_message_about_a_row_shows_a_private_key_number_or_header(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content.replace("ANN", "ann" + "@example.org"))
    fields = (Field("text", "string", text=True), Field("label", "label", target=True))
    told = " ".join(str(one) for one in read_part(path, tmp_path, fields, DataConfig()) if isinstance(one, Problem))
    assert "ann@" not in told
    assert "4111" not in told
    assert "<EMAIL" in told or "<CARD" in told


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.csv", "b.jsonl.gz", "c.d.jsonl"], ["a", "b", "c.d"]),
        (["a.csv", "a.jsonl", "b.csv"], ["a.csv", "a.jsonl", "b"]),
        (["a.csv", "a.jsonl", "a.csv.jsonl", "b.csv"], ["a.csv", "a.jsonl", "a.csv.jsonl", "b.csv"]),
    ],
)
def test_results_of_parts_are_called_like_them_and_no_two_the_same(names: list[str], expected: list[str]) -> None:
    assert list(names_of([Path(name) for name in names]).values()) == expected
