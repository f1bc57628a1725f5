"""Configuration: every problem of a file is reported, at its line, with its dotted path and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Discriminator, Field

from graft.config import Section, known_keys, line_of, read_yaml, validate
from graft.errors import ConfigError


class Circle(Section):
    shape: Literal["circle"] = "circle"
    radius: float = Field(default=1.0, gt=0)


class Square(Section):
    shape: Literal["square"] = "square"
    side: float


class Drawing(Section):
    shape: Annotated[Circle | Square, Discriminator("shape")] = Circle()
    more: list[Circle] = Field(default=[])
    named: dict[str, Square] = Field(default={})
    width: int = 1
    ratio: float | None = None
    colour: int | Literal["auto"] = "auto"
    title: str = ""
    filled: bool = False
    corners: tuple[str, ...] = ()


class Page(Section):
    """A page."""

    drawing: Drawing = Drawing()
    dpi: int = Field(default=300, ge=1)
    """Dots per inch."""


def load(tmp_path: Path, text: str | bytes) -> Page:
    path = tmp_path / "page.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    raw, lines = read_yaml(path)
    return validate(Page, raw, source="page.yaml", lines=lines)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError, match=r"page\.yaml") as caught:
        load(tmp_path, text)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def test_good_file_gives_frozen_values(tmp_path: Path) -> None:
    page = load(tmp_path, "drawing:\n  shape: {shape: square, side: 2}\n  width: 3\ndpi: 72\n")
    assert isinstance(page.drawing.shape, Square)
    assert (page.drawing.shape.side, page.drawing.width, page.dpi) == (2.0, 3, 72)
    with pytest.raises(ValueError, match="frozen"):
        page.dpi = 1  # type: ignore[misc]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "null\n"])
def test_empty_file_gives_defaults(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == Page()


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    assert load(tmp_path, b"\xef\xbb\xbfdpi: 72\n").dpi == 72


def test_unknown_key_names_line_path_and_nearest(tmp_path: Path) -> None:
    text = "dpi: 72\ndrawing:\n  width: 1\n  widht: 2\n"
    assert problems(tmp_path, text) == [
        "page.yaml:4: drawing.widht: unknown key; did you mean `drawing.width`?",
    ]


def test_key_of_another_section_is_pointed_to(tmp_path: Path) -> None:
    assert problems(tmp_path, "corners: [a]\n") == [
        "page.yaml:1: corners: unknown key; did you mean `drawing.corners`?",
    ]


class Shop(Section):
    class Bakery(Section):
        prices: int = 1

    class Florist(Section):
        price: int = 1

    bakery: Bakery = Bakery()
    florist: Florist = Florist()


def test_near_miss_in_the_section_comes_before_another_section() -> None:
    with pytest.raises(ConfigError, match=r"bakery\.price: unknown key; did you mean `bakery\.prices`"):
        validate(Shop, {"bakery": {"price": 2}}, source="shop.yaml")


def test_unknown_key_without_a_near_one_points_to_the_schema(tmp_path: Path) -> None:
    assert problems(tmp_path, "zzz: 1\n") == ["page.yaml:1: zzz: unknown key; `graft schema` lists the keys"]


def test_unknown_key_in_list_item_and_mapping_value(tmp_path: Path) -> None:
    text = "drawing:\n  more:\n    - radius: 1\n    - radus: 2\n  named:\n    first:\n      side: 1\n      sied: 2\n"
    assert problems(tmp_path, text) == [
        "page.yaml:4: drawing.more.1.radus: unknown key; did you mean `drawing.more.1.radius`?",
        "page.yaml:8: drawing.named.first.sied: unknown key; did you mean `drawing.named.first.side`?",
    ]


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    text = "dpi: 0\ndrawing:\n  width: wide\n  ratio: .nan\n  more: [{radius: -1}]\n  named: {a: }\nextra: 1\n"
    found = problems(tmp_path, text)
    assert sorted(tuple(one.split(": ")[:2]) for one in found) == [
        ("page.yaml:1", "dpi"),
        ("page.yaml:3", "drawing.width"),
        ("page.yaml:4", "drawing.ratio"),
        ("page.yaml:5", "drawing.more.0.radius"),
        ("page.yaml:6", "drawing.named.a"),
        ("page.yaml:7", "extra"),
    ]
    assert any("greater than or equal to 1 (got 0)" in one for one in found)
    assert any("finite number (got nan)" in one for one in found)


def test_union_member_problem_has_no_tag_in_its_path(tmp_path: Path) -> None:
    assert problems(tmp_path, "drawing:\n  shape:\n    shape: square\n") == [
        "page.yaml:2: drawing.shape.side: required, but not given",
    ]
    assert problems(tmp_path, "drawing:\n  shape:\n    shape: circle\n    radius: 0\n") == [
        "page.yaml:4: drawing.shape.radius: must be greater than 0 (got 0)",
    ]


def test_unknown_union_tag_names_the_known_ones(tmp_path: Path) -> None:
    assert problems(tmp_path, "drawing:\n  shape:\n    shape: sqare\n") == [
        "page.yaml:3: drawing.shape.shape: must be one of circle, square; did you mean `square`? (got 'sqare')",
    ]


def test_missing_union_tag_is_a_missing_key(tmp_path: Path) -> None:
    assert problems(tmp_path, "drawing:\n  shape: {side: 1}\n") == [
        "page.yaml:2: drawing.shape.shape: required, but not given",
    ]


def test_plain_union_gives_one_problem_for_the_key(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "drawing:\n  colour: red\n")
    assert found.startswith("page.yaml:2: drawing.colour: must be a valid integer")
    assert found.endswith("or must be 'auto' (got 'red')")


@pytest.mark.parametrize("key", ["width", "ratio"])
def test_truth_value_is_no_number(tmp_path: Path, key: str) -> None:
    (found,) = problems(tmp_path, f"drawing:\n  {key}: yes\n")
    assert found.startswith(f"page.yaml:2: drawing.{key}: must be a valid ")
    assert found.endswith("(got True)")


def test_truth_value_stays_one_where_it_belongs(tmp_path: Path) -> None:
    assert load(tmp_path, "drawing: {filled: yes}\n").drawing.filled is True


@pytest.mark.parametrize("value", ["no", "12", "1.5", "2024-01-31"])
def test_text_that_yaml_reads_as_something_else_asks_for_quotes(tmp_path: Path, value: str) -> None:
    (found,) = problems(tmp_path, f"drawing:\n  title: {value}\n")
    assert "drawing.title: must be text: YAML reads this value as something else, so put it in quotes" in found
    assert load(tmp_path, f"drawing:\n  title: '{value}'\n").drawing.title == value


def test_scalar_for_a_section_and_list_for_a_mapping(tmp_path: Path) -> None:
    assert problems(tmp_path, "drawing: 3\n") == ["page.yaml:1: drawing: must be a mapping of keys (got 3)"]
    assert problems(tmp_path, "drawing: {corners: a}\n")[0].startswith("page.yaml:1: drawing.corners: must be a valid ")


def test_exponent_without_point_is_a_number(tmp_path: Path) -> None:
    assert load(tmp_path, "drawing: {ratio: 1e-3}\n").drawing.ratio == 0.001


def test_repeated_keys_are_refused_at_every_depth(tmp_path: Path) -> None:
    text = "dpi: 1\ndrawing:\n  more:\n    - radius: 1\n      radius: 2\ndpi: 2\n"
    assert problems(tmp_path, text) == [
        f"{tmp_path}/page.yaml:5: drawing.more.0.radius: key given twice",
        f"{tmp_path}/page.yaml:6: dpi: key given twice",
    ]


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    page = load(tmp_path, "drawing:\n  more:\n    - &one {radius: 4}\n    - *one\n    - {<<: *one, radius: 5}\n")
    assert [one.radius for one in page.drawing.more] == [4, 4, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dpi: [1\n", r"page\.yaml:2: not valid YAML"),
        ("dpi: 1\n\tdrawing: 2\n", r"page\.yaml:2: not valid YAML"),
        ("- 1\n- 2\n", r"page\.yaml:1: must be a mapping"),
        ("just text\n", r"page\.yaml:1: must be a mapping"),
        ("dpi: 1\n---\ndpi: 2\n", r"page\.yaml:2: not valid YAML: but found another document"),
        ("dpi: !!python/object/apply:os.system ['true']\n", r"page\.yaml:1: not valid YAML: could not determine"),
        ("? [a, b]\n: 1\n", r"page\.yaml:1: not valid YAML: found unhashable key"),
        ("dpi: 2024-13-45\n", r"page\.yaml: not valid YAML: month must be in 1\.\.12; quote"),
        ("dpi: \x01\n", r"page\.yaml: not valid YAML: unacceptable character #x0001"),
        ("dpi: *nobody\n", r"page\.yaml:1: not valid YAML: found undefined alias"),
        ("dpi: " + "[" * 5000 + "]" * 5000, r"page\.yaml: nested too deeply"),
        ("1: 2\n", r"page\.yaml:1: 1: keys should be strings"),
    ],
)
def test_broken_file_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_file_that_is_not_utf_8(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"page\.yaml: not UTF-8 \(byte 7\); save it as UTF-8"):
        load(tmp_path, "title: é".encode("latin-1"))


def test_missing_file_names_init(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; `graft init` writes one"):
        read_yaml(tmp_path / "none.yaml")


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)


def test_value_that_contains_itself(tmp_path: Path) -> None:
    path = tmp_path / "page.yaml"
    path.write_text("drawing: &a\n  named: {x: *a}\n")
    raw, lines = read_yaml(path)
    with pytest.raises(ConfigError, match=r"page\.yaml"):
        validate(Page, raw, source="page.yaml", lines=lines)


@pytest.mark.timeout(20)
def test_aliases_do_not_blow_up(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    found = problems(tmp_path, "\n".join(levels) + "\n")
    assert len(found) == 30


def test_without_lines_the_place_is_the_source() -> None:
    with pytest.raises(ConfigError, match=r"overrides: drawing\.widht: unknown key; did you mean `drawing\.width`"):
        validate(Page, {"drawing": {"widht": 1}}, source="overrides")


def test_line_of_falls_back_to_the_parent() -> None:
    lines: dict[tuple[Any, ...], int] = {("a",): 3, ("a", "b"): 4}
    assert line_of(lines, ("a", "b")) == 4
    assert line_of(lines, ("a", "c", 0)) == 3
    assert line_of(lines, ("z",)) == 1


def test_known_keys_cover_all_members_of_a_union() -> None:
    assert known_keys(Page, ("drawing", "shape")) == ["radius", "shape", "side"]
    assert known_keys(Page, ("drawing", "more", 3)) == ["radius", "shape"]
    assert known_keys(Page, ("drawing", "named", "any")) == ["shape", "side"]
    assert known_keys(Page, ()) == ["dpi", "drawing"]


def test_docstring_under_a_field_is_in_the_schema() -> None:
    assert Page.model_json_schema()["properties"]["dpi"]["description"] == "Dots per inch."
