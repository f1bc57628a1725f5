import numpy as np
import pytest
from sklearn import metrics as reference

from graft import tasks
from graft.base import load_tokenizer
from graft.classification import CALIBRATION_BINS
from graft.errors import ConfigError, DataError
from graft.tasks import text_classification as module
from graft.tasks.text_classification import TASK, Config

CONFIG = Config()
STATE = {"labels": ["animals", "cooking", "weather"]}


def random_table(seed: int, rows: int = 200, labels: int = 5, sharpness: float = 2.0) -> dict[str, np.ndarray]:
    source = np.random.default_rng(seed)
    logits = (source.normal(size=(rows, labels)) * sharpness).astype(np.float32)
    columns = TASK.predictions(CONFIG, logits, {"labels": list("abcde")[:labels]})
    # The wrong rows lean towards the first label, so that no label is as often actual as predicted.
    other = source.integers(0, labels, rows) // 2
    noisy = np.where(source.random(rows) < 0.6, columns["prediction"], other)
    table = {**columns, "reference": noisy.astype(np.int32)}
    return {**table, **TASK.judge(CONFIG, table, {})}


def sklearn_metrics(table):
    actual, predicted, probabilities = table["reference"], table["prediction"], table["probabilities"]
    areas = [
        reference.roc_auc_score(actual == label, probabilities[:, label])
        for label in range(probabilities.shape[1])
        if 0 < (actual == label).sum() < len(actual)
    ]
    return {
        "accuracy": reference.accuracy_score(actual, predicted),
        "macro_f1": reference.f1_score(actual, predicted, average="macro", zero_division=0),
        "mcc": reference.matthews_corrcoef(actual, predicted),
        "log_loss": reference.log_loss(actual, probabilities, labels=range(probabilities.shape[1])),
        "auroc": np.mean(areas) if areas else np.nan,
    }


