import numpy as np
import pytest
from sklearn import metrics as reference

from graft import tasks
from graft.base import load_tokenizer
from graft.errors import DataError
from graft.tasks.multi_label_classification import CALIBRATION_BINS, TASK, Config

CONFIG = Config()
LABELS = ["animals", "cooking", "weather"]
STATE = {"labels": LABELS}


def table_of(truth, logits, config=CONFIG, labels=None):
    state = {"labels": labels or [f"l{number}" for number in range(truth.shape[1])]}
    rows = [{"labels": [state["labels"][number] for number in np.flatnonzero(row)]} for row in truth]
    columns = TASK.references(rows, state)
    columns |= TASK.predictions(config, logits.astype(np.float32), state)
    return {**columns, **TASK.judge(config, columns, state)}


def random_table(seed, rows=150, labels=6):
    source = np.random.default_rng(seed)
    truth = (source.random((rows, labels)) < np.linspace(0.05, 0.6, labels)).astype(np.uint8)
    return table_of(truth, source.normal(size=(rows, labels)) + 2 * truth - 1.2)


def sklearn_metrics(table):
    truth, predicted, probabilities = table["truth"], table["predicted"], table["probabilities"].astype(np.float64)
    occurring = (truth | predicted).any(axis=0)
    varying = truth.any(axis=0) & ~truth.all(axis=0)
    return {
        "micro_f1": reference.f1_score(truth, predicted, average="micro", zero_division=1.0),
        "macro_f1": reference.f1_score(truth[:, occurring], predicted[:, occurring], average="macro", zero_division=0),
        "accuracy": reference.accuracy_score(truth, predicted),
        "mcc": reference.matthews_corrcoef(truth.ravel(), predicted.ravel()),
        "auroc": reference.roc_auc_score(truth[:, varying], probabilities[:, varying], average="macro"),
        "log_loss": reference.log_loss(truth.ravel(), probabilities.ravel()),
    }


# -- metrics


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_scikit_learn(seed):
    table = random_table(seed)
    for name, expected in sklearn_metrics(table).items():
        assert TASK.metric(name).function(table) == pytest.approx(expected, abs=1e-6), name


def test_metrics_of_resampled_rows_equal_scikit_learn():
    """A bootstrap takes rows of the finished table: all but the area, which is first-order, must be exact."""
    table = random_table(7)
    index = np.random.default_rng(0).integers(0, 150, 150)
    taken = {name: column[index] for name, column in table.items()}
    for name, expected in sklearn_metrics(taken).items():
        tolerance = 0.01 if name == "auroc" else 1e-6
        assert TASK.metric(name).function(taken) == pytest.approx(expected, abs=tolerance), name


@pytest.mark.parametrize("seed", range(3))
def test_ece_equals_the_sum_over_bins(seed):
    table = random_table(seed)
    likely, present = table["probabilities"].ravel().astype(np.float64), table["truth"].ravel()
    total = 0.0
    for number in range(CALIBRATION_BINS):
        inside = (likely >= number / CALIBRATION_BINS) & (likely < (number + 1) / CALIBRATION_BINS)
        if inside.any():
            total += inside.mean() * abs(present[inside].mean() - likely[inside].mean())
    assert TASK.metric("ece").function(table) == pytest.approx(total)


def test_rows_without_labels_that_get_none_are_right():
    table = table_of(np.zeros((4, 2), np.uint8), np.full((4, 2), -9.0))
    assert TASK.metric("micro_f1").function(table) == 1
    assert TASK.metric("accuracy").function(table) == 1
    assert TASK.metric("mcc").function(table) == 0
    assert np.isnan(TASK.metric("auroc").function(table))
    assert table["reference"].tolist() == ["(none)"] * 4


def test_threshold_decides_which_labels_are_given():
    logits = np.log([[0.3 / 0.7, 0.7 / 0.3, 0.5 / 0.5 + 1e-3]])
    truth = np.array([[1, 1, 0]], np.uint8)
    assert table_of(truth, logits)["predicted"].tolist() == [[0, 1, 1]]
    assert table_of(truth, logits, Config(threshold=0.25))["predicted"].tolist() == [[1, 1, 1]]
    assert table_of(truth, logits, Config(threshold=0.9))["predicted"].tolist() == [[0, 0, 0]]


def test_row_scores_have_the_metric_as_their_mean():
    table = random_table(2)
    scored = [metric for metric in TASK.metrics if metric.per_row is not None]
    assert [metric.name for metric in scored] == ["accuracy", "log_loss"]
    for metric in scored:
        assert metric.per_row(table).mean() == pytest.approx(metric.function(table))


def test_details_equal_scikit_learn_per_label():
    table = random_table(3)
    rows = TASK.details(table, {"labels": list("abcdef")})["Per label"]
    expected = reference.precision_recall_fscore_support(table["truth"], table["predicted"], zero_division=0)
    found = [[row[name] for row in rows] for name in ("precision", "recall", "f1", "support")]
    np.testing.assert_allclose(found, np.array(expected), atol=1e-12)


