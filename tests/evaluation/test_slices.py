"""Slices: known ones by hand, worst ones found where they were planted and seldom where they were not, rows by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from graft.data import DataConfig, rows_of
from graft.errors import DataError
from graft.evaluation.intervals import Drawn
from graft.evaluation.slices import SlicesConfig, finding, mask_of, measure, write_masks
from graft.evaluation.slices.known import by_column, by_size, by_value, known
from graft.evaluation.traits import Traits, traits
from graft.privacy.section import PrivacyConfig
from graft.tasks import Metric
from graft.tasks.text_classification import TASK

HOW = Drawn(resamples=200)
ACCURACY = Metric("accuracy", lambda table: float(table["right"].mean()), per_row=lambda table: table["right"])
TOPIC: Any = SimpleNamespace(headline="accuracy", worst="", metrics=(ACCURACY,), metric=lambda name: ACCURACY)
WORDS = ("the", "of", "list", "value", "return", "string", "number", "file", "error", "key", "index", "name")


def rows(count: int, seed: int, failing: str = "", right: float = 0.9, wrong: float = 0.4) -> tuple[Any, Traits]:
    """Return a table and texts of random words; a row with the word ``failing`` is right with chance ``wrong``."""
    source = np.random.default_rng(seed)
    texts = [" ".join(source.choice(WORDS, source.integers(3, 12))) for _ in range(count)]
    hard = np.array([bool(failing) and failing in text.split() for text in texts])
    answers = (source.random(count) < np.where(hard, wrong, right)).astype(float)
    places = [f"data/test/a.jsonl:{line}" for line in range(1, count + 1)]
    table = {"row": np.array(places, dtype=object), "right": answers}
    return table, Traits(places, texts, [len(text.split()) for text in texts])


def test_values_make_slices_and_rare_ones_are_named() -> None:
    values = [["a"]] * 30 + [["b", "a"]] * 25 + [["c"]] * 3 + [[]] * 10
    cut = by_value("label", "label", values, SlicesConfig())
    assert {one.name: int(one.mask.sum()) for one in cut.slices} == {"label=a": 55, "label=b": 25}
    assert cut.left_out == [("label=c", 3, "fewer than 20 rows")]
    cut = by_value("label", "label", values, SlicesConfig(most_values=2, least_rows=2))
    assert cut.left_out == [("label=c", 3, "beyond the 2 most frequent values")]


def test_quarters_are_of_equal_size_and_equal_values_stay_together() -> None:
    cut = by_size("length", "length", list(range(100)), 4, SlicesConfig(), "tokens")
    assert [int(one.mask.sum()) for one in cut.slices] == [25, 25, 25, 25]
    assert [one.about for one in cut.slices][:2] == ["0 to 24 tokens", "25 to 49 tokens"]
    cut = by_size("length", "length", [5] * 60 + [9] * 40, 4, SlicesConfig(), "tokens")
    assert [(one.name, int(one.mask.sum())) for one in cut.slices] == [("length=1/4", 60), ("length=3/4", 40)]
    assert sum(int(one.mask.sum()) for one in cut.slices) == 100


def test_a_column_of_many_numbers_is_cut_in_quarters_and_of_few_by_value() -> None:
    config = SlicesConfig(least_rows=5)
    assert [one.name for one in by_column("year", [str(year) for year in range(100)], config).slices] == [
        *(f"year={number}/4" for number in range(1, 5))
    ]
    assert [one.name for one in by_column("stars", [1, 2.0, None] * 10, config).slices] == [
        *("stars=(none)", "stars=1", "stars=2")
    ]


def test_a_planted_slice_is_found_confirmed_and_its_numbers_are_of_the_other_half() -> None:
    table, known_of = rows(1200, seed=1, failing="error")
    sliced = measure(TOPIC, table, known_of, SlicesConfig(), HOW)
    (found, measured), *_ = sliced.worst
    assert found.slice.name == "word=error"
    assert found.confirmed
    mask = np.array(["error" in text.split() for text in known_of.texts])
    assert found.slice.mask.tolist() == mask.tolist()
    half = np.random.default_rng(HOW.seed).permutation(1200)[600:]
    inside, rest = half[mask[half]], half[~mask[half]]
    assert sorted(found.confirming_rows) == sorted(inside)
    assert measured.value.value == pytest.approx(table["right"][inside].mean())
    cells = [[table["right"][part].sum(), (1 - table["right"][part]).sum()] for part in (inside, rest)]
    p = stats.fisher_exact(cells, alternative="less").pvalue
    assert measured.p_holm == pytest.approx(p * len(sliced.worst)), "the smallest of Holm's"


def test_a_pair_is_found_where_one_word_alone_is_innocent() -> None:
    table, known_of = rows(3000, seed=2)
    both = np.array([{"error", "key"} <= set(text.split()) for text in known_of.texts])
    table["right"] = np.where(both, 0.0, 1.0)
    sliced = measure(TOPIC, table, known_of, SlicesConfig(worst=1), HOW)
    assert [found.slice.name for found, _ in sliced.worst] == ["word=error & word=key"]
    assert sliced.worst[0][0].slice.mask.tolist() == both.tolist()


@pytest.mark.slow
def test_slices_that_are_not_there_are_seldom_confirmed() -> None:
    """Each run tests three slices that thousands of looks chose; at 5 % for all, 100 runs confirm 5 on average."""
    wrong = 0
    for seed in range(100):
        table, known_of = rows(240, seed=1000 + seed)
        sliced = measure(TOPIC, table, known_of, SlicesConfig(languages=False, lengths=0), HOW)
        wrong += any(found.confirmed for found, _ in sliced.worst)
    assert wrong <= stats.binom(100, 0.05).ppf(0.995)


def test_known_slices_are_corrected_for_their_number() -> None:
    table, known_of = rows(900, seed=3)
    labels = [["hard"] if row % 3 == 0 else ["easy"] if row % 3 == 1 else ["plain"] for row in range(900)]
    table["right"][::3] = np.random.default_rng(0).random(300) < 0.6
    given = Traits(known_of.places, known_of.texts, known_of.lengths, labels)
    sliced = measure(TOPIC, table, given, SlicesConfig(worst=0, languages=False), HOW)
    assert [one.slice.name for one in sliced.worse] == ["label=hard"]
    by_name = {one.slice.name: one for one in sliced.known}
    assert set(by_name) == {
        *("label=easy", "label=hard", "label=plain"),
        *(f"length={number}/4" for number in range(1, 5)),
    }
    smallest = min(one.contrast.p for one in sliced.known)
    assert by_name["label=hard"].p_holm == pytest.approx(smallest * len(sliced.known))
    assert by_name["label=hard"].value.value == pytest.approx(table["right"][::3].mean())
    section = finding(sliced, HOW)
    assert "label=hard" in section.text
    assert any("`label=hard`" in limit for limit in section.limits)


def test_a_slice_that_two_settings_name_is_one() -> None:
    table, known_of = rows(200, seed=9)
    labels = ["a", "b"] * 100
    given = Traits(known_of.places, known_of.texts, known_of.lengths, [[one] for one in labels], {"label": labels})
    sliced = measure(TOPIC, table, given, SlicesConfig(columns=("label",), worst=0, lengths=0, languages=False), HOW)
    assert [one.slice.name for one in sliced.known] == ["label=a", "label=b"]
    assert sliced.known[0].p_holm == pytest.approx(min(1.0, 2 * sliced.known[0].contrast.p))


def test_equal_inputs_give_equal_slices_and_another_seed_other_halves() -> None:
    table, known_of = rows(600, seed=5, failing="index")
    found = [measure(TOPIC, table, known_of, SlicesConfig(), Drawn(resamples=200, seed=seed)) for seed in (0, 0, 1)]
    assert found[0].as_json() == found[1].as_json() != found[2].as_json()


def test_too_few_rows_are_not_searched_and_said() -> None:
    table, known_of = rows(60, seed=6)
    sliced = measure(TOPIC, table, known_of, SlicesConfig(), HOW)
    assert "worst" not in sliced.as_json()
    assert "60 test rows are too few to search in one half and test in the other" in finding(sliced, HOW).text


def test_masks_are_read_back_by_name_and_by_row(tmp_path: Path) -> None:
    table, known_of = rows(100, seed=7)
    slices = known(known_of, SlicesConfig(languages=False)).slices
    write_masks(tmp_path, known_of.places, slices)
    one = slices[0]
    assert mask_of(tmp_path, one.name).tolist() == one.mask.tolist()
    order = np.random.default_rng(0).permutation(100)
    assert mask_of(tmp_path, one.name, table["row"][order].tolist()).tolist() == one.mask[order].tolist()
    with pytest.raises(DataError, match=r"slice 'lenght=1/4': there is none of that name; did you mean 'length=1/4'"):
        mask_of(tmp_path, "lenght=1/4")
    with pytest.raises(DataError, match=r"data/test/b\.jsonl:1: not a row that slices were made of"):
        mask_of(tmp_path, one.name, ["data/test/b.jsonl:1"])


# -- columns of the part files


def folder_of(root: Path, lines: list[str]) -> Path:
    for split in ("train", "validation", "test"):
        (root / "data" / split).mkdir(parents=True)
        (root / "data" / split / "part-0000.jsonl").write_text("\n".join(lines) + "\n")
    return root / "data"


def traits_of(folder: Path, columns: tuple[str, ...], data: DataConfig | None = None) -> Traits:
    data = data or DataConfig()
    test = list(rows_of(folder, "test", TASK.fields, data))
    return traits(
        test,
        [record.row["text"] for record in test],
        TASK.fields,
        lengths=[3] * len(test),
        columns={"evaluation.slices.columns": columns},
        data=data,
        folder=folder,
    )


MAIL = "ann" + "@example.org"


def test_columns_that_the_task_does_not_read_are_read(tmp_path: Path) -> None:
    lines = [
        '{"text": "a row", "label": "x", "source": "yelp", "stars": 4, "new": true}',
        '{"text": "another row", "label": "y", "source": null, "stars": 4.5}',
        f'{{"text": "write to {MAIL}", "label": "y", "source": "{MAIL}", "stars": 1}}',
    ]
    found = traits_of(folder_of(tmp_path, lines), ("source", "stars", "new"))
    assert found.columns == {
        "source": ["yelp", None, "<EMAIL_1>"],
        "stars": [4, 4.5, 1],
        "new": ["true", None, None],
    }
    assert found.labels == [["x"], ["y"], ["y"]]
    assert found.texts[2] == "write to <EMAIL_1>"
    open_data = DataConfig(privacy=PrivacyConfig(kinds=()))
    assert traits_of(tmp_path / "data", ("source",), open_data).columns["source"][2] == MAIL


def test_private_numbers_name_no_slice(tmp_path: Path) -> None:
    lines = ['{"text": "a row", "label": "x", "paid": 4111111111111111}', '{"text": "b", "label": "y", "paid": 12}']
    assert traits_of(folder_of(tmp_path, lines), ("paid",)).columns["paid"] == ["<CARD_1>", 12]


def test_a_column_that_no_row_has_is_refused_with_the_nearest(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ['{"text": "a row", "label": "x", "source": "yelp"}'])
    with pytest.raises(
        DataError,
        match=r"evaluation\.slices\.columns: no test row has the column 'sorce'; the columns are label, source, text; "
        r"did you mean 'source'",
    ):
        traits_of(folder, ("sorce",))


def test_a_value_that_is_no_text_is_refused_at_its_line(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ['{"text": "a row", "label": "x", "tags": ["a", "b"]}'])
    with pytest.raises(
        DataError, match=r"data/test/part-0000\.jsonl:1: tags: slices and groups are of text or numbers"
    ):
        traits_of(folder, ("tags",))
