import numpy as np
import pytest
from scipy import stats

from graft import tasks
from graft.adapters import AdapterConfig, attach
from graft.base import load_tokenizer
from graft.errors import ConfigError, DataError
from graft.pooling import mean_of
from graft.tasks.regression import TASK, Config

CONFIG = Config()
BI = Config(pair="bi")
STATE = {"target": {"mean": 2.0, "std": 1.5, "min": 0.0, "max": 5.0}}
PAIRS = [
    {"text": "the cat", "text_pair": "a dog barks", "target": 4.0},
    {"text": "rain today", "text_pair": "soup", "target": 0.5},
    {"text": "old bread", "text_pair": "bread in the oven is old", "target": 5.0},
]


def table(seed, rows=100, ties=False):
    source = np.random.default_rng(seed)
    target = source.normal(size=rows) * 3 + 1
    found = target + source.normal(size=rows) * 2
    return {"reference": target.round() if ties else target, "prediction": found.round() if ties else found}


# -- metrics


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_scipy_and_scikit_learn(seed, ties):
    from sklearn import metrics

    made = table(seed, ties=ties)
    expected = {
        "spearman": stats.spearmanr(made["reference"], made["prediction"]).statistic,
        "pearson": stats.pearsonr(made["reference"], made["prediction"]).statistic,
        "rmse": metrics.root_mean_squared_error(made["reference"], made["prediction"]),
        "mae": metrics.mean_absolute_error(made["reference"], made["prediction"]),
    }
    assert set(expected) == {metric.name for metric in TASK.metrics}
    for name, value in expected.items():
        assert TASK.metric(name).function(made) == pytest.approx(value), name


def test_correlations_of_a_constant_are_zero():
    made = {**table(0), "prediction": np.full(100, 2.5)}
    assert TASK.metric("spearman").function(made) == TASK.metric("pearson").function(made) == 0
    one = {name: column[:1] for name, column in made.items()}
    assert TASK.metric("spearman").function(one) == 0


def test_the_worst_rows_are_those_with_the_largest_error():
    metric, made = TASK.metric(TASK.worst), table(1)
    assert not metric.greater_is_better
    squares = (made["reference"] - made["prediction"]) ** 2
    assert np.argsort(metric.per_row(made)).tolist() == np.argsort(squares).tolist()


def test_details_and_plots_hold_each_row_once():
    made = table(2)
    rows = TASK.details(made, STATE)["By quarter of the targets"]
    assert sum(row["support"] for row in rows) == 100
    assert sum(row["mae"] * row["support"] for row in rows) / 100 == pytest.approx(TASK.metric("mae").function(made))
    scatter = TASK.plots(made, STATE)["scatter"]
    assert [row["prediction"] for row in scatter] == made["prediction"].tolist()


# -- rows


def test_the_target_is_standardised_on_the_training_rows():
    rows = [{"text": "x", "target": value} for value in (1, 2, 6)]
    state = TASK.learn(CONFIG, iter(rows))
    values = np.array([1, 2, 6])
    assert state == {"target": pytest.approx({"mean": 3, "std": values.std(), "min": 1, "max": 6})}
    with pytest.raises(DataError, match="targets are all equal"):
        TASK.learn(CONFIG, iter(rows[:1] * 3))


def test_numeric_columns_have_their_own_moments():
    config = Config(numeric_columns=("length",))
    rows = [{"text": "x", "target": value, "length": 10 * value} for value in (1, 3)]
    state = TASK.learn(config, iter(rows))
    assert state["numeric"] == {"length": {"mean": 20.0, "std": 10.0}}
    assert TASK.fields_of(config)[-1].type == "number"


def test_a_row_without_a_second_text_is_refused_where_texts_are_read_apart(tiny_base):
    [problem] = TASK.check_row(BI, {"text": "x", "text_pair": None, "target": 1}, STATE)
    assert (problem.field, problem.found) == ("text_pair", "nothing")
    assert list(TASK.check_row(CONFIG, {"text": "x", "text_pair": None, "target": 1}, STATE)) == []
    with pytest.raises(DataError, match=r"row 2: text_pair: expected a second text"):
        TASK.encode(BI, [PAIRS[0], {"text": "x"}], load_tokenizer(tiny_base), 16)


# -- model


def loaded(folder, config):
    import torch

    torch.manual_seed(0)
    model, new = TASK.load_model(str(folder), config, STATE)
    rows = TASK.encode(config, PAIRS, load_tokenizer(folder), 32)
    return model.eval(), new, rows


