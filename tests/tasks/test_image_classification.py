"""Image classification: token rows, batches, model, cheap predictors; the whole chain stands in test_image_chain.py."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as reference

from graft.adapters import AdapterConfig, attach, describe
from graft.base import load_processor
from graft.errors import ConfigError, DataError
from graft.tasks.image_classification import TASK, Config

CONFIG = Config()
STATE = {"labels": ["left", "right", "top"]}


@pytest.fixture
def rows(picture_of: Any) -> list[dict[str, Any]]:
    return [{"image": picture_of(STATE["labels"][n % 3], n), "label": STATE["labels"][n % 3]} for n in range(60)]


def encoded(tiny_vit, rows):
    return TASK.encode(CONFIG, rows, load_processor("image", tiny_vit), 128)


# -- metrics: the functions are those of text classification, whose tests hold them to scikit-learn


def test_metrics_of_a_table_equal_scikit_learn():
    source = np.random.default_rng(0)
    columns = TASK.predictions(CONFIG, source.normal(size=(50, 3)).astype(np.float32), STATE)
    table = {
        **columns,
        **TASK.references([{"label": STATE["labels"][one]} for one in source.integers(0, 3, 50)], STATE),
    }
    table |= TASK.judge(CONFIG, table, STATE)
    actual, predicted = table["reference"], table["prediction"]
    areas = [reference.roc_auc_score(actual == one, table["probabilities"][:, one]) for one in range(3)]
    expected = {
        "auroc": np.mean(areas),
        "accuracy": reference.accuracy_score(actual, predicted),
        "macro_f1": reference.f1_score(actual, predicted, average="macro"),
        "mcc": reference.matthews_corrcoef(actual, predicted),
        "log_loss": reference.log_loss(actual, table["probabilities"]),
    }
    for name, value in expected.items():
        assert TASK.metric(name).function(table) == pytest.approx(value, abs=1e-6), name
    assert [row["label"] for row in TASK.details(table, STATE)["Per label"]] == STATE["labels"]
    assert len(TASK.plots(table, STATE)["confusion"]) == 50


# -- rows


def test_labels_are_learnt_or_pinned_and_others_refused(rows):
    assert TASK.learn(CONFIG, iter(rows)) == STATE
    assert TASK.learn(Config(labels=("top", "left")), iter(rows)) == {"labels": ["top", "left"]}
    with pytest.raises(DataError, match="a classifier needs two or more"):
        TASK.learn(CONFIG, iter(rows[:1]))
    with pytest.raises(ValueError, match="two or more distinct"):
        Config(labels=("a", "a"))
    [problem] = TASK.check_row(CONFIG, {"image": b"", "label": "below"}, STATE)
    assert (problem.field, problem.expected, problem.found) == ("label", "one of left, right, top", "'below'")


def test_a_token_row_holds_the_picture_s_pixels_and_counts_patches(tiny_vit, rows):
    first, second = encoded(tiny_vit, rows[:2])
    resized = Image.open(io.BytesIO(rows[0]["image"])).resize((8, 8), Image.Resampling.BILINEAR)
    assert np.array_equal(
        np.frombuffer(first["pixels"], np.uint8).reshape(3, 8, 8), np.asarray(resized).transpose(2, 0, 1)
    )
    assert (first["input_ids"], first["length"], first["untruncated_length"]) == ([], 5, 5)
    assert (first["label"], second["label"]) == ("left", "right")
    assert TASK.content == "pixels"
    assert first["pixels"] != second["pixels"]


def test_rows_without_a_label_are_encoded_for_prediction(tiny_vit, rows):
    [row] = encoded(tiny_vit, [{"image": rows[0]["image"]}])
    assert row["label"] is None
    assert set(TASK.collate([row], 0, STATE)) == {"pixel_values"}


def test_batches_are_float32_pictures_and_labels(tiny_vit, rows):
    import torch

    batch = TASK.collate(encoded(tiny_vit, rows[:4]), 0, STATE)
    assert (batch["pixel_values"].shape, batch["pixel_values"].dtype) == ((4, 3, 8, 8), torch.float32)
    assert (batch["labels"].tolist(), batch["labels"].dtype) == ([0, 1, 2, 0], torch.int64)


def test_the_example_is_the_probe_s_picture_in_base64(tiny_vit, rows):
    row = encoded(tiny_vit, rows[:1])
    probe = {name: value.numpy() for name, value in TASK.collate(row, 0, STATE).items()}
    found = TASK.example(CONFIG, probe, load_processor("image", tiny_vit))
    shown = Image.open(io.BytesIO(base64.b64decode(found["image"])))
    assert np.array_equal(np.asarray(shown).transpose(2, 0, 1).ravel(), np.frombuffer(row[0]["pixels"], np.uint8))


# -- model


@pytest.fixture(scope="module")
def loaded(tiny_vit):
    import torch

    torch.manual_seed(0)
    return TASK.load_model(str(tiny_vit), CONFIG, STATE)


def test_the_head_is_new_and_carries_the_labels(loaded):
    model, new = loaded
    assert new == ["classifier"]
    assert model.config.id2label == {0: "left", 1: "right", 2: "top"}


def test_a_text_base_is_refused(tiny_base):
    with pytest.raises(ConfigError, match="bert is an encoder, and this task needs a vision"):
        TASK.load_model(str(tiny_base), CONFIG, STATE)


def test_loss_is_the_sum_of_what_transformers_averages(loaded, tiny_vit, rows):
    model, _ = loaded
    batch = TASK.collate(encoded(tiny_vit, rows[:10]), 0, STATE)
    total, items = TASK.loss(CONFIG, model, batch)
    assert items == 10
    assert total.item() / 10 == pytest.approx(model(**batch).loss.item(), rel=1e-5)


def test_outputs_do_not_depend_on_the_other_rows_of_a_batch(loaded, tiny_vit, rows):
    import torch

    model, tokens = loaded[0].eval(), encoded(tiny_vit, rows[:6])
    with torch.no_grad():
        together = TASK.outputs(CONFIG, model, TASK.collate(tokens, 0, STATE))
        alone = torch.cat([TASK.outputs(CONFIG, model, TASK.collate([row], 0, STATE)) for row in tokens])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_lora_trains_the_named_matrices_and_the_whole_head(tiny_vit):
    model, new = TASK.load_model(str(tiny_vit), CONFIG, STATE)
    keys = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}
    summary = describe(attach(model, AdapterConfig(method="lora", **keys), new))
    assert summary.saved_modules == ("classifier",)
    assert {name.rpartition(".")[2] for name in summary.modules} == {"q_proj", "v_proj"}
    assert summary.trainable_parameters == 2 * 2 * (2 * 32 * 2) + 3 * 32 + 3


def test_a_bfloat16_base_gives_float32_outputs_and_trains(tiny_vit, rows):
    import torch

    model, new = TASK.load_model(str(tiny_vit), CONFIG, STATE, dtype=torch.bfloat16)
    wrapped = attach(model, AdapterConfig(method="lora", r=2, target_modules=["q_proj"]), new)
    loss, _ = TASK.loss(CONFIG, wrapped, TASK.collate(encoded(tiny_vit, rows[:4]), 0, STATE))
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(one.grad is not None for one in wrapped.parameters() if one.requires_grad)


# -- cheap predictors


def scored(name, train, test):
    columns = TASK.baselines()[name](CONFIG, train, test, STATE, 0)
    return {**columns, **TASK.references(test, STATE)}


def test_majority_predicts_the_shares_of_the_training_rows(rows):
    train = [row for row in rows if row["label"] != "right"] + rows[2:3]
    table = scored("majority", train, rows)
    assert set(table["prediction"].tolist()) == {2}
    np.testing.assert_allclose(table["probabilities"][0], np.array([20, 0, 21]) / 41, rtol=1e-6)


def test_logistic_regression_learns_from_pixels_the_same_way_twice(rows):
    first, second = (scored("logistic_regression", rows[:45], rows[45:]) for _ in range(2))
    assert TASK.metric("accuracy").function(first) == 1
    assert first["probabilities"].tobytes() == second["probabilities"].tobytes()
    np.testing.assert_allclose(first["probabilities"].sum(axis=1), 1, rtol=1e-6)


def test_logistic_regression_equals_scikit_learn_s_on_the_same_pixels(rows):
    from sklearn.linear_model import LogisticRegression

    pixels = np.stack(
        [np.asarray(Image.open(io.BytesIO(row["image"])).convert("L").resize((28, 28))).ravel() / 255 for row in rows]
    )
    names = [row["label"] for row in rows]
    expected = LogisticRegression(max_iter=100).fit(pixels[:45], names[:45]).predict_proba(pixels[45:])
    found = scored("logistic_regression", rows[:45], rows[45:])["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_logistic_regression_of_one_label_or_a_label_without_rows_still_answers(rows):
    left = [row for row in rows if row["label"] == "left"]
    assert set(scored("logistic_regression", left, rows)["prediction"].tolist()) == {0}
    without = [row for row in rows if row["label"] != "right"]
    assert not scored("logistic_regression", without, rows)["probabilities"][:, 1].any()
