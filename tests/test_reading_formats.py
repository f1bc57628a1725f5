"""JSON arrays, Arrow, plain text and packed files: the rows that JSONL has, and each way in which they can be wrong."""

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from graft.data import DataConfig, Record, data_digest, read_part
from graft.reading import Limits, Problem, Unit, file_of, format_of, has_bom, json_rows, order_of, read_rows, stem_of
from graft.tasks import Field

ROWS = [{"text": "a “b”\n", "n": 1, "more": [{"x": None}, True]}, {"text": 'ü]},{["\\', "n": 2.5, "more": []}]
QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"\\é', max_size=3), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(st.text("ab{}é", max_size=3), VALUES, max_size=4), min_size=1, max_size=5)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
    return path


def zstd(content: bytes) -> bytes:
    import pyarrow as pa

    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


PACK = {".gz": lambda content: gzip.compress(content, mtime=0), ".zst": zstd}


def read(path: Path, unit: Unit | None = None, **limits: int) -> list[Any]:
    return list(read_rows(path, path.parent, Limits(**limits), unit=unit))


def rows(path: Path, unit: Unit | None = None, **limits: int) -> list[dict[str, Any]]:
    found = read(path, unit, **limits)
    assert not [str(one) for one in found if isinstance(one, Problem)]
    return [one[1] for one in found]


def problems(path: Path, unit: Unit | None = None, **limits: int) -> list[str]:
    return [str(one) for one in read(path, unit, **limits) if isinstance(one, Problem)]


# -- JSON


def places(text: str, name: str) -> list[str]:
    """Return where the elements of an array start, found by the decoder of Python's json."""
    decoder, at, found, last = json.JSONDecoder(), text.index("[") + 1, [], 0
    while True:
        while text[at] in " \t\r\n,":
            at += 1
        if text[at] == "]":
            return found
        line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
        found.append(f"{name}:{line}" if line > last else f"{name}:{line}:{column}")
        last = line
        at = decoder.raw_decode(text, at)[1]


@QUICK
@given(values=OBJECTS, indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans(), chunk=st.integers(1, 40))
@example(values=ROWS, indent=None, ascii_only=False, chunk=1)
def test_any_array_gives_its_objects_where_they_start(
    tmp_path: Path, values: list[dict[str, Any]], indent: int | None, ascii_only: bool, chunk: int
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    path = write(tmp_path, "part.json", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "CHUNK_BYTES", chunk)
        found = read(path, max_depth=100)
    assert [one[1] for one in found] == values
    assert [one[0] for one in found] == places(text, "part.json")


@QUICK
@given(data=st.data(), values=OBJECTS)
def test_broken_arrays_are_named_and_whole_ones_are_not(
    tmp_path: Path, data: st.DataObject, values: list[dict[str, Any]]
) -> None:
    content = bytearray(json.dumps(values).encode())
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 1))] = data.draw(
            st.sampled_from([b"", *b'[]{},":\\ x1'.split()])
        )
    path = write(tmp_path, "part.json", bytes(content))
    try:
        plain = json.loads(bytes(content))
    except ValueError:
        plain = None
    found = read(path, max_depth=100)
    named = [one for one in found if isinstance(one, Problem)]
    if isinstance(plain, list) and all(isinstance(one, dict) for one in plain) and not named:
        assert [one[1] for one in found] == plain
    else:
        assert named


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            '[\n{"a": 1},\n{"a": NaN},\n{"a": 3}\n]',
            "part.json:3: expected JSON values (null where there is none), found NaN",
        ),
        ('[{"a": 1, "a": 2}]', "part.json:1: a: expected each key once, found the key 'a' twice"),
        ('[{"a": 1}, 7]', "part.json:1:12: expected a JSON object, found the integer 7"),
        (
            '[{"a": 1},\n {"a":\n }\n]',
            "part.json:2: expected a JSON object, found broken JSON at line 2 of the element, column 2",
        ),
        ('[{"a": 1},, {"b": 2}]', "part.json:1:11: expected a JSON object, found nothing: a comma too many"),
        ('[{"a": 1},]', "part.json:1:11: expected a JSON object, found nothing: a comma too many"),
        ('[{"a": 1}, {"a": ', "part.json:1: expected the end of the array, found the end of the file: it is cut off"),
        ('[{"a": 1}] {}', "part.json:1:12: expected nothing after the array, found '{'"),
        (
            '{"a": 1}\n{"a": 2}',
            "part.json:1: expected one array of objects, found an object; where each line is one, it is JSONL",
        ),
        ("7", "part.json:1: expected one array of objects, found '7' at the start"),
        (" \n", "part.json:2: expected one array of objects, found white space alone"),
        ("[]", "part.json: expected at least one row, found no rows"),
        ("", "part.json: expected at least one row, found an empty file"),
        ('[{"a": "\\ud83d"}]', "part.json:1: a: expected text that can be written as UTF-8"),
        ('[{"a": "\\u0000"}]', "part.json:1: a: expected text without NUL"),
        ('[{"a": "caf\udce9"}]', "part.json:1: expected UTF-8, found the byte 0xe9 at byte 11 of the element"),
        ("[" + "[" * 100_000 + "]" * 100_000 + "]", "part.json:1: expected JSON nested at most 16 deep"),
    ],
)
def test_bad_array_is_a_problem_at_its_element(tmp_path: Path, content: str, expected: str) -> None:
    found = problems(write(tmp_path, "part.json", content))
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_a_broken_element_does_not_hide_the_others(tmp_path: Path) -> None:
    found = read(write(tmp_path, "part.json", '[{"a": 1},\n{"a": },\n{"a": 3},\n{"a" 4},\n{"a": 5}]'))
    assert [one[1] for one in found if not isinstance(one, Problem)] == [{"a": 1}, {"a": 3}, {"a": 5}]
    assert [one.place for one in found if isinstance(one, Problem)] == ["part.json:2", "part.json:4"]


