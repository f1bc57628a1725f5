import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import log_softmax

from graft import artifact, stages
from graft.language_modeling import bits_per_byte
from graft.likelihood import IGNORED
from graft.tasks.chat import TASK, Config, answers_of, frequent, nearest
from graft.workspace import read_json
from tests.conftest import toy_rows

CONFIG = Config(generation={"max_new_tokens": 6})
ROW = {"prompt": "Sag 中文", "completion": "Grüße"}
TALK = {
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "two"},
    ]
}


@pytest.fixture(scope="module")
def model(chat_llama):
    return TASK.load_model(str(chat_llama), CONFIG, {})[0].eval()


def encoded(tokenizer, *rows, limit=100):
    return [{**row, "length": len(row["input_ids"])} for row in TASK.encode(CONFIG, rows, tokenizer, limit)]


def test_every_answer_counts_and_nothing_else(model, chat_tokenizer):
    rows = encoded(chat_tokenizer, ROW, TALK)
    found = TASK.outputs(CONFIG, model, TASK.collate(rows, chat_tokenizer.pad_token_id, {}))
    for row, (nll, tokens), answers in zip(rows, found.tolist(), (["Grüße"], ["one", "two"]), strict=True):
        ids = torch.tensor(row["input_ids"])
        chances = log_softmax(model(ids[None]).logits[0], dim=1)
        places = [n for n, label in enumerate(row["labels"]) if label != IGNORED]
        assert tokens == len(places) == sum(len(text.encode()) + 1 for text in answers)
        assert nll == pytest.approx(-sum(chances[n - 1, ids[n]].item() for n in places), rel=1e-5)
        assert row["bytes"] == sum(len(text.encode()) for text in answers)
        assert row["ended"]


def test_end_is_learnt_where_it_is_the_padding_too(bos_tokenizer, chat_tokenizer):
    rows = TASK.encode(
        Config(
            template="{{ messages[0]['content'] + messages[1]['content'] if messages|length > 1 "
            "else messages[0]['content'] }}"
        ),
        [ROW],
        chat_tokenizer,
        100,
    )
    assert chat_tokenizer.pad_token_id == chat_tokenizer.eos_token_id == rows[0]["labels"][-1]
    batch = TASK.collate(
        [rows[0], {**rows[0], "input_ids": rows[0]["input_ids"] * 2, "labels": rows[0]["labels"] * 2}], 2, {}
    )
    end = len(rows[0]["input_ids"])
    assert batch["labels"][0, end - 1] == 2
    assert (batch["labels"][0, end:] == IGNORED).all()


def test_rows_need_a_prompt_and_its_completion_or_messages():
    def problems(**row):
        return [(one.field, one.expected) for one in TASK.check_row(CONFIG, row, {})]

    assert problems(prompt="p", completion="c") == []
    assert problems(**TALK) == []
    assert problems(prompt="p", completion=None) == [("completion", "prompt and completion, or messages")]
    assert [field for field, _ in problems()] == ["prompt", "completion"]
    assert problems(messages=TALK["messages"][:1]) == [("messages", "an answer at the end")]
    assert problems(messages=TALK["messages"][:1] * 2 + TALK["messages"][1:2]) == [
        ("messages", "message 2 from assistant")
    ]


def test_template_is_checked_with_the_section():
    with pytest.raises(ValidationError, match="not a chat template"):
        Config(template="{% if %}")


def test_generation_sees_the_prompt_alone_and_stops_at_the_end_of_the_turn(model, chat_tokenizer):
    asked, answered = encoded(chat_tokenizer, {"prompt": "Sag 中文"}, ROW)
    first, second = TASK.generate(CONFIG, model, [asked, answered], chat_tokenizer, 2)
    assert first == second
    ids = chat_tokenizer.apply_chat_template(
        [{"role": "user", "content": "Sag 中文"}], add_generation_prompt=True, return_tensors="pt"
    ).input_ids
    whole = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=[2, 4])[0, ids.shape[1] :]
    assert first == chat_tokenizer.decode(whole, skip_special_tokens=True)


def test_generated_answers_are_judged_in_every_script():
    table = {"reference": np.array(["中文很好", "yes"], object), "prediction": np.array(["中文不好", "Yes "], object)}
    found = TASK.judge(CONFIG, table, {})
    assert found["exact"].tolist() == [0, 1]
    np.testing.assert_allclose(found["rouge1"], [0.75, 1])
    np.testing.assert_allclose(found["rougeL"], [0.75, 1])
    assert TASK.judge(CONFIG, {"reference": table["reference"]}, {}) == {}


def test_baselines_answer_and_have_a_likelihood():
    train = [{"prompt": "red fruit", "completion": "apple"}, {"prompt": "a car", "completion": "bus"}, *[TALK] * 2]
    test = [{"prompt": "some red fruit", "completion": "cherry"}]
    most, near = frequent(CONFIG, train, test, {}, 0), nearest(CONFIG, train, test, {}, 0)
    assert most["prediction"].tolist() == ["two"]
    assert near["prediction"].tolist() == ["apple"]
    for table in (most, near):
        assert table["bytes"].tolist() == [6]
        assert 0 < bits_per_byte(table) < 16
    assert answers_of(TALK) == ["one", "two"]


@pytest.mark.slow
@pytest.mark.parametrize("base", ["bos_llama", "chat_llama"])
def test_chain_learns_to_answer(language_project, base, request):
    rows = toy_rows(90, 3)

    def make(number):
        row = rows[number]
        if number % 2:
            return {"prompt": row["text"][:12], "completion": row["label"]}
        talk = [{"role": "user", "content": row["text"][:8]}, {"role": "assistant", "content": row["label"]}]
        return {"messages": talk}

    project = language_project(
        request.getfixturevalue(base), make, {"name": "chat", "generation": {"max_new_tokens": 8}}
    )
    for stage in ("validate", "tokenize", "train", "evaluate", "register"):
        stages.run(stage, project)
    metrics = read_json(project.evaluation / "metrics.json")
    assert metrics["adapter"]["bits_per_byte"]["value"] < metrics["base"]["bits_per_byte"]["value"]
    assert {"exact_match", "rougeL", "bits_per_byte"} <= metrics["nearest"].keys()
    assert "perplexity" not in metrics["frequent"]
    loaded = artifact.load(project.adapter, project.root)
    answers = artifact.predict(loaded, [{"prompt": "the cat"}, {"messages": TALK["messages"][:3]}])
    assert all(isinstance(one["text"], str) for one in answers)


def test_report_says_how_answers_were_generated():
    found = TASK.measured(CONFIG, {"reference": np.array(["one", "two"], dtype=object)}, {})
    assert (found["max_new_tokens"], found["num_beams"], found["repetition_penalty"]) == ("6", "1", "1")
    assert "rouge-score" in found["rouge"]


@pytest.mark.parametrize("blank", [False, True])
def test_nearest_prompt_is_found_in_scripts_without_spaces_and_without_words(blank):
    known = [("请问明天北京天气怎么样", "晴"), ("如何做西红柿炒鸡蛋", "先炒蛋")]
    train = [{"prompt": " " if blank else prompt, "completion": answer} for prompt, answer in known]
    asked = [{"prompt": prompt, "completion": "?"} for prompt in ("明天上海天气怎么样呢", "怎么做西红柿鸡蛋汤")]
    found = nearest(CONFIG, train, asked, {}, 0)["prediction"].tolist()
    assert found == (["晴", "晴"] if blank else ["晴", "先炒蛋"])
