import json
import random
import warnings

import numpy as np
import pytest
import seqeval.metrics as reference

from graft import stages, tasks
from graft.artifact import raw_outputs
from graft.base import load_tokenizer
from graft.errors import DataError
from graft.evaluation.intervals import Taken
from graft.likelihood import IGNORED
from graft.tasks import token_classification as module
from graft.tasks.token_classification import ABSENT, LOWEST, TASK, UNREAD, Config
from tests.conftest import check_rows, problems_of

CONFIG = Config()
WORDS = {"cat": "animal", "dog": "animal", "horse": "animal", "soup": "food", "bread": "food", "flour": "food"}
FILLERS = ("the", "a", "and", "with", "is", "very", "small", "big", "today", "here")
STATE = {"tags": ["O", "B-animal", "B-food", "I-animal", "I-food"], "scheme": "IOB2"}


def tagged_rows(count, seed, longest=8):
    """Rows (tokens, tags) of one and two words of a kind, which give the tags away."""
    source, rows = random.Random(seed), []
    for _ in range(count):
        tokens, tags = [source.choice(FILLERS)], ["O"]
        while len(tokens) < longest:
            kind = source.choice(("animal", "food", ""))
            words = source.sample(
                [word for word, one in WORDS.items() if one == kind] or FILLERS, source.choice((1, 2))
            )
            tokens += [*words, source.choice(FILLERS)]
            tags += [*(f"{'I' if place else 'B'}-{kind}" if kind else "O" for place in range(len(words))), "O"]
        rows.append({"tokens": tokens, "tags": tags})
    return rows


def random_tags(seed, rows=60):
    source = random.Random(seed)
    tags = ["O", "B-a", "I-a", "B-b", "I-b", "B-c-d", "I-c-d", "E-a", "S-a", "S-b"]
    actual = [[source.choice(tags) for _ in range(source.randint(1, 9))] for _ in range(rows)]
    predicted = [[tag if source.random() < 0.7 else source.choice(tags) for tag in row] for row in actual]
    return actual, predicted


def table_of(actual, predicted):
    columns = {"reference": actual, "prediction": predicted}
    table = {name: np.array([" ".join(row) for row in rows], dtype=object) for name, rows in columns.items()}
    return {**table, **TASK.judge(CONFIG, table, STATE)}


def encoded(base, rows, limit=32, config=CONFIG):
    return TASK.encode(config, rows, load_tokenizer(base), limit)


@pytest.fixture(scope="module")
def loaded(tiny_base):
    import torch

    torch.manual_seed(0)
    model, new_modules = TASK.load_model(str(tiny_base), CONFIG, STATE)
    return model.eval(), new_modules


# -- metrics


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_seqeval(seed):
    actual, predicted = random_tags(seed)
    table = table_of(actual, predicted)
    expected = {
        "f1": reference.f1_score(actual, predicted),
        "precision": reference.precision_score(actual, predicted),
        "recall": reference.recall_score(actual, predicted),
        "token_accuracy": reference.accuracy_score(actual, predicted),
        "row_accuracy": np.mean([one == other for one, other in zip(actual, predicted, strict=True)]),
    }
    assert {metric.name for metric in TASK.metrics} == set(expected)
    for name, value in expected.items():
        assert TASK.metric(name).function(table) == pytest.approx(value), name


def test_f1_of_resampled_rows_is_that_of_their_tags():
    actual, predicted = random_tags(9)
    drawn = np.random.default_rng(0).integers(0, len(actual), 40)
    expected = reference.f1_score([actual[row] for row in drawn], [predicted[row] for row in drawn])
    assert TASK.metric("f1").function(Taken(table_of(actual, predicted), drawn)) == pytest.approx(expected)


def test_details_equal_seqeval_s_report():
    actual, predicted = random_tags(3)
    expected = reference.classification_report(actual, predicted, output_dict=True)
    rows = TASK.details(table_of(actual, predicted), STATE)["Per entity"]
    assert [row["entity"] for row in rows] == [name for name in expected if not name.endswith("avg")]
    for row in rows:
        found = {
            "precision": row["precision"],
            "recall": row["recall"],
            "f1-score": row["f1"],
            "support": row["support"],
        }
        assert found == pytest.approx(expected[row["entity"]])


def test_nothing_predicted_scores_zero_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = table_of([["B-a", "O"]], [["O", "O"]])
        values = {metric.name: metric.function(table) for metric in TASK.metrics}
    assert values == {"f1": 0, "precision": 0, "recall": 0, "token_accuracy": 0.5, "row_accuracy": 0}


def test_plots_hold_each_word():
    [first, second, *_] = TASK.plots(table_of([["B-a", "O"]], [["I-b", "O"]]), STATE)["confusion"]
    assert (first, second) == ({"actual": "a", "predicted": "b"}, {"actual": "O", "predicted": "O"})