def test_long_element_is_named_and_an_array_is_not_held_in_memory(tmp_path: Path) -> None:
    small = b'{"text": "' + b"y" * 1000 + b'"},\n'
    path = write(tmp_path, "part.json", b"[" + small * 8000 + b'{"text": "' + b"x" * (1 << 23) + b'"},\n{"text": "z"}]')
    tracemalloc.start()
    last: list[Any] = []
    for found in read_rows(path, tmp_path, Limits(max_line_bytes=4096)):
        last = [*last[-1:], found]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(last[0]) == (
        "part.json:8001: expected an element of at most 4096 bytes (data.max_line_bytes), found a longer one"
    )
    assert last[1] == ("part.json:8002", {"text": "z"})
    assert peak < 1 << 20


def test_places_sort_by_line_then_column() -> None:
    found = ["a:b.json:10", "a:b.json:9:57", "a:b.json:9:6", "a:b.json"]
    assert sorted(found, key=order_of) == found[::-1]
    assert {file_of(place) for place in found} == {"a:b.json"}


# -- Arrow


@pytest.mark.parametrize("form", ["file", "stream", "packed file"])
def test_arrow_rows_come_through(tmp_path: Path, form: str) -> None:
    import pyarrow as pa

    wanted = [{"text": f"text {number}", "tags": ["a", None], "n": number} for number in range(2500)]
    table, path = pa.Table.from_pylist(wanted), tmp_path / "part.arrow"
    options = pa.ipc.IpcWriteOptions(compression="zstd" if form == "packed file" else None)
    make = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
    with make(str(path), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=1100)
    found = read(path)
    assert [one[1] for one in found] == wanted
    assert (found[0][0], found[-1][0]) == ("part.arrow:1", "part.arrow:2500")


def test_arrow_problems_have_the_row_number(tmp_path: Path) -> None:
    import pyarrow as pa

    column = pa.array([b"good", b"caf\xe9", b"nul\0"]).view(pa.string())
    with pa.ipc.new_stream(str(tmp_path / "part.arrow"), pa.schema([("text", pa.string())])) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([column], ["text"]))
    first, second = problems(tmp_path / "part.arrow")
    assert first.startswith("part.arrow:2: text: expected UTF-8, found the byte 0xe9 at byte 4 of the value")
    assert second.startswith("part.arrow:3: text: expected text without NUL")