def test_loss_is_transformers_own(tiny_base):
    model, new, rows = loaded(tiny_base, CONFIG)
    assert new == ["classifier"]
    batch = TASK.collate(rows, 0, STATE)
    assert batch["labels"].tolist() == pytest.approx([(row["target"] - 2) / 1.5 for row in PAIRS])
    total, items = TASK.loss(CONFIG, model, batch)
    assert items == 3
    assert total.item() / 3 == pytest.approx(model(**batch).loss.item(), rel=1e-5)


def test_predictions_are_in_the_unit_of_the_data(tiny_base):
    _, _, rows = loaded(tiny_base, CONFIG)
    outputs = TASK.collate(rows, 0, STATE)["labels"].numpy()[:, None]
    found = TASK.predictions(CONFIG, outputs, STATE)["prediction"]
    assert found == pytest.approx([row["target"] for row in PAIRS])
    assert TASK.references(rows, STATE)["reference"].tolist() == [row["target"] for row in PAIRS]
    assert TASK.answers({"prediction": found}, STATE)[0] == {"value": pytest.approx(4.0)}


def test_the_untouched_base_apart_gives_the_cosine_on_the_range_of_the_targets(tiny_base):
    """Second route: each text through the base by itself."""
    import torch

    model, new, rows = loaded(tiny_base, BI)
    assert new == ["classifier"]
    tokenizer, cosines = load_tokenizer(tiny_base), []
    for pair in PAIRS:
        with torch.no_grad():
            states = []
            for name in ("text", "text_pair"):
                one = tokenizer(pair[name], return_tensors="pt", return_token_type_ids=False)
                states.append(mean_of(model.bert(**one).last_hidden_state, one["attention_mask"])[0])
            cosines.append(float(torch.cosine_similarity(*states, dim=0)))
    with torch.no_grad():
        outputs = TASK.outputs(BI, model, TASK.collate(rows, 0, STATE)).numpy()
    found = TASK.predictions(BI, outputs, STATE)["prediction"]
    assert found == pytest.approx([5 * one for one in cosines], abs=1e-4)


@pytest.mark.parametrize("config", [CONFIG, BI], ids=["cross", "bi"])
@pytest.mark.parametrize("base", ["tiny_base", "tiny_decoder"])
def test_outputs_do_not_depend_on_the_batch(request, base, config):
    import torch

    model, _, rows = loaded(request.getfixturevalue(base), config)
    with torch.no_grad():
        together = TASK.outputs(config, model, TASK.collate(rows, 0, STATE))
        alone = torch.cat([TASK.outputs(config, model, TASK.collate([row], 0, STATE)) for row in rows])
    assert together.shape == (3, 1)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, BI], ids=["cross", "bi"])
def test_an_adapter_learns_three_rows(tiny_base, config):
    import torch

    model, new, rows = loaded(tiny_base, config)
    wrapped = attach(model, AdapterConfig(r=4, target_modules=["query", "value"]), new)
    weights = [value for value in wrapped.parameters() if value.requires_grad]
    optimizer, batch = torch.optim.Adam(weights, lr=2e-2), TASK.collate(rows, 0, STATE)
    losses = []
    for _ in range(60):
        loss, _ = TASK.loss(config, wrapped, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_texts_of_an_encoder_decoder_are_not_read_apart(tiny_t5):
    with pytest.raises(ConfigError, match=r"task.pair: bi needs an encoder or a decoder"):
        TASK.load_model(str(tiny_t5), BI, STATE)


# -- baselines


def test_mean_predicts_the_mean_of_the_training_rows():
    found = TASK.baselines()["mean"](CONFIG, PAIRS, PAIRS, STATE, 0)
    assert found["prediction"].tolist() == [2.0] * 3


def test_tfidf_takes_the_cosine_of_pairs_and_ridge_of_single_texts():
    from graft.tfidf import ridge_values, similarity_values

    targets = np.array([row["target"] for row in PAIRS])
    pairs = [(row["text"], row["text_pair"]) for row in PAIRS]
    found = TASK.baselines()["tfidf_regression"](CONFIG, PAIRS, PAIRS, STATE, 0)["prediction"]
    np.testing.assert_array_equal(found, similarity_values(pairs, targets, pairs))
    singles = [{**row, "text_pair": None} for row in PAIRS]
    texts = [row["text"] for row in singles]
    found = TASK.baselines()["tfidf_regression"](CONFIG, singles, singles, STATE, 0)["prediction"]
    np.testing.assert_array_equal(found, ridge_values(texts, targets, texts))


def test_the_task_is_found_by_its_file_name():
    assert tasks.get("regression") is TASK
