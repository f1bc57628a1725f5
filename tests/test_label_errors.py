"""Likely label errors: planted ones top the list, which is the same in every run and never longer than asked."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from graft.data import DataConfig
from graft.tasks.text_classification import FIELDS
from graft.validation.drawing import listed
from graft.validation.label_errors import LabelErrors, can_judge, find
from graft.validation.section import LabelErrorsConfig

TOPICS = {
    "animals": ["cat", "dog", "bird", "horse", "whale", "purrs", "barks"],
    "cooking": ["soup", "pan", "salt", "oven", "bread", "stirs", "bakes"],
    "weather": ["rain", "wind", "storm", "cloud", "snow", "blows", "melts"],
}
FLIPPED = range(0, 300, 20)
"""5 % of the rows."""


def write(root: Path, count: int = 300) -> list[Path]:
    """Write rows of three topics, every twentieth with the label of another one, as two parts."""
    dice, names = random.Random(0), list(TOPICS)
    rows = []
    for number in range(count):
        topic = names[number % 3]
        label = names[(number + 1) % 3] if number in FLIPPED else topic
        rows.append({"text": " ".join(dice.choices(TOPICS[topic], k=6)), "label": label})
    paths = []
    for part, chosen in enumerate((rows[: count // 2], rows[count // 2 :])):
        path = root / "data" / "train" / f"part-{part}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in chosen))
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    root = tmp_path_factory.mktemp("made")
    return root, write(root)


@pytest.fixture(scope="module")
def errors(made: tuple[Path, list[Path]]) -> LabelErrors:
    return found_in(*made)


def found_in(root: Path, files: list[Path], **config: int) -> LabelErrors:
    return find(files, root, FIELDS, DataConfig(), LabelErrorsConfig(**config))


def place(number: int) -> str:
    return f"data/train/part-{number // 150}.jsonl:{number % 150 + 1}"


def test_planted_errors_are_the_list(errors: LabelErrors) -> None:
    assert (errors.rows, errors.looked_at) == (300, 300)
    assert 0.8 * len(FLIPPED) <= errors.total <= len(FLIPPED)  # how many there are is an estimate
    names, planted = list(TOPICS), {place(number): number for number in FLIPPED}
    for one in errors.found:
        number = planted[one.place]
        assert (one.given, one.suggested) == (names[(number + 1) % 3], names[number % 3])
    scores = [one.score for one in errors.found]
    assert scores == sorted(scores)


def test_list_is_the_same_in_every_run_and_has_no_text(
    made: tuple[Path, list[Path]], errors: LabelErrors, tmp_path: Path
) -> None:
    written = []
    for found in (errors, found_in(*made)):
        found.write(tmp_path / "list.jsonl")
        written.append((tmp_path / "list.jsonl").read_bytes())
    assert written[0] == written[1]
    assert json.loads(written[0].splitlines()[0]).keys() == {"place", "given", "suggested", "score"}


def test_of_too_many_rows_the_same_are_looked_at_wherever_they_stand(tmp_path: Path) -> None:
    files = write(tmp_path)
    found = found_in(tmp_path, files, max_rows=150)
    assert (found.rows, found.looked_at) == (300, 150)
    assert "150 of 300 were looked at" in str(found)
    moved = [path.rename(path.with_name(f"z{path.name}")) for path in files]
    again = found_in(tmp_path, moved, max_rows=150)
    assert {one.text for one in again.found} == {one.text for one in found.found}


def test_list_is_no_longer_than_asked_but_counts_all(made: tuple[Path, list[Path]], errors: LabelErrors) -> None:
    found = found_in(*made, max_listed=4)
    assert found.total == errors.total
    assert list(found.found) == list(errors.found[:4])


def test_rows_in_quarantine_are_left_out(made: tuple[Path, list[Path]]) -> None:
    (root, files), aside = made, {place(number) for number in FLIPPED}
    found = find(files, root, FIELDS, DataConfig(), LabelErrorsConfig(), aside)
    assert found.rows == 300 - len(FLIPPED)
    assert found.total == 0


def test_labels_of_few_rows_are_not_judged(tmp_path: Path) -> None:
    files = write(tmp_path)
    with files[1].open("a") as file:
        file.writelines(json.dumps({"text": f"odd one {n}", "label": "rare"}) + "\n" for n in range(4))
    found = found_in(tmp_path, files)
    assert (found.rows, found.looked_at) == (304, 300)
    assert "rare" not in {one.given for one in found.found}


def test_one_label_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "data" / "train" / "a.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps({"text": f"row {n}", "label": "a"}) + "\n" for n in range(20)))
    assert found_in(tmp_path, [path]).total == 0


@pytest.mark.parametrize(("fields", "expected"), [(FIELDS, True), (FIELDS[:2], False), (FIELDS[2:], False)])
def test_only_texts_with_one_label_can_be_judged(fields: tuple, expected: bool) -> None:  # type: ignore[type-arg]
    assert can_judge(fields) is expected


def test_page_shows_no_private_data(tmp_path: Path) -> None:
    files = write(tmp_path)
    lines = files[0].read_text().splitlines()
    row = json.loads(lines[0])
    lines[0] = json.dumps({**row, "text": f"ann.smith@mail-host.org {row['text']}"})
    files[0].write_text("\n".join(lines) + "\n")
    shown = listed(found_in(tmp_path, files), DataConfig().privacy)
    [text] = [one["text"] for one in shown["rows"] if one["place"] == place(0)]
    assert text.startswith("<EMAIL> ")
    assert "smith" not in json.dumps(shown)