def test_a_date_that_python_lacks_is_a_problem(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"at": pa.array([0, 1 << 45], pa.timestamp("s"))})
    with pa.ipc.new_file(str(tmp_path / "part.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert "part.arrow" in problems(tmp_path / "part.arrow")[0]


@QUICK
@given(data=st.data(), stream=st.booleans())
def test_damaged_arrow_is_rows_or_problems_never_a_crash(tmp_path: Path, data: st.DataObject, stream: bool) -> None:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    table = pa.table({"text": ["one", "two", "three"], "tags": [["a"], [], ["b", "c"]]})
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    content = bytearray(sink.getvalue().to_pybytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    found = read(write(tmp_path, "part.arrow", bytes(content[:cut])))
    assert found
    assert all(isinstance(one, Problem) or json.dumps(one[1]).encode() for one in found)


# -- plain text


TEXT = "one\r\n two \n\n \t\nthree\nfour"


@pytest.mark.parametrize(
    ("unit", "wanted"),
    [
        ("line", [(1, "one"), (2, " two "), (5, "three"), (6, "four")]),
        ("paragraph", [(1, "one\r\n two "), (5, "three\nfour")]),
        ("file", [(1, TEXT)]),
    ],
)
def test_plain_text_has_the_rows_that_are_asked_for(tmp_path: Path, unit: Unit, wanted: list[tuple[int, str]]) -> None:
    path = write(tmp_path, "a.txt", TEXT + "\n")
    assert read(path, unit) == [(f"a.txt:{line}", {"text": text}) for line, text in wanted]


def test_plain_text_is_read_by_nobody_who_does_not_say_what_a_row_is(tmp_path: Path) -> None:
    assert "found a file of type .txt" in problems(write(tmp_path, "a.txt", TEXT))[0]


@pytest.mark.parametrize(
    ("unit", "content", "expected"),
    [
        ("line", "a\n" + "b" * 99 + "\nc\n", ["a.txt:2: expected a line of at most 64 bytes (data.max_line_bytes)"]),
        ("paragraph", "a\n\n" + ("b" * 40 + "\n") * 3 + "\nc\n", ["a.txt:3: expected a paragraph of at most 64 bytes"]),
        ("file", ("b" * 40 + "\n") * 3, ["a.txt:1: expected a file of at most 64 bytes"]),
        ("file", "\n \n", ["a.txt: expected at least one row, found no rows"]),
        (
            "paragraph",
            "a\ncaf\udce9\n\nb\n",
            ["a.txt:1: expected UTF-8, found the byte 0xe9 at byte 6 of the paragraph"],
        ),
        ("line", "a\nb\0\n", ["a.txt:2: expected text without NUL"]),
    ],
)
def test_bad_text_is_a_problem_at_its_first_line(tmp_path: Path, unit: Unit, content: str, expected: list[str]) -> None:
    found = problems(write(tmp_path, "a.txt", content), unit, max_line_bytes=64)
    assert len(found) == len(expected)
    assert all(one.startswith(start) for one, start in zip(found, expected, strict=True)), found


# -- gzip and zstd


CONTENTS = {
    ".jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
    ".json": json.dumps(ROWS, indent=1),
    ".csv": 'text,n\n"a\nb",1\nc,2\n',
    ".tsv": "text\tn\na\t1\nc\t2\n",
}


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("kind", CONTENTS)
def test_packed_files_have_the_rows_and_lines_of_plain_ones(tmp_path: Path, kind: str, packing: str) -> None:
    plain = read(write(tmp_path, f"part{kind}", CONTENTS[kind]))
    packed = read(write(tmp_path, f"part{kind}{packing}", PACK[packing](CONTENTS[kind].encode())))
    assert [(place.replace(packing, ""), row) for place, row in packed] == plain


@pytest.mark.parametrize("packing", PACK)
def test_packed_members_one_after_the_other_are_one_file(tmp_path: Path, packing: str) -> None:
    halves = [PACK[packing](f'{{"n": {number}}}\n'.encode()) for number in range(2)]
    assert rows(write(tmp_path, f"part.jsonl{packing}", b"".join(halves))) == [{"n": 0}, {"n": 1}]


@pytest.mark.parametrize("packing", PACK)
def test_damaged_packings_are_problems_at_their_file(tmp_path: Path, packing: str) -> None:
    content = PACK[packing]("".join(f'{{"n": "{number * 7919}"}}\n' for number in range(5000)).encode())
    kind = {".gz": "gzip", ".zst": "zstd"}[packing]
    cut = problems(write(tmp_path, f"part.jsonl{packing}", content[:-9]))
    assert cut == [f"part.jsonl{packing}: expected a whole {kind} file, found one that is cut off"]
    place = len(content) // 2 if kind == "gzip" else 0  # zstd's checksum is an option; its frames have a mark
    changed = content[:place] + b"\xff\xff\xff\xff" + content[place + 4 :]
    assert f"part.jsonl{packing}: " in problems(write(tmp_path, f"part.jsonl{packing}", changed))[-1]
    garbage = problems(write(tmp_path, f"part.jsonl{packing}", content + b"garbage, and more of it"))
    assert garbage[0].startswith(f"part.jsonl{packing}: expected a {kind} file, found one that cannot be unpacked")
    plain = problems(write(tmp_path, f"part.jsonl{packing}", b'{"n": 1}\n'))
    assert plain[0].startswith(f"part.jsonl{packing}: expected a {kind} file, found one that cannot be unpacked")


@QUICK
@given(
    content=st.binary(max_size=120),
    name=st.sampled_from(["a.jsonl.gz", "a.json.zst", "a.csv.gz", "a.tsv.zst", "a.json"]),
)
def test_any_bytes_are_rows_or_problems(tmp_path: Path, content: bytes, name: str) -> None:
    found = read(write(tmp_path, name, content))
    assert found
    assert all(isinstance(one, Problem) or json.dumps(one[1]).encode() for one in found)


def test_bombs_are_refused_while_they_are_read(tmp_path: Path) -> None:
    import pyarrow as pa

    path = tmp_path / "part.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        for _ in range(1 << 10):
            file.write(b" " * (1 << 20))
    assert path.stat().st_size < 1 << 18
    tracemalloc.start()
    found = problems(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [
        f"part.jsonl.zst: expected at most 1000 times its {path.stat().st_size} bytes unpacked "
        "(data.max_unpacked_ratio), found more: a decompression bomb?"
    ]
    assert peak < 1 << 22
    small = write(tmp_path, "part.jsonl.gz", PACK[".gz"](b'{"n": 1}\n' * 1000))
    assert problems(small, max_unpacked_bytes=5000) == [
        "part.jsonl.gz: expected at most 5000 bytes unpacked (data.max_unpacked_bytes), found more; split the file"
    ]
    assert len(rows(small)) == 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PACK[".gz"](b"{}"), "found a gzip file; name it part.jsonl.gz, or unpack it"),
        (PACK[".zst"](b"{}"), "found a zstd file; name it part.jsonl.zst, or unpack it"),
        (b"ARROW1\0\0", "found an Arrow file; name it .arrow"),
    ],
)
def test_file_that_is_something_else_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    assert message in problems(write(tmp_path, "part.jsonl", content))[0]


def test_names_say_format_and_packing(tmp_path: Path) -> None:
    names = {"a.csv": ".csv", "a.b.csv.gz": ".csv", "a.json.zst": ".json", "a.parquet.gz": ".gz", "a.gz": ".gz"}
    assert {name: format_of(Path(name)) for name in names} == names
    assert [stem_of(Path(name)) for name in names] == ["a", "a.b", "a", "a.parquet", "a"]
    packed = write(tmp_path, "a.jsonl.gz", PACK[".gz"](b"\xef\xbb\xbf" + CONTENTS[".jsonl"].encode()))
    assert has_bom(packed)
    assert rows(packed) == ROWS
    assert not has_bom(write(tmp_path, "b.jsonl.gz", b"no gzip"))


def test_packed_parts_are_parts(tmp_path: Path) -> None:
    """Part files in data/ may be packed: typed as plain ones are, and part of the data's digest."""
    data = tmp_path / "data"
    for split in ("train", "validation", "test"):
        (data / split).mkdir(parents=True)
        write(data / split, "a.csv.gz", PACK[".gz"](b"text,score\nhello,1.5\n"))
        write(data / split, "b.json", '[{"text": "x", "score": 2}]')
    fields = (Field("text", "string", text=True), Field("score", "number"))
    found = [
        one
        for name in ("a.csv.gz", "b.json")
        for one in read_part(data / "train" / name, tmp_path, fields, DataConfig())
    ]
    assert [(one.place, one.row) for one in found if isinstance(one, Record)] == [
        ("data/train/a.csv.gz:2", {"text": "hello", "score": 1.5}),
        ("data/train/b.json:1", {"text": "x", "score": 2}),
    ]
    before = data_digest(data)
    write(data / "test", "a.csv.gz", PACK[".gz"](b"text,score\nhello,2.5\n"))
    assert data_digest(data) != before