# -- rows


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [(["O", "B-a", "I-a"], "IOB2"), (["B-a"], "IOB2"), (["S-a", "O"], "IOBES"), (["O", "I-a", "I-a"], "IO")],
)
def test_scheme_follows_from_the_training_tags(tags, scheme):
    rows = [{"tokens": ["x"] * len(tags), "tags": tags}]
    assert TASK.learn(CONFIG, iter(rows)) == {"tags": ["O", *sorted({*tags} - {"O"})], "scheme": scheme}
    assert TASK.learn(Config(scheme="IOB1"), iter(rows))["scheme"] == "IOB1"


def test_rows_without_any_entity_are_no_training_data():
    with pytest.raises(DataError, match="every tag is 'O'"):
        TASK.learn(CONFIG, iter([{"tokens": ["x"], "tags": ["O"]}]))


@pytest.mark.parametrize(
    ("scheme", "tags", "found"),
    [
        ("IOB2", "O O", None),
        ("IOB2", "B-a I-a O B-a B-a", None),
        ("IOB2", "B-a I-a", "3 tokens"),
        ("IOB2", "O I-a O", "'I-a' after tag 1, 'O'"),
        ("IOB2", "I-a O O", "'I-a' after tag 0, 'O'"),
        ("IOB2", "B-a I-b O", "'I-b' after tag 1, 'B-a'"),
        ("IOB2", "O E-a O", "'E-a', tag 2"),
        ("IOB2", "O person O", "'person', tag 2"),
        ("IOB2", "O B- O", "'B-', tag 2"),
        ("IOB2", "O B-new O", "'B-new', tag 2"),
        ("IOB1", "I-a O I-b B-b", None),
        ("IO", "I-a I-b O", None),
        ("IO", "O B-a O", "'B-a', tag 2"),
        ("IOBES", "S-a B-b I-b E-b O", None),
        ("IOBES", "B-a O O", "'O' after tag 1, 'B-a'"),
        ("IOBES", "O O B-a", "the end of the row after tag 3, 'B-a'"),
        ("IOBES", "O E-a O", "'E-a' after tag 1, 'O'"),
        ("IOBES", "B-a E-b O", "'E-b' after tag 1, 'B-a'"),
        ("IOBES", "B-a B-a E-a", "'B-a' after tag 1, 'B-a'"),
    ],
)
def test_a_row_that_breaks_the_scheme_is_refused(scheme, tags, found):
    state = {"tags": ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in "ab")], "scheme": scheme}
    words = 3 if found == "3 tokens" else len(tags.split())
    problems = list(TASK.check_row(CONFIG, {"tokens": ["x"] * words, "tags": tags.split()}, state))
    if found is None:
        assert problems == []
    elif found == "3 tokens":
        assert [(one.field, one.expected, one.found) for one in problems] == [("tags", "3 tags, one per token", "2")]
    else:
        assert [(one.field, one.found) for one in problems] == [("tags", found)]


# -- tokens


