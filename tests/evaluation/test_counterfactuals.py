"""Terms of groups swapped in test rows: the texts, the flips, the change of the score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import binomtest

from graft import artifact, tasks
from graft.data import DataConfig, Record
from graft.evaluation import EvaluationConfig
from graft.evaluation.probes import About, Material, Subject
from graft.evaluation.probes.counterfactuals import PROBE, CounterfactualsConfig, Swapper
from graft.evaluation.probes.terms import DEFAULTS
from graft.privacy.section import PrivacyConfig
from graft.workspace import Workspace

ABOUT = About(tasks.get("text_classification"), {}, PrivacyConfig())

GENDER = Swapper(DEFAULTS["women_men"])
NAMES = Swapper(DEFAULTS["womens_mens_names"])


@pytest.mark.parametrize(
    ("text", "swapped", "sides"),
    [
        ("She saw the man.", "He saw the woman.", {1, -1}),
        ("THE WOMAN, herself", "THE MAN, himself", {1}),
        ("the shelf and the manual", "the shelf and the manual", set()),
        ("Mr Jones waited 5 ms for mr x", "Mrs Jones waited 5 ms for mr x", {-1}),
        ("mum and mom", "dad and dad", {1}),
        ("her dad", "her mom", {-1}),
    ],
)
def test_words_are_swapped_whole_and_in_their_case(text: str, swapped: str, sides: set[int]) -> None:
    assert GENDER.text(text) == (swapped, sides)


def test_names_are_names_with_a_capital_alone() -> None:
    assert NAMES.text("Jack lifted the jack; MARY's book")[0] == "Emma lifted the jack; JAMES's book"


def test_lists_are_distinct_and_swap_back() -> None:
    for name, pairs in DEFAULTS.items():
        assert all(one != other for one, other in pairs)
        assert len(set(pairs)) == len(pairs)
        swapper = Swapper(pairs)
        for one, other in pairs:
            if (one, other) not in {("mum", "dad")}:
                assert swapper.text(swapper.text(one)[0])[0] == one, name


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"pairs": {"a": []}}, "at least 1 item"),
        ({"pairs": {"a": [["x"]]}}, "Field required"),
        ({"pairs": {"a": [["x", "X"]]}}, "a: 'x' would be swapped for itself"),
        ({"pairs": {"A b": [["x", "y"]]}}, "small letters, digits and _"),
        ({"pear": {}}, "Extra inputs"),
    ],
)
def test_sections_are_read_strictly(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CounterfactualsConfig.model_validate(section)


def test_answers_before_and_after_are_those_of_predict(evaluated: Workspace, tmp_path: Path) -> None:
    loaded = artifact.load(evaluated.adapter, evaluated.root)
    # The head is spoiled so that both words matter.
    import torch

    for name, weight in loaded.model.named_parameters():
        if "modules_to_save" in name:
            weight.data += torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    texts = ["the cat is small", "a dog was here", "rain and snow", "the cat and the dog", "some Cat today"]
    records = [Record({"text": text, "label": "animals"}, f"data/test/x.jsonl:{n}") for n, text in enumerate(texts, 1)]
    base = Subject("adapter", loaded, {}, 8)
    subject = Subject("adapter", loaded, base.predictions(records, "test"), 8)
    pairs = {"cats_dogs": (("cat", "dog"),)}
    config = EvaluationConfig(counterfactuals=CounterfactualsConfig(pairs=pairs), resamples=100)
    material = Material(records, DataConfig(), evaluated.root)
    assert PROBE.left_out(config, subject, material) is None
    table = PROBE.measure(config, subject, material)
    assert table["row"].tolist() == [f"data/test/x.jsonl:{n}#cats_dogs" for n in (1, 2, 4, 5)]
    assert table["of"].tolist() == [4] * 4
    swapped = ["the dog is small", "a cat was here", "the dog and the cat", "some Dog today"]
    before = artifact.predict(loaded, [{"text": texts[at]} for at in (0, 1, 3, 4)])
    after = artifact.predict(loaded, [{"text": text} for text in swapped])
    assert table["flipped"].tolist() == [one["label"] != two["label"] for one, two in zip(before, after, strict=True)]
    change = [two["scores"][one["label"]] - one["score"] for one, two in zip(before, after, strict=True)]
    assert table["score"] == pytest.approx([-abs(one) for one in change], abs=1e-6)
    # Cats are the first group: the score of the row as theirs less that as the dogs'. Row 3 is of both.
    expected = [-change[0], change[1], np.nan, -change[3]]
    np.testing.assert_allclose(table["change"], expected, atol=1e-6)
    found = PROBE.finding(config, {"adapter": table}, tmp_path, ABOUT)
    flips = found.values["adapter"]["cats_dogs_flip_share"]
    bounds = binomtest(int(table["flipped"].sum()), 4).proportion_ci(0.95, "wilson")
    assert (flips.value, flips.low) == (table["flipped"].mean(), pytest.approx(bounds.low))
    assert found.values["adapter"]["cats_dogs_score_change"].value == pytest.approx(np.nanmean(expected), abs=1e-6)
    assert "cat" not in str(found.tables["Swapped terms"][0]["groups"].replace("cats_dogs", ""))
    assert found.tables["Swapped terms"][0]["rows with a term"] == 4


def test_without_such_terms_nothing_is_asked(evaluated: Workspace) -> None:
    loaded = artifact.load(evaluated.adapter, evaluated.root)
    material = Material([Record({"text": "rain and snow"}, "x:1")], DataConfig(), evaluated.root)
    subject = Subject("adapter", loaded, {}, 8)
    assert PROBE.left_out(EvaluationConfig(), subject, material) == "no test row has one of the terms"
    off = EvaluationConfig(counterfactuals=CounterfactualsConfig(rows=0))
    assert PROBE.left_out(off, subject, material) == "off"
    assert not (evaluated.evaluation / "probes" / "counterfactuals").exists()