def test_plots_hold_every_decision_once():
    from sklearn.calibration import calibration_curve

    table = random_table(4)
    rows = TASK.plots(table, STATE)["reliability"]
    shares, means = calibration_curve(table["truth"].ravel(), table["probabilities"].ravel(), n_bins=CALIBRATION_BINS)
    np.testing.assert_allclose([row["accuracy"] for row in rows], shares)
    np.testing.assert_allclose([row["confidence"] for row in rows], means, atol=1e-6)
    assert sum(row["rows"] for row in rows) == table["truth"].size


# -- rows


def test_labels_are_those_of_the_training_rows_sorted():
    rows = [{"text": "x", "labels": ["b", "a"]}, {"text": "y", "labels": []}, {"text": "z", "labels": ["c"]}]
    assert TASK.learn(CONFIG, iter(rows)) == {"labels": ["a", "b", "c"]}
    assert TASK.learn(Config(labels=("c", "a")), iter(rows)) == {"labels": ["c", "a"]}
    with pytest.raises(DataError, match="no row has a label"):
        TASK.learn(CONFIG, iter(rows[1:2]))


def test_unknown_and_repeated_labels_are_problems():
    problems = list(TASK.check_row(CONFIG, {"text": "x", "labels": ["weather", "cars", "weather"]}, STATE))
    assert [(one.field, one.found) for one in problems] == [
        ("labels", "'cars'"),
        ("labels", "'weather, cars, weather'"),
    ]
    assert list(TASK.check_row(CONFIG, {"text": "x", "labels": []}, STATE)) == []


@pytest.mark.parametrize("labels", [(), ("a", "a")])
def test_pinned_labels_must_be_distinct(labels):
    with pytest.raises(ValueError, match="one or more distinct"):
        Config(labels=labels)


def test_numeric_columns_are_fields_and_part_of_the_state():
    config = Config(numeric_columns=("length",))
    assert [field.name for field in TASK.fields_of(config)] == ["text", "text_pair", "labels", "length"]
    rows = [{"text": "x", "labels": ["a"], "length": value} for value in (1, 3)]
    assert TASK.learn(config, iter(rows)) == {"labels": ["a"], "numeric": {"length": {"mean": 2.0, "std": 1.0}}}


# -- model


def test_loss_is_transformers_own_times_the_labels(tiny_base):
    import torch

    torch.manual_seed(0)
    model, new = TASK.load_model(str(tiny_base), CONFIG, STATE)
    assert new == ["classifier"]
    rows = [{"text": "the cat", "labels": ["animals", "weather"]}, {"text": "soup and bread", "labels": []}]
    encoded = TASK.encode(CONFIG, rows, load_tokenizer(tiny_base), 16)
    batch = TASK.collate(encoded, 0, STATE)
    assert batch["labels"].tolist() == [[1, 0, 1], [0, 0, 0]]
    total, items = TASK.loss(CONFIG, model.eval(), batch)
    assert items == 2
    assert total.item() == pytest.approx(model(**batch).loss.item() * 6, rel=1e-5)


def test_rows_without_labels_are_encoded_for_prediction(tiny_base):
    [row] = TASK.encode(CONFIG, [{"text": "the cat"}], load_tokenizer(tiny_base), 16)
    assert row["labels"] is None
    assert "labels" not in TASK.collate([row], 0, STATE)


def test_answers_list_the_labels_and_every_score():
    import json

    found = TASK.answers(TASK.predictions(CONFIG, np.array([[3.0, -3.0, 2.0], [-1.0, -1.0, -1.0]]), STATE), STATE)
    assert json.loads(json.dumps(found)) == found
    assert [answer["labels"] for answer in found] == [["animals", "weather"], []]
    assert found[0]["scores"]["cooking"] == pytest.approx(1 / (1 + np.exp(3)))


# -- baselines


def both(rows):
    """Rows of two topics, and what is wrong with them."""
    return [{"text": f"{a} {b}", "labels": sorted({x, y})} for (a, x), (b, y) in rows]


WORDS = [("cat", "animals"), ("dog", "animals"), ("rain", "weather"), ("snow", "weather"), ("soup", "cooking")]


def scored(name):
    rows = both([(one, other) for one in WORDS for other in WORDS])
    columns = TASK.baselines()[name](CONFIG, rows, rows, STATE, 0)
    truth = np.array([[label in row["labels"] for label in LABELS] for row in rows], np.uint8)
    table = {**columns, "truth": truth}
    return {**table, **TASK.judge(CONFIG, table, STATE)}


def test_majority_predicts_the_shares_of_the_training_rows():
    table = scored("majority")
    np.testing.assert_allclose(table["probabilities"][0], [16 / 25, 9 / 25, 16 / 25], rtol=1e-6)
    assert table["predicted"][0].tolist() == [1, 0, 1]


def test_tfidf_learns_a_model_a_label_the_same_way_twice():
    first, second = scored("tfidf"), scored("tfidf")
    assert TASK.metric("micro_f1").function(first) == 1
    assert first["probabilities"].tobytes() == second["probabilities"].tobytes()


def test_the_task_is_found_by_its_file_name():
    assert tasks.get("multi_label_classification") is TASK