def test_a_word_is_read_at_its_first_sub_token(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    row = {"tokens": ["the", "cats", "zoo", "soup"], "tags": ["O", "B-animal", "O", "B-food"]}
    [found] = encoded(tiny_base, [row])
    pieces = tokenizer.convert_ids_to_tokens(found["input_ids"])
    assert pieces == ["[CLS]", "the", "cat", "##s", "z", "##o", "##o", "soup", "[SEP]"]
    assert [pieces[place] for place in found["words"]] == ["the", "cat", "z", "soup"]
    assert (found["tags"], found["windows"], found["untruncated_length"]) == (row["tags"], [9], 9)


def test_words_of_a_byte_level_vocabulary_keep_their_spaces():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: number for number, letter in enumerate([*"abc", "Ġ", "ab", "Ġab", "Ġc"])}
    inner = Tokenizer(models.BPE(vocabulary, merges=[("a", "b"), ("Ġ", "ab"), ("Ġ", "c")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    [found] = TASK.encode(CONFIG, [{"tokens": ["ab", "ab", "c", "abc"]}], tokenizer, 32)
    assert tokenizer.convert_ids_to_tokens(found["input_ids"]) == ["ab", "Ġab", "Ġc", "Ġab", "c"]
    assert (found["words"], found["tags"]) == ([0, 1, 2, 3], None)


def test_a_word_without_a_token_is_tagged_outside_and_teaches_nothing(loaded, tiny_base):
    import torch

    row = {"tokens": ["cat", "\u200b", "soup"], "tags": ["B-animal", "B-food", "B-food"]}
    [found] = encoded(tiny_base, [row])
    assert found["words"] == [1, UNREAD, 2]
    batch = TASK.collate([found], 0, STATE)
    assert batch["labels"].tolist() == [[1, IGNORED, 2]]
    with torch.no_grad():
        outputs = TASK.outputs(CONFIG, loaded[0], batch).numpy()
    assert TASK.predictions(CONFIG, outputs, STATE)["prediction"][0].split()[1] == "O"
    mute = {"tokens": ["\u200b"], "tags": ["O"]}
    kept, checked = check_rows(TASK, CONFIG, [row, mute], load_tokenizer(tiny_base), limit=32)
    assert [one["supervised"] for one in kept] == [2, 0]
    assert problems_of(checked) == [("empty", "data/train/part.jsonl:2", "tokens")]


@pytest.mark.parametrize(("limit", "stride"), [(6, 0), (7, 2), (10, 4), (10, 100), (4, 1)])
def test_windows_show_every_word_of_a_long_row(tiny_base, limit, stride):
    tokenizer = load_tokenizer(tiny_base)
    [row] = tagged_rows(1, 0, longest=30)
    [whole] = encoded(tiny_base, [row], limit=1000)
    [found] = encoded(tiny_base, [row], limit=limit, config=Config(stride_tokens=stride))
    assert len(found["windows"]) > 1
    assert sum(found["windows"]) == len(found["input_ids"]) == found["untruncated_length"]
    read = [found["input_ids"][place] for place in found["words"]]
    assert read == [whole["input_ids"][place] for place in whole["words"]]
    start = 0
    for length in found["windows"]:
        window = found["input_ids"][start : start + length]
        assert length <= limit
        assert (window[0], window[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        start += length


def test_a_word_of_two_windows_is_read_where_more_is_around_it(tiny_base):
    row = {"tokens": ["the"] * 10}
    [found] = encoded(tiny_base, [row], limit=8, config=Config(stride_tokens=2))
    # Windows of six words, 0-5 and 4-9, stand at 1-6 and 9-14. The first shows a right neighbour of word 4, the second
    # a left one of word 5.
    assert found["windows"] == [8, 8]
    assert found["words"] == [1, 2, 3, 4, 5, 10, 11, 12, 13, 14]


# -- model


def test_only_the_head_is_new(loaded):
    model, new_modules = loaded
    assert new_modules == ["classifier"]
    assert model.config.id2label == dict(enumerate(STATE["tags"]))


def test_loss_is_the_sum_of_what_transformers_averages(loaded, tiny_base):
    import torch

    model, _ = loaded
    rows = encoded(tiny_base, tagged_rows(6, 1))
    batch = TASK.collate(rows, 0, STATE)
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for line, row in enumerate(rows):
        labels[line, row["words"]] = torch.tensor([STATE["tags"].index(tag) for tag in row["tags"]])
    expected = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    total, items = TASK.loss(CONFIG, model, batch)
    assert items == sum(len(row["words"]) for row in rows)
    assert total.item() / items == pytest.approx(expected.item(), rel=1e-5)


def test_outputs_do_not_depend_on_the_batch(loaded, tiny_base):
    model, _ = loaded
    rows = [row for longest in (4, 30, 8) for row in encoded(tiny_base, tagged_rows(2, longest, longest), limit=12)]
    settings = {"pad_token_id": 0, "device": "cpu"}
    together = raw_outputs(model, TASK, CONFIG, STATE, rows, batch_rows=6, **settings)
    alone = raw_outputs(model, TASK, CONFIG, STATE, rows, batch_rows=1, **settings)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together[together > LOWEST], alone[alone > LOWEST], atol=1e-5)
    first, second = (TASK.predicted(CONFIG, one, rows, STATE) for one in (together, alone))
    assert first["prediction"].tolist() == second["prediction"].tolist()
    assert [len(tags.split()) for tags in first["prediction"]] == [len(row["words"]) for row in rows]


def test_probabilities_are_the_softmax_of_the_outputs():
    import torch

    outputs = np.array([[[0, 3, 1, 0, 0], [2, 0, 0, 0, 0]], [[0, 0, 0, 1, 0], [LOWEST] * 5]], dtype=np.float32)
    found = TASK.predictions(CONFIG, outputs, STATE)
    assert found["prediction"].tolist() == ["B-animal O", "I-animal"]
    expected = torch.softmax(torch.from_numpy(outputs), dim=-1).amax(dim=-1)
    np.testing.assert_allclose(found["confidence"][0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found["confidence"][1], expected[1, :1], rtol=1e-6)


def test_virtual_tokens_in_front_move_no_word(tiny_base):
    import torch
    from peft import PromptTuningConfig, get_peft_model

    model, _ = TASK.load_model(str(tiny_base), CONFIG, STATE)
    prompted = get_peft_model(model, PromptTuningConfig(task_type="TOKEN_CLS", num_virtual_tokens=5)).eval()
    batch = TASK.collate(encoded(tiny_base, tagged_rows(3, 2)), 0, STATE)
    with torch.no_grad():
        found = TASK.outputs(CONFIG, prompted, batch)
        logits = prompted(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert logits.shape[1] == batch["input_ids"].shape[1] + 5
    first = batch["words"][0, 0].item()
    torch.testing.assert_close(found[0, 0], logits[0, 5 + first])


def test_collated_words_point_into_their_windows(tiny_base):
    rows = encoded(tiny_base, tagged_rows(3, 5, longest=20), limit=8)
    batch = TASK.collate(rows, 0, STATE)
    flat = batch["input_ids"].flatten()
    assert batch["window_row"].tolist() == [number for number, row in enumerate(rows) for _ in row["windows"]]
    for number, row in enumerate(rows):
        words = [place for place in batch["words"][number].tolist() if place != ABSENT]
        assert flat[words].tolist() == [row["input_ids"][place] for place in row["words"]]


# -- answers and baselines


def test_answers_name_entities_by_words():
    table = {
        "prediction": np.array(["O B-animal I-animal B-food", "B-food I-food"], dtype=object),
        "confidence": np.fromiter([[0.9, 0.5, 0.7, 0.25], [0.5, 0.5]], dtype=object),
        "tokens": np.fromiter([["the", "big", "cat", "soup"], ["热", "汤"]], dtype=object),
    }
    english, chinese = TASK.answers(table, STATE)
    assert json.loads(json.dumps(english)) == english
    assert english == {
        "tags": ["O", "B-animal", "I-animal", "B-food"],
        "score": 0.25,
        "entities": [
            {"type": "animal", "text": "big cat", "start": 1, "end": 3, "score": pytest.approx(0.6)},
            {"type": "food", "text": "soup", "start": 3, "end": 4, "score": 0.25},
        ],
    }
    assert chinese["entities"][0]["text"] == "热汤"


def test_a_row_without_words_has_an_empty_answer():
    state, row = {"tags": ["O", "B-X"]}, {"tokens": []}
    found = TASK.predicted(Config(), np.zeros((1, 0, 2), np.float32), [row], state)
    assert TASK.answers(found, state) == [{"tags": [], "score": 1.0, "entities": []}]


def test_baselines_know_words_and_nothing():
    rows = [{"tokens": ["Cat", "soup", "cat"], "tags": ["B-animal", "O", "B-animal"]}]
    asked = [{"tokens": ["CAT", "new"]}]
    found = {name: made(CONFIG, rows, asked, STATE, 0) for name, made in TASK.baselines().items()}
    assert found["word_majority"]["prediction"].tolist() == ["B-animal O"]
    assert found["no_entity"]["prediction"].tolist() == ["O O"]


def test_the_task_is_found_by_its_name():
    assert tasks.get("token_classification") is module.TASK


# -- the whole chain


@pytest.mark.slow
def test_the_chain_learns_tags_and_answers(make_project, tmp_path):
    from graft.artifact import load, predict
    from graft.evaluation import prediction

    workspace = make_project(
        tmp_path / "project", task={"name": "token_classification"}, **{"tokenization.max_length_tokens": 8}
    )
    for seed, (split, count) in enumerate((("train", 80), ("validation", 12), ("test", 20))):
        lines = "".join(json.dumps(row) + "\n" for row in tagged_rows(count, seed, longest=10))
        (workspace.data / split / "part-0000.jsonl").write_text(lines)
    for stage in ("validate", "tokenize", "train", "evaluate", "register"):
        stages.run(stage, workspace)
    metrics = json.loads((workspace.evaluation / "metrics.json").read_text())
    assert metrics["adapter"]["f1"]["value"] > max(metrics[one]["f1"]["value"] for one in ("base", "no_entity"))
    assert metrics["word_majority"]["f1"]["value"] > 0
    table = prediction.read(workspace.evaluation / "predictions" / "adapter.parquet")
    expected = reference.f1_score(*([tags.split() for tags in table[name]] for name in ("reference", "prediction")))
    assert metrics["adapter"]["f1"]["value"] == pytest.approx(expected)
    assert json.loads((workspace.package / "input_example.json").read_text())["tokens"]
    asked = [{"tokens": row["tokens"]} for row in tagged_rows(20, 2, longest=10)]
    answers = predict(load(workspace.adapter, workspace.root), asked)
    assert [" ".join(one["tags"]) for one in answers] == table["prediction"].tolist()
    assert TASK.answers(table, STATE)[0]["entities"] == answers[0]["entities"]