# -- metrics


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rows", [1, 3, 200])
@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
def test_metrics_equal_scikit_learn(seed, rows):
    table = random_table(seed, rows=rows)
    for name, expected in sklearn_metrics(table).items():
        assert TASK.metric(name).function(table) == pytest.approx(expected, abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("seed", range(3))
def test_auroc_of_two_labels_is_the_usual_one(seed):
    table = random_table(seed, labels=2)
    expected = reference.roc_auc_score(table["reference"], table["probabilities"][:, 1])
    assert TASK.metric("auroc").function(table) == pytest.approx(expected)


def test_auroc_of_a_resample_is_close_to_its_own_curve():
    """The first-order form: its error is of second order in the resample, far below the spread of resamples."""
    table, source = random_table(0, rows=400, labels=3), np.random.default_rng(0)
    fast, exact = [], []
    for _ in range(100):
        index = source.integers(0, 400, 400)
        taken = {name: column[index] for name, column in table.items()}
        fast.append(TASK.metric("auroc").function(taken))
        exact.append(sklearn_metrics(taken)["auroc"])
    spread = np.std(exact)
    assert np.abs(np.array(fast) - exact).mean() < 0.1 * spread
    assert np.std(fast) == pytest.approx(spread, rel=0.1)


def test_metrics_equal_scikit_learn_where_labels_are_absent():
    table = random_table(0)
    kept = (table["reference"] < 2) & (table["prediction"] < 3)
    table = {name: column[kept] for name, column in table.items()}
    table |= TASK.judge(CONFIG, table, {})
    for name, expected in sklearn_metrics(table).items():
        assert TASK.metric(name).function(table) == pytest.approx(expected, abs=1e-6), name


def test_metrics_of_one_predicted_label_equal_scikit_learn():
    table = random_table(1, labels=3)
    table["prediction"] = np.zeros_like(table["prediction"])
    for name in ("macro_f1", "mcc"):
        assert TASK.metric(name).function(table) == pytest.approx(sklearn_metrics(table)[name])


@pytest.mark.parametrize("seed", range(3))
def test_ece_equals_the_sum_over_bins(seed):
    table = random_table(seed)
    confidence = table["probabilities"].max(axis=1)
    right = table["reference"] == table["prediction"]
    total = 0.0
    for number in range(CALIBRATION_BINS):
        inside = (confidence >= number / CALIBRATION_BINS) & (confidence < (number + 1) / CALIBRATION_BINS)
        if number == CALIBRATION_BINS - 1:
            inside |= confidence == 1
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert TASK.metric("ece").function(table) == pytest.approx(total)


def test_ece_of_certain_and_right_answers_is_zero():
    table = {
        "reference": np.array([0, 1], np.int32),
        "prediction": np.array([0, 1], np.int32),
        "probabilities": np.eye(2, dtype=np.float32),
    }
    assert TASK.metric("ece").function(table) == 0


def test_row_scores_have_the_metric_as_their_mean():
    table = random_table(2)
    scored = [metric for metric in TASK.metrics if metric.per_row is not None]
    assert [metric.name for metric in scored] == ["accuracy", "log_loss"]
    for metric in scored:
        scores = metric.per_row(table)
        assert scores.shape == (200,)
        assert scores.mean() == pytest.approx(metric.function(table))


def test_metrics_do_not_depend_on_the_order_of_rows():
    table = random_table(3)
    order = np.random.default_rng(0).permutation(200)
    shuffled = {name: column[order] for name, column in table.items()}
    for metric in TASK.metrics:
        assert metric.function(shuffled) == pytest.approx(metric.function(table))


@pytest.mark.parametrize("seed", range(3))
def test_details_equal_scikit_learn_per_label(seed):
    table = random_table(seed, labels=3)
    expected = reference.precision_recall_fscore_support(
        table["reference"], table["prediction"], labels=range(3), zero_division=0
    )
    rows = TASK.details(table, STATE)["Per label"]
    assert [row["label"] for row in rows] == STATE["labels"]
    assert [row["precision"] for row in rows] != [row["recall"] for row in rows]
    found = [[row[name] for row in rows] for name in ("precision", "recall", "f1", "support")]
    np.testing.assert_allclose(found, np.array(expected), atol=1e-12)


def test_plots_hold_each_row_and_the_filled_bins():
    from sklearn.calibration import calibration_curve

    table = random_table(5, labels=3)
    plots = TASK.plots(table, STATE)
    names = np.array(STATE["labels"])
    assert [row["actual"] for row in plots["confusion"]] == names[table["reference"]].tolist()
    assert [row["predicted"] for row in plots["confusion"]] == names[table["prediction"]].tolist()
    right = table["reference"] == table["prediction"]
    accuracy, confidence = calibration_curve(right, table["probabilities"].max(axis=1), n_bins=CALIBRATION_BINS)
    np.testing.assert_allclose([row["accuracy"] for row in plots["reliability"]], accuracy)
    np.testing.assert_allclose([row["confidence"] for row in plots["reliability"]], confidence, atol=1e-6)
    assert sum(row["rows"] for row in plots["reliability"]) == 200


# -- labels


def test_labels_are_those_of_the_training_rows_sorted(tiny_rows):
    assert TASK.learn(CONFIG, iter(tiny_rows)) == STATE


def test_pinned_labels_keep_their_order(tiny_rows):
    pinned = Config(labels=("weather", "cooking", "animals", "cars"))
    assert TASK.learn(pinned, iter(tiny_rows)) == {"labels": ["weather", "cooking", "animals", "cars"]}


def test_one_label_is_no_classification():
    with pytest.raises(DataError, match="holds 'a' only; a classifier needs two or more"):
        TASK.learn(CONFIG, iter([{"text": "x", "label": "a"}]))


@pytest.mark.parametrize("labels", [("a",), ("a", "a"), ()])
def test_pinned_labels_must_be_distinct_and_two(labels):
    with pytest.raises(ValueError, match="two or more distinct"):
        Config(labels=labels)


def test_an_unknown_label_is_a_problem_that_names_the_known_ones():
    [problem] = TASK.check_row(CONFIG, {"text": "x", "label": "cars"}, STATE)
    assert (problem.field, problem.expected) == ("label", "one of animals, cooking, weather")
    assert problem.found == "'cars'"
    assert list(TASK.check_row(CONFIG, {"text": "x", "label": "weather"}, STATE)) == []


# -- encoding


def test_pairs_are_encoded_as_the_tokenizer_does(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    rows = [
        {"text": "the cat", "text_pair": "a dog barks", "label": "animals"},
        {"text": "rain today", "text_pair": None, "label": "weather"},
        {"text": "soup " * 20, "text_pair": "bread " * 4, "label": "cooking"},
    ]
    pair, single, long = TASK.encode(CONFIG, rows, tokenizer, 16)
    expected = tokenizer("the cat", "a dog barks")
    assert pair["input_ids"] == expected["input_ids"]
    assert pair["token_type_ids"] == expected["token_type_ids"]
    assert set(pair["token_type_ids"]) == {0, 1}
    assert (single["input_ids"], single["token_type_ids"]) == (tokenizer("rain today")["input_ids"], None)
    assert (len(long["input_ids"]), len(long["token_type_ids"]), long["untruncated_length"]) == (16, 16, 27)
    assert long["token_type_ids"].count(1) == 5  # the shorter text stays whole, with its separator
    assert [row["label"] for row in (pair, single, long)] == ["animals", "weather", "cooking"]


def test_rows_without_a_label_are_encoded_for_prediction(tiny_base):
    [row] = TASK.encode(CONFIG, [{"text": "the cat"}], load_tokenizer(tiny_base), 16)
    assert row["label"] is None
    assert "labels" not in TASK.collate([row], 0, STATE)


def test_collate_pads_to_the_longest_row():
    import torch

    rows = [
        {"input_ids": [2, 9, 3], "token_type_ids": None, "label": "cooking"},
        {"input_ids": [2, 9, 3, 8, 3], "token_type_ids": [0, 0, 0, 1, 1], "label": "animals"},
    ]
    batch = TASK.collate(rows, 7, STATE)
    assert batch["input_ids"].tolist() == [[2, 9, 3, 7, 7], [2, 9, 3, 8, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]
    assert batch["labels"].tolist() == [1, 0]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


# -- model


@pytest.fixture(scope="module")
def loaded(tiny_base):
    import torch

    torch.manual_seed(0)
    return TASK.load_model(str(tiny_base), CONFIG, STATE)


def encoded(tiny_base, rows):
    return TASK.encode(CONFIG, rows, load_tokenizer(tiny_base), 32)


def test_the_head_is_new_and_carries_the_labels(loaded):
    model, new = loaded
    assert new == ["classifier"]
    assert model.config.num_labels == 3
    assert model.config.id2label == {0: "animals", 1: "cooking", 2: "weather"}


def test_a_base_without_pooler_gets_a_new_one(tiny_base, tmp_path, capsys):
    from transformers import BertModel

    BertModel.from_pretrained(tiny_base, add_pooling_layer=False).save_pretrained(tmp_path)
    capsys.readouterr()
    model, new = TASK.load_model(str(tmp_path), CONFIG, STATE)
    assert new == ["bert.pooler", "classifier"]
    assert {name for name, _ in model.named_modules()} >= set(new)
    captured = capsys.readouterr()
    assert "MISSING" not in captured.out + captured.err


@pytest.mark.parametrize("labels", [2, 3])
def test_a_head_that_the_base_brings_is_new_too(loaded, tmp_path, labels):
    model, _ = loaded
    model.save_pretrained(tmp_path)
    again, new = TASK.load_model(str(tmp_path), CONFIG, {"labels": STATE["labels"][:labels]})
    assert new == ["classifier"]
    assert again.classifier.out_features == labels


def test_a_base_that_lacks_weights_is_refused(tiny_base, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_base, tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if "encoder.layer.1" not in name}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"16 weights of the base are missing .*encoder.layer.1"):
        TASK.load_model(str(tmp_path / "base"), CONFIG, STATE)


def test_loss_is_the_sum_of_what_transformers_averages(loaded, tiny_base, tiny_rows):
    model, _ = loaded
    batch = TASK.collate(encoded(tiny_base, tiny_rows[:10]), 0, STATE)
    total, items = TASK.loss(CONFIG, model, batch)
    assert items == 10
    assert total.item() / 10 == pytest.approx(model(**batch).loss.item(), rel=1e-5)


def test_outputs_do_not_depend_on_padding(loaded, tiny_base, tiny_rows):
    import torch

    model, _ = loaded
    rows = encoded(tiny_base, tiny_rows[:8])
    with torch.no_grad():
        together = TASK.outputs(CONFIG, model, TASK.collate(rows, 0, STATE))
        alone = torch.cat([TASK.outputs(CONFIG, model, TASK.collate([row], 0, STATE)) for row in rows])
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_outputs_of_a_bfloat16_base_are_float32(tiny_base, tiny_rows):
    import torch

    model, _ = TASK.load_model(str(tiny_base), CONFIG, STATE, dtype=torch.bfloat16)
    assert TASK.outputs(CONFIG, model, TASK.collate(encoded(tiny_base, tiny_rows[:2]), 0, STATE)).dtype == torch.float32


def test_predictions_are_the_softmax_of_the_outputs():
    import torch

    outputs = np.array([[1.0, 2.0, -3.0], [1000.0, 0.0, 0.0]], dtype=np.float32)
    found = TASK.predictions(CONFIG, outputs, STATE)
    expected = torch.softmax(torch.from_numpy(outputs).double(), dim=1).float().numpy()
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-6)
    assert found["prediction"].tolist() == [1, 0]
    assert (found["prediction"].dtype, found["probabilities"].dtype) == (np.int32, np.float32)


def test_answers_name_the_label_and_every_score():
    import json

    found = TASK.answers(TASK.predictions(CONFIG, np.log([[0.2, 0.5, 0.3]]), STATE), STATE)
    assert json.loads(json.dumps(found)) == found
    [answer] = found
    assert (answer["label"], answer["score"]) == ("cooking", pytest.approx(0.5))
    assert answer["scores"] == pytest.approx({"animals": 0.2, "cooking": 0.5, "weather": 0.3})


def test_references_are_label_numbers():
    assert TASK.references([{"label": "weather"}, {"label": "animals"}], STATE)["reference"].tolist() == [2, 0]


# -- baselines


def scored(name, train, test):
    columns = TASK.baselines()[name](CONFIG, train, test, STATE, 0)
    numbers = {label: number for number, label in enumerate(STATE["labels"])}
    return {**columns, "reference": np.array([numbers[row["label"]] for row in test], np.int32)}


def test_majority_predicts_the_shares_of_the_training_rows(tiny_rows):
    train = [row for row in tiny_rows if row["label"] != "cooking"] + tiny_rows[2:3]
    table = scored("majority", train, tiny_rows)
    assert set(table["prediction"].tolist()) == {2}
    np.testing.assert_allclose(table["probabilities"][0], np.array([20, 0, 21]) / 41, rtol=1e-6)


def test_tfidf_learns_the_topic_words_the_same_way_twice(tiny_rows):
    first, second = (scored("tfidf", tiny_rows[:45], tiny_rows[45:]) for _ in range(2))
    assert TASK.metric("accuracy").function(first) == 1
    assert first["probabilities"].tobytes() == second["probabilities"].tobytes()
    np.testing.assert_allclose(first["probabilities"].sum(axis=1), 1, rtol=1e-6)


def test_tfidf_gives_a_label_without_training_rows_no_chance(tiny_rows):
    train = [row for row in tiny_rows if row["label"] != "cooking"]
    table = scored("tfidf", train, tiny_rows)
    assert not table["probabilities"][:, 1].any()
    assert table["probabilities"].shape == (60, 3)


def test_tfidf_reads_the_second_text():
    rows = [
        {"text": "x", "text_pair": pair, "label": label}
        for pair, label in [("rain", "weather"), ("soup", "cooking"), ("wind", "weather"), ("salt", "cooking")] * 3
    ]
    assert TASK.metric("accuracy").function(scored("tfidf", rows, rows)) == 1


def test_tfidf_of_one_label_or_of_signs_alone_still_answers():
    rows = [{"text": "!", "label": "weather"}, {"text": "?", "label": "weather"}]
    assert set(scored("tfidf", rows, rows)["prediction"].tolist()) == {2}
    assert scored("tfidf", [*rows, {"text": ".", "label": "animals"}], rows)["prediction"].tolist() == [2, 2]


def test_the_task_is_found_by_its_file_name():
    assert tasks.get("text_classification") is module.TASK
    with pytest.raises(ConfigError, match=r"metric 'bleu': text_classification has accuracy, macro_f1"):
        TASK.metric("bleu")
