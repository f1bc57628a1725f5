import numpy as np
import pytest
import torch

from graft import artifact, stages
from graft.adapters import AdapterConfig, attach
from graft.tasks.preference import COLUMNS, TASK, Config, coin, longer, pair_losses
from graft.workspace import read_json
from tests.conftest import toy_rows

CONFIG = Config(beta=0.5, generation={"max_new_tokens": 4})
ROWS = [
    {"prompt": "Say a", "chosen": "yes, 中文", "rejected": "no"},
    {"messages": [{"role": "user", "content": "Hi"}], "chosen": "a", "rejected": "longer answer"},
]
OUTPUTS = np.array([[-3.0, -9.0, -4.0, -8.0, 4, 6], [-5.0, -2.0, -3.0, -3.0, 5, 2], [-1.0, -1.0, -1.0, -1.0, 1, 2]])


@pytest.fixture
def model(chat_llama):
    torch.manual_seed(0)
    base = TASK.load_model(str(chat_llama), CONFIG, {})[0]
    adapted = attach(base, AdapterConfig(method="lora", r=4, target_modules="all-linear"), [])
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return adapted.eval()


def batch_of(tokenizer, rows=ROWS, limit=100):
    return TASK.collate(TASK.encode(CONFIG, rows, tokenizer, limit), tokenizer.pad_token_id, {})


def losses_of(config):
    return pair_losses(config, torch.from_numpy(OUTPUTS)).numpy()


# -- the loss


def test_dpo_equals_the_formula():
    expected = [-np.log(1 / (1 + np.exp(-0.5 * ((pc - rc) - (pr - rr))))) for pc, pr, rc, rr, _, _ in OUTPUTS]
    np.testing.assert_allclose(losses_of(CONFIG), expected)
    assert losses_of(CONFIG)[2] == pytest.approx(np.log(2))


def test_label_smoothing_mixes_both_labels():
    plain, turned = losses_of(CONFIG), losses_of(CONFIG) + 0.5 * np.array([2.0, -3.0, 0.0])
    np.testing.assert_allclose(losses_of(Config(beta=0.5, label_smoothing=0.2)), 0.8 * plain + 0.2 * turned)


def test_ipo_is_a_squared_distance_per_token():
    per_token = [((pc - rc) / tc - (pr - rr) / tr) for pc, pr, rc, rr, tc, tr in OUTPUTS]
    expected = [(h - 1 / (2 * 0.5)) ** 2 for h in per_token]
    np.testing.assert_allclose(losses_of(Config(loss="ipo", beta=0.5)), expected)


def test_sft_term_is_the_likelihood_of_the_chosen_answer():
    added = losses_of(Config(beta=0.5, sft_weight=0.3)) - losses_of(CONFIG)
    np.testing.assert_allclose(added, 0.3 * np.array([3 / 4, 5 / 5, 1.0]))


# -- the model


