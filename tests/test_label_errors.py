"""Likely label errors: planted ones top the list, which is the same in every run and never longer than asked."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graft.data import DataConfig
from graft.tasks import multi_label_classification, question_answering, regression, token_classification
from graft.tasks.text_classification import FIELDS
from graft.validation.drawing import listed
from graft.validation.label_errors import JUDGES, LabelErrors, closeness, far_off, find, judged
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
    assert "150 of 300 rows were looked at" in str(found)
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


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (FIELDS, "label"),
        (multi_label_classification.FIELDS, "labels"),
        (regression.FIELDS, "target"),
        (token_classification.TASK.fields, "tags"),
        (question_answering.TASK.fields, None),
        (FIELDS[:2], None),
        (FIELDS[2:], None),
    ],
    ids=["label", "labels", "number", "tags", "answers", "no label", "no text"],
)
def test_labels_tags_and_numbers_of_texts_can_be_judged(fields: Any, expected: str | None) -> None:
    found = judged(fields)
    assert (found and found.name) == expected


def planted(folder: Path, rows: list[dict[str, Any]]) -> list[Path]:
    path = folder / "data" / "train" / "a.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [path]


def test_of_several_labels_each_is_judged_and_a_row_is_listed_once(tmp_path: Path) -> None:
    dice, names, rows = random.Random(1), list(TOPICS), []
    for number in range(400):
        labels = [name for place, name in enumerate(names) if (number >> place) & 1]
        words = [word for label in labels for word in dice.choices(TOPICS[label], k=4)]
        rows.append({"text": " ".join(dice.sample([*words, "so", "and"], len(words) + 2)), "labels": labels})
    right = {number: rows[number]["labels"] for number in range(0, 400, 20)}
    for number, labels in right.items():
        rows[number]["labels"] = sorted({*labels} ^ {names[number // 20 % 3]})
    found = find(
        planted(tmp_path, rows), tmp_path, multi_label_classification.FIELDS, DataConfig(), LabelErrorsConfig()
    )
    shown = {one.place: one for one in found.found}
    assert len(shown) == found.total > 0.6 * len(right)
    hits = 0
    for number, labels in right.items():
        one = shown.get(f"data/train/a.jsonl:{number + 1}")
        if one and one.suggested == (", ".join(sorted(labels)) or "(none)"):
            assert one.given == (", ".join(rows[number]["labels"]) or "(none)")
            hits += 1
    assert hits > 0.9 * found.total
    assert [one.score for one in found.found] == sorted(one.score for one in found.found)
    assert "rows have labels that other rows speak against" in str(found)


def test_one_row_has_and_several_have() -> None:
    assert str(LabelErrors(9, 9, [], 1)) == "train: 1 row has a label that other rows speak against"
    assert str(LabelErrors(9, 9, [], 2)) == "train: 2 rows have a label that other rows speak against"
    said = str(LabelErrors(9, 4, [], 2, JUDGES["strings"][1]))
    assert said == "train: 2 words have a tag that other rows speak against (4 of 9 rows were looked at)"


def test_of_tagged_rows_the_word_is_named(tmp_path: Path) -> None:
    dice, rows = random.Random(2), []
    for _ in range(200):
        kinds = dice.choices(["animals", "cooking"], k=2)
        tokens = ["the", dice.choice(TOPICS[kinds[0]]), "and", dice.choice(TOPICS[kinds[1]])]
        rows.append({"tokens": tokens, "tags": ["O", f"B-{kinds[0]}", "O", f"B-{kinds[1]}"]})
    right = rows[50]["tags"][3]
    wrong = "B-cooking" if right == "B-animals" else "B-animals"
    rows[50]["tags"][3], rows[60]["tags"][0] = wrong, "B-animals"
    fields = token_classification.TASK.fields
    found = find(planted(tmp_path, rows), tmp_path, fields, DataConfig(), LabelErrorsConfig(max_rows=800))
    told = [one.as_json() for one in found.found]
    assert {(one["place"].rpartition(":")[2], one["word"], one["given"], one["suggested"]) for one in told} == {
        ("51", 4, wrong, right),
        ("61", 1, "B-animals", "O"),
    }
    fewer = find(
        [tmp_path / "data" / "train" / "a.jsonl"], tmp_path, fields, DataConfig(), LabelErrorsConfig(max_rows=100)
    )
    assert (fewer.rows, fewer.looked_at) == (200, 25)  # words, four a row
    assert "words have a tag" in str(fewer)
    assert [one["word"] for one in listed(found, DataConfig().privacy)["rows"]] == [one["word"] for one in told]


@pytest.mark.parametrize("paired", [True, False])
def test_numbers_far_from_what_other_rows_say_are_listed(tmp_path: Path, paired: bool) -> None:
    dice, rows = random.Random(3), []
    for number in range(300):
        same, words = number % 2, dice.sample([word for words in TOPICS.values() for word in words], 12)
        pair = {"text_pair": " ".join([*words[:4], words[4 if same else 9]] if same else words[6:])} if paired else {}
        text = " ".join(words[:6]) if paired else f"{'good fine' if same else 'bad poor'} {words[0]}"
        rows.append({"text": text, **pair, "target": 4.0 * same + dice.random()})
    rows[20]["target"], rows[31]["target"] = 5.0, 0.0
    found = find(planted(tmp_path, rows), tmp_path, regression.FIELDS, DataConfig(), LabelErrorsConfig())
    places = [int(one.place.rpartition(":")[2]) for one in found.found]
    assert set(places[:2]) == {21, 32}
    assert found.found[places.index(21)].given == "5"
    assert float(found.found[places.index(21)].suggested) < 2.5
    assert "rows have a number" in str(found)


def test_far_off_are_the_points_beyond_the_whiskers_of_a_box_plot() -> None:
    from matplotlib.cbook import boxplot_stats

    source = np.random.default_rng(0)
    given, likely = source.standard_t(2, 300), np.zeros(300)
    found = far_off(given, likely)
    assert sorted(given[found]) == sorted(boxplot_stats(given)[0]["fliers"])
    distances = abs(given[found] - np.median(given))
    assert distances.tolist() == sorted(distances, reverse=True)
    assert closeness(given, likely) == pytest.approx(np.exp(-abs(given) / given.std()))


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        (FIELDS, {"text": "cat", "label": "a"}),
        (multi_label_classification.FIELDS, {"text": "cat", "labels": ["a"]}),
        (token_classification.TASK.fields, {"tokens": ["cat"], "tags": ["O"]}),
        (regression.FIELDS, {"text": "cat", "target": 1}),
    ],
    ids=["label", "labels", "tags", "number"],
)
@pytest.mark.parametrize("count", [1, 20])
def test_rows_that_all_say_the_same_speak_against_none(tmp_path: Path, fields: Any, row: Any, count: int) -> None:
    found = find(planted(tmp_path, [row] * count), tmp_path, fields, DataConfig(), LabelErrorsConfig())
    assert (found.rows, found.total) == (count, 0)


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
