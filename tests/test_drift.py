"""Profiles of data sets and what is said of two of them: counts that add up, drift that chance does not explain."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from graft.tasks import Field
from graft.tasks.text_classification import FIELDS
from graft.validation.data_profile import BUCKETS, DataProfile, profile_of, steps, value_of
from graft.validation.drift import (
    Comparison,
    compared,
    constant,
    divergence,
    imbalance,
    label_groups,
    stability_index,
    tenths,
)
from graft.validation.section import BalanceConfig, DriftConfig

LIMITS = DriftConfig()
WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("ane", "ill", "oom", "ust", "ever", "in", "or", "atch")]


def profile(rows: Sequence[tuple[str, str]], kept: Sequence[bool] | None = None) -> DataProfile:
    values = {"label": [label for _, label in rows]}
    texts: dict[str, Any] = {"text": [[text] for text, _ in rows], "text_pair": [None] * len(rows)}
    return profile_of(FIELDS, values, texts, kept or [True] * len(rows))


def sample(count: int, seed: int, labels: int = 20, words: Sequence[str] = WORDS) -> list[tuple[str, str]]:
    """Return rows whose labels are unequally frequent and whose texts are about one thing each."""
    dice = random.Random(seed)
    rows = []
    for _ in range(count):
        label = min(int(dice.expovariate(4 / labels)), labels - 1)
        topic = words[label % 8 :: 8]
        text = " ".join(dice.choices([*words, *topic * 6], k=dice.randint(3, 30)))
        rows.append((text, f"label-{label}"))
    return rows


def by_kind(found: Sequence[Comparison]) -> dict[str, Comparison]:
    return {one.kind: one for one in found}


# -- profiles


def test_profiles_of_parts_add_up_to_that_of_their_rows() -> None:
    rows = [*sample(300, 1), ("我爱 pizza", "label-1"), ("", "label-2")]
    whole = DataProfile()
    for part in (rows[:7], rows[7:200], rows[200:]):
        whole.add(profile(part))
    assert whole == profile(rows)


def test_profile_does_not_depend_on_the_order_of_rows() -> None:
    rows = sample(200, 2)
    again = json.dumps(profile(rows[::-1]).as_json())
    assert again == json.dumps(profile(rows).as_json())


def test_profile_counts_what_the_rows_are() -> None:
    found = profile(
        [("The cat", "a"), ("the dog, the cat!", "b"), ("a bird", "a"), ("gone", "c")], [True, True, True, False]
    )
    assert found.rows == 3
    assert found.labels == {"label": Counter(a=2, b=1)}
    lengths = Counter({int(step): count for step, count in zip(steps([7, 17, 6]), [1, 1, 1], strict=True)})
    assert found.characters["text"] == lengths
    # Six words in eight pieces: `the` and `cat` are in two rows each; "cat!" and "dog," lose their signs.
    assert sorted(found.words.values()) == [1, 1, 1, 2, 2]


def test_profile_holds_no_text() -> None:
    found = json.dumps(profile([("my secret word is swordfish 4711", "a")]).as_json())
    assert not [word for word in ("secret", "swordfish", "4711") if word in found]
    assert len(json.loads(found)["words"]) == BUCKETS


def test_words_of_a_large_part_are_those_of_evenly_spaced_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sample(400, 4)
    monkeypatch.setattr("graft.validation.data_profile.READ_ROWS", 150)
    found = profile(rows)
    assert found.words == profile(rows[::3]).words
    assert (found.rows, found.labels["label"].total()) == (400, 400)


def test_digits_of_a_number_count_as_one_word() -> None:
    assert profile([("pay 12 now", "a")]).words == profile([("pay 98 now", "a")]).words


def test_scripts_without_spaces_are_counted_by_their_signs() -> None:
    assert profile([("我爱你", "a")]).words.total() == 3
    assert profile([("我 爱 你", "a")]).words == profile([("我爱你", "a")]).words


def test_profile_comes_back_from_json() -> None:
    found = profile(sample(50, 3))
    assert DataProfile.from_json(json.loads(json.dumps(found.as_json()))) == found


def test_tags_and_several_labels_count_once_a_row() -> None:
    fields = (Field("tokens", "strings", text=True), Field("tags", "strings", target=True))
    found = profile_of(
        fields, {"tags": [["O", "O", "B-X"], ["O"], None]}, {"tokens": [["a", "b", "c"], ["d"], None]}, [True] * 3
    )
    assert found.labels == {"tags": Counter({"O": 2, "B-X": 1})}


@pytest.mark.parametrize("value", [0.0, 1e-12, 0.2, 1.0, 4.999, 17.0, 1e6, -3.5])
def test_a_step_is_within_four_percent_of_its_value(value: float) -> None:
    [step] = steps([value])
    assert value_of(int(step)) == pytest.approx(value, rel=0.04, abs=1e-9)


def test_steps_keep_the_order_of_values() -> None:
    values = [-100.0, -2.0, -0.1, 0.0, 0.1, 3.0, 3.5, 1e9]
    assert list(steps(values)) == sorted(set(steps(values)))


# -- measures


def test_stability_index_is_the_sum_by_hand() -> None:
    import numpy as np

    now, before = [30, 50, 20], [40, 40, 20]
    p, q = ([(count + 0.5) / 101.5 for count in side] for side in (now, before))
    expected = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert stability_index(np.array([now, before])) == pytest.approx(expected)


def test_divergence_is_zero_for_equal_and_one_bit_for_nothing_in_common() -> None:
    import numpy as np

    found = divergence(np.array([[[2, 4, 0], [1, 2, 0]], [[5, 0, 0], [0, 3, 3]]]))
    assert found == pytest.approx([0.0, 1.0], abs=1e-12)


def test_tenths_have_equal_shares_where_values_allow() -> None:
    assert tenths(Counter(dict.fromkeys(range(100), 7)), 700) == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert tenths(Counter({5: 1000}), 1000) == []
    assert len(tenths(Counter(dict.fromkeys(range(100), 1)), 20)) == 3  # groups of five rows at least


def test_rare_labels_share_a_group() -> None:
    now, before = Counter(a=50, b=48, c=1, d=1), Counter(a=50, b=46, c=1, d=2, e=1)
    assert label_groups(now, before) == [["a"], ["b"], ["d", "c", "e"]]


# -- drift


@pytest.mark.parametrize(("now", "before"), [(200, 200), (200, 2000), (500, 500), (2000, 2000)])
def test_two_samples_of_one_source_raise_no_alarm(now: int, before: int) -> None:
    rows = sample(5000, 7)
    for seed in range(6):
        random.Random(seed).shuffle(rows)
        found = list(compared("train", profile(rows[:now]), profile(rows[now : now + before]), "x", LIMITS))
        assert len(found) == 3
        assert [one for one in found if one.is_drift] == []


def test_without_the_share_of_chance_small_samples_of_many_labels_would_be_an_alarm() -> None:
    rows = sample(400, 8, labels=77)
    found = by_kind(list(compared("train", profile(rows[:200]), profile(rows[200:]), "x", LIMITS)))["label_shift"]
    assert found.value > LIMITS.max_label_psi
    assert not found.is_drift


@pytest.mark.parametrize("count", [200, 2000])
def test_each_kind_of_drift_is_found_alone(count: int) -> None:
    before = profile(sample(count, 1))
    rows = sample(count, 2)
    shifted = [(text, "label-0" if number % 3 else label) for number, (text, label) in enumerate(rows)]
    longer = [(f"{text} {text}", label) for text, label in rows]
    other = sample(count, 2, words=[word[::-1] for word in WORDS])
    for changed, kind in ((shifted, "label_shift"), (longer, "length_drift"), (other, "vocabulary_drift")):
        found = list(compared("train", profile(changed), before, "x", LIMITS))
        assert [one.kind for one in found if one.is_drift] == [kind]


def test_a_label_that_is_new_is_named() -> None:
    before, rows = profile(sample(400, 1)), sample(400, 2)
    changed = [(text, "brand new" if number % 4 == 0 else label) for number, (text, label) in enumerate(rows)]
    found = by_kind(list(compared("train", profile(changed), before, "x", LIMITS)))["label_shift"]
    assert found.is_drift
    assert found.changed.startswith("'brand new' 0.0% -> 25.0%")
    assert "validation.drift.max_label_psi" in found.expected


def test_numbers_to_predict_are_compared_like_labels() -> None:
    fields = (Field("text", "string", text=True), Field("score", "number", target=True))

    def scored(seed: int, mean: float) -> DataProfile:
        dice = random.Random(seed)
        values = [dice.gauss(mean, 1) for _ in range(300)]
        return profile_of(fields, {"score": values}, {"text": [["same text"]] * 300}, [True] * 300)

    alike, moved = (next(compared("train", scored(2, mean), scored(1, 3), "x", LIMITS)) for mean in (3, 4))
    assert (alike.kind, alike.is_drift) == ("label_shift", False)
    assert (moved.kind, moved.is_drift) == ("label_shift", True)


def test_few_rows_are_not_compared() -> None:
    assert list(compared("test", profile(sample(99, 1)), profile(sample(2000, 2)), "x", LIMITS)) == []


def test_equal_data_gives_equal_comparisons() -> None:
    one, other = profile(sample(300, 1)), profile(sample(300, 2))
    assert list(compared("train", one, other, "x", LIMITS)) == list(compared("train", one, other, "x", LIMITS))


# -- imbalance


def test_rare_labels_are_named_with_their_rows() -> None:
    found = DataProfile(rows=1051, labels={"label": Counter(a=1000, b=49, c=2)})
    few, rare = imbalance(found, BalanceConfig(min_label_rows=3, min_even_share=0.2))
    assert few[1:] == (
        "at least 3 rows of each label (validation.balance.min_label_rows)",
        "1 of 3 labels below: 'c' (2 rows)",
    )
    assert rare[1].startswith("at least 0.2 of an even share (350 rows)")
    assert rare[2] == "1 of 3 labels below: 'b' (49 rows)"


def test_several_labels_a_row_have_no_even_share() -> None:
    found = DataProfile(rows=100, labels={"labels": Counter(a=100, b=90, c=5)})
    assert list(imbalance(found, BalanceConfig(min_even_share=0.9))) == []


def test_a_label_that_next_to_every_row_has_teaches_nothing() -> None:
    found = DataProfile(rows=100, labels={"labels": Counter(a=100, b=98, c=97, d=5), "tags": Counter(O=100)})
    [one] = constant(found, BalanceConfig(min_label_rows=3), ["labels"])
    assert one == (
        "labels",
        "at least 3 rows without each label (validation.balance.min_label_rows)",
        "2 of 4 labels below: 'a' (0 rows), 'b' (2 rows)",
    )


def test_one_row_of_a_rare_label_is_one_row() -> None:
    from graft.validation.drift import _named

    assert _named(["z"], Counter({"z": 1, "x": 9})) == "1 of 2 labels below: 'z' (1 row)"