def test_outputs_equal_transformers_losses(model, chat_tokenizer):
    batch = batch_of(chat_tokenizer)
    found = TASK.outputs(CONFIG, model, batch)
    assert found.shape == (2, len(COLUMNS))
    for line in range(4):
        kept = batch["attention_mask"][line] == 1
        ids, labels = batch["input_ids"][line][kept][None], batch["labels"][line][kept][None]
        tokens = int((labels != -100).sum())
        column = line % 2
        policy = -model(input_ids=ids, labels=labels).loss.item() * tokens
        with model.disable_adapter():
            reference = -model(input_ids=ids, labels=labels).loss.item() * tokens
        row = found[line // 2]
        assert row[column].item() == pytest.approx(policy, rel=1e-4)
        assert row[2 + column].item() == pytest.approx(reference, rel=1e-4)
        assert row[4 + column] == tokens
        assert abs(policy - reference) > 1e-3


def test_answers_are_supervised_with_their_end(chat_tokenizer):
    batch = batch_of(chat_tokenizer)
    texts = [chat_tokenizer.decode(line[line != -100]) for line in batch["labels"]]
    expected = [text for row in ROWS for text in (row["chosen"], row["rejected"])]
    assert [text.removesuffix("\n") for text in texts] == [f"{text}<|im_end|>" for text in expected]


def test_reference_runs_without_dropout_and_gradient(model, chat_tokenizer):
    batch = batch_of(chat_tokenizer)
    calm = TASK.outputs(CONFIG, model, batch)
    model.train()
    noisy = TASK.outputs(CONFIG, model, batch)
    assert model.training
    torch.testing.assert_close(noisy[:, 2:4], calm[:, 2:4])
    assert (noisy[:, :2] - calm[:, :2]).abs().max() > 1e-3
    loss, pairs = TASK.loss(CONFIG, model, batch)
    loss.backward()
    assert pairs == 2
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == {
        name for name, weight in model.named_parameters() if "lora_" in name
    }


def test_base_prefers_neither(model, chat_tokenizer):
    with model.disable_adapter():
        outputs = TASK.outputs(CONFIG, model, batch_of(chat_tokenizer)).numpy()
    table = TASK.predictions(CONFIG, outputs, {})
    assert table["margin"].tolist() == [0, 0]
    assert TASK.metric("preference_accuracy").function(table) == 0.5
    assert TASK.metric("loss").function(table) == pytest.approx(np.log(2))


def test_metrics_follow_from_the_likelihoods():
    table = TASK.predictions(CONFIG, OUTPUTS.astype(np.float32), {})
    values = {one.name: one.function(table) for one in TASK.metrics}
    assert values["preference_accuracy"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert values["margin"] == pytest.approx(0.5 * (2 - 3 + 0) / 3)
    # -3/4 > -9/6, but -5/5 = -2/2, and -1/1 < -1/2
    assert values["likelihood_accuracy"] == pytest.approx(1 / 3)
    assert values["loss"] == pytest.approx(losses_of(CONFIG).mean())
    assert [one["label"] for one in TASK.answers(table, {})] == ["chosen", "rejected", "neither"]


# -- rows


def test_long_pairs_keep_one_prompt_and_say_so(chat_tokenizer):
    pair = {"prompt": "x" * 90, "chosen": "y" * 20, "rejected": "z"}
    row = TASK.encode(CONFIG, [pair], chat_tokenizer, 60)[0]
    first, second = row["windows"]
    assert (first, row["prompts"][0]) == (60, row["prompts"][1])
    assert row["input_ids"][: row["prompts"][0]] == row["input_ids"][first : first + row["prompts"][1]]
    assert row["untruncated_length"] > first + second


def test_rows_that_say_nothing_are_refused():
    def problems(**row):
        return [one.field for one in TASK.check_row(CONFIG, row, {})]

    assert problems(**ROWS[0]) == problems(**ROWS[1]) == []
    assert problems(prompt="p", chosen="a", rejected="a") == ["rejected"]
    assert problems(chosen="a", rejected="b") == ["prompt"]
    assert problems(messages=[{"role": "assistant", "content": "x"}], chosen="a", rejected="b") == ["messages"] * 2


def test_baselines_go_by_length_or_by_nothing():
    rows = [{"chosen": "中", "rejected": "ab"}, {"chosen": "a", "rejected": "ab"}, {"chosen": "a", "rejected": "b"}]
    assert longer(CONFIG, [], rows, {}, 0)["preferred"].tolist() == [1, 0, 0.5]
    assert coin(CONFIG, [], rows, {}, 0)["preferred"].tolist() == [0.5] * 3


@pytest.mark.slow
@pytest.mark.parametrize("base", ["bos_llama", "chat_llama"])
def test_chain_learns_a_preference(language_project, base, request):
    rows = toy_rows(90, 3)

    def make(number):
        words = rows[number]["text"][:10]
        return {"prompt": words, "chosen": f"{words} ok", "rejected": f"{words} NO"}

    project = language_project(
        request.getfixturevalue(base), make, {"name": "preference", "beta": 0.3, "generation": {"max_new_tokens": 4}}
    )
    for stage in ("validate", "tokenize", "train", "evaluate", "register"):
        stages.run(stage, project)
    metrics = read_json(project.evaluation / "metrics.json")
    assert metrics["adapter"]["preference_accuracy"]["value"] > 0.9
    assert metrics["adapter"]["margin"]["value"] > 0
    assert metrics["base"]["preference_accuracy"]["value"] == 0.5
    assert metrics["base"]["margin"]["value"] == 0
    assert metrics["longer"].keys() == metrics["coin"].keys() == {"preference_accuracy"}
    loaded = artifact.load(project.adapter, project.root)
    assert all(isinstance(one["text"], str) for one in artifact.predict(loaded, [{"prompt": "the cat"}]))
