import json
import random

import numpy as np
import pytest

from graft import stages, tasks
from graft.artifact import raw_outputs
from graft.base import load_tokenizer
from graft.errors import ConfigError
from graft.tasks import question_answering as module
from graft.tasks.question_answering import NULL, OUTSIDE, TASK, Config
from graft.workspace import Workspace, read_json
from tests.conftest import check_rows, problems_of, write_rows

CONFIG = Config(stride_tokens=4)
WEATHER = ("rain", "wind", "cloud", "storm", "snow")
FILLERS = ("the", "a", "and", "with", "is", "on", "very", "small", "big", "today", "here", "it", "was", "old")


def asked_rows(count, seed, longest=12):
    """Rows whose question asks for the weather word of the context; every third context has none."""
    source, rows = random.Random(seed), []
    for number in range(count):
        words = [source.choice(FILLERS) for _ in range(longest)]
        answers = {"text": [], "answer_start": []}
        if number % 3:
            at = source.randrange(longest)
            words[at] = source.choice(WEATHER)
            answers = {"text": [words[at]], "answer_start": [len(" ".join([*words[:at], ""]))]}
        rows.append({"question": "some cold", "context": " ".join(words), "answers": answers})
    return rows


def encoded(base, rows, limit=12, config=CONFIG):
    return TASK.encode(config, rows, load_tokenizer(base), limit)


def windows(row):
    """Yield each window's tokens, first and last characters, start and end position."""
    begin = 0
    for number, length in enumerate(row["windows"]):
        part = slice(begin, begin + length)
        yield (
            *(row[name][part] for name in ("input_ids", "begins", "ends")),
            *(row[name][number] if row[name] is not None else None for name in ("start_positions", "end_positions")),
        )
        begin += length


@pytest.fixture(scope="module")
def loaded(tiny_base):
    import torch

    torch.manual_seed(0)
    model, new_modules = TASK.load_model(str(tiny_base), CONFIG, {})
    return model.eval(), new_modules


def random_outputs(seed, rows=6, width=30):
    """Outputs of rows with two windows, the second of random length, and their characters."""
    source = np.random.default_rng(seed)
    outputs = source.normal(size=(rows, width, 4)).astype(np.float32)
    outputs[:, :, 2:] = OUTSIDE
    for row in outputs:
        for start, length in ((0, 10), (14, int(source.integers(1, 9)))):
            row[start, 2:] = NULL
            row[start + 3 : start + 3 + length, 2] = np.arange(length) * 4
            row[start + 3 : start + 3 + length, 3] = np.arange(length) * 4 + 3
    return outputs


# -- rows


@pytest.mark.parametrize(
    ("text", "start", "found"),
    [
        ("rain", 4, None),
        ("rain", 5, "'ain '; it is at 4"),
        ("rain", -1, "'the '; it is at 4"),
        ("rain", 99, "''; it is at 4"),
        ("snow", 4, "'rain'"),
        ("", 4, "''"),
    ],
)
def test_an_answer_stands_at_its_place(text, start, found):
    row = {"question": "?", "context": "the rain here", "answers": {"text": ["rain", text], "answer_start": [4, start]}}
    problems = list(TASK.check_row(CONFIG, row, {}))
    assert [(one.field, one.found) for one in problems] == ([("answers", found)] if found else [])


def test_no_answer_is_a_good_row():
    row = {"question": "?", "context": "rain", "answers": {"text": [], "answer_start": []}}
    assert list(TASK.check_row(CONFIG, row, {})) == []


# -- tokens


@pytest.mark.parametrize("limit", [9, 12, 40])
def test_windows_hold_question_and_context_and_cut_the_answer_verbatim(tiny_base, limit):
    tokenizer = load_tokenizer(tiny_base)
    for row, found in zip(asked_rows(9, 0), encoded(tiny_base, (rows := asked_rows(9, 0)), limit), strict=True):
        assert (len(found["windows"]) > 1) == (limit < 40)
        assert sum(found["windows"]) == len(found["input_ids"]) == found["untruncated_length"]
        seen = set()
        for ids, begins, ends, start, end in windows(found):
            assert len(ids) <= limit
            shown = tokenizer.convert_tokens_to_string(tokenizer.convert_ids_to_tokens(ids)).split()
            assert shown[:4] == ["[CLS]", "some", "cold", "[SEP]"]
            assert begins[:4] == [NULL, OUTSIDE, OUTSIDE, OUTSIDE]
            assert [row["context"][b:e] for b, e in zip(begins, ends, strict=True) if b >= 0] == shown[4:-1]
            seen |= {begin for begin in begins if begin >= 0}
            answer = [row["context"][begins[start] : ends[end]]] if start else []
            holds = set(WEATHER) & set(shown)
            assert answer == (row["answers"]["text"] if holds else [])
        assert len(seen) == len(row["context"].split())
    assert len(rows) == 9


def test_the_usual_answer_is_the_target(tiny_base):
    answers = {"text": ["big rain", "rain", "rain"], "answer_start": [4, 8, 8]}
    [found] = encoded(tiny_base, [{"question": "is it", "context": "the big rain here", "answers": answers}], 20)
    assert (found["start_positions"], found["end_positions"]) == ([6], [6])
    assert found["answers"] == answers["text"]


def test_an_answer_that_fits_no_window_is_refused(tiny_base):
    context = "the rain and the wind and the snow"
    row = {"question": "is it", "context": context, "answers": {"text": [context], "answer_start": [0]}}
    unanswered = {**row, "answers": {"text": [], "answer_start": []}}
    tokenizer = load_tokenizer(tiny_base)
    _, wide = check_rows(TASK, CONFIG, [row, unanswered], tokenizer, limit=20)
    kept, narrow = check_rows(TASK, CONFIG, [row, unanswered], tokenizer, limit=9)
    assert problems_of(wide) == []
    assert problems_of(narrow) == [("unsupervised", "data/train/part.jsonl:1", "answers")]
    assert [one["supervised"] for one in kept] == [0, len(kept[1]["windows"])]


def test_a_long_question_is_cut_and_counted(tiny_base):
    row = {"question": "the big old cat was here today", "context": "the rain is very cold", "answers": None}
    [whole] = encoded(tiny_base, [row], 40, Config())
    [cut] = encoded(tiny_base, [row], 40, Config(max_question_tokens=3))
    assert len(whole["input_ids"]) - len(cut["input_ids"]) == 4
    assert cut["untruncated_length"] == len(whole["input_ids"]) == whole["untruncated_length"]
    assert (cut["lost_prompt"], whole["lost_prompt"]) == (4, 0)
    tokenizer = load_tokenizer(tiny_base)
    assert tokenizer.decode(cut["input_ids"]) == "[CLS] the big old [SEP] the rain is very cold [SEP]"
    [narrow] = encoded(tiny_base, [row], 8)
    assert max(narrow["windows"]) <= 8
    with pytest.raises(ConfigError, match=r"max_length_tokens: no room for question and context \(got 4\)"):
        encoded(tiny_base, [row], 4)


# -- model


def test_only_the_head_is_new(loaded):
    assert loaded[1] == ["qa_outputs"]


def test_loss_is_the_cross_entropy_over_what_can_answer(loaded, tiny_base):
    import torch

    model, _ = loaded
    rows = encoded(tiny_base, asked_rows(5, 1), 10)
    total, items = TASK.loss(CONFIG, model, TASK.collate(rows, 0, {}))
    expected = 0.0
    for row in rows:
        with torch.no_grad():
            outputs = TASK.outputs(CONFIG, model, TASK.collate([row], 0, {}))[0].double().numpy()
        begin = 0
        for number, length in enumerate(row["windows"]):
            part = outputs[begin : begin + length]
            chosen = part[:, 2] != OUTSIDE
            for side, name in enumerate(("start_positions", "end_positions")):
                scores = part[chosen, side]
                expected += (np.log(np.exp(scores).sum()) - part[row[name][number], side]) / 2
            begin += length
    assert items == sum(len(row["windows"]) for row in rows)
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_outputs_hold_the_model_s_scores_and_the_characters(loaded, tiny_base):
    import torch

    model, _ = loaded
    [row] = encoded(tiny_base, asked_rows(1, 2), 40)
    with torch.no_grad():
        found = TASK.outputs(CONFIG, model, TASK.collate([row], 0, {}))[0]
        ids, types = (torch.tensor([row[name]]) for name in ("input_ids", "token_type_ids"))
        expected = model(input_ids=ids, token_type_ids=types)
    torch.testing.assert_close(found[:, 0], expected.start_logits[0])
    torch.testing.assert_close(found[:, 1], expected.end_logits[0])
    assert found[:, 2:].T.tolist() == [row["begins"], row["ends"]]


def test_outputs_do_not_depend_on_the_batch(loaded, tiny_base):
    model, _ = loaded
    rows = [row for longest in (4, 30, 11) for row in encoded(tiny_base, asked_rows(3, longest, longest))]
    settings = {"pad_token_id": 0, "device": "cpu"}
    together = raw_outputs(model, TASK, CONFIG, {}, rows, batch_rows=9, **settings)
    alone = raw_outputs(model, TASK, CONFIG, {}, rows, batch_rows=1, **settings)
    assert together.dtype == np.float32
    for found, expected, row in zip(together, alone, rows, strict=True):
        np.testing.assert_allclose(found[: len(row["input_ids"])], expected[: len(row["input_ids"])], atol=1e-5)
    first, second = (TASK.predicted(CONFIG, one, rows, {}) for one in (together, alone))
    assert first["prediction"].tolist() == second["prediction"].tolist()
    np.testing.assert_allclose(first["margin"], second["margin"], atol=1e-5)


def test_windows_go_through_the_model_in_any_number_of_passes(loaded, tiny_base, monkeypatch):
    import torch

    model, _ = loaded
    batch = TASK.collate(encoded(tiny_base, asked_rows(4, 1, 40)), 0, {})
    lines = []
    hook = model.register_forward_pre_hook(lambda _, __, named: lines.append(len(named["input_ids"])), with_kwargs=True)
    try:
        together, (loss, items) = TASK.outputs(CONFIG, model, batch), TASK.loss(CONFIG, model, batch)
        monkeypatch.setattr("graft.tasks.question_answering.WINDOWS_TOGETHER", 3)
        count, lines[:] = lines[0], []
        assert count > 8
        torch.testing.assert_close(TASK.outputs(CONFIG, model, batch), together)
        losses = [TASK.loss(CONFIG, model, piece) for piece in TASK.pieces(batch, 2)]
    finally:
        hook.remove()
    assert max(lines) == 3
    assert lines[-1] <= 2
    assert sum(one for _, one in losses) == items == count
    torch.testing.assert_close(sum(one for one, _ in losses), loss)


def test_virtual_tokens_in_front_move_no_answer(tiny_base):
    import torch
    from peft import PromptTuningConfig, get_peft_model

    model, _ = TASK.load_model(str(tiny_base), CONFIG, {})
    prompted = get_peft_model(model, PromptTuningConfig(task_type="QUESTION_ANS", num_virtual_tokens=5)).eval()
    batch = TASK.collate(encoded(tiny_base, asked_rows(3, 2), 40), 0, {})
    with torch.no_grad():
        found = TASK.outputs(CONFIG, prompted, batch)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        expected = prompted(**inputs).start_logits
    torch.testing.assert_close(found[..., 0], expected[:, 5:])


# -- the best span


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("most", [1, 3, 30])
def test_the_best_span_is_that_of_every_pair_tried(seed, most):
    outputs = random_outputs(seed)
    found = TASK.predictions(Config(max_answer_tokens=most, null_threshold=-1e9), outputs, {})
    for number, row in enumerate(outputs.astype(np.float64)):
        pairs = {
            (row[first, 2], row[last, 3]): row[first, 0] + row[last, 1]
            for first in range(len(row))
            for last in range(first, min(first + most, len(row)))
            if (row[first : last + 1, 2] >= 0).all()
        }
        null = min(row[place, 0] + row[place, 1] for place in range(len(row)) if row[place, 2] == NULL)
        best = max(
            row[first, 0] + row[last, 1]
            for first in range(len(row))
            for last in range(first, min(first + most, len(row)))
            if (row[first : last + 1, 2] >= 0).all()
        )
        assert (found["begin"][number], found["end"][number]) in pairs
        assert found["margin"][number] == pytest.approx(best - null, rel=1e-5)


def test_a_span_is_answered_above_the_threshold():
    outputs = random_outputs(0)
    margin = TASK.predictions(Config(), outputs, {})["margin"].astype(np.float64)
    between = float(np.sort(margin)[2:4].mean())
    found = TASK.predictions(Config(null_threshold=between), outputs, {})
    assert (found["begin"] >= 0).tolist() == (margin > between).tolist() == (found["end"] >= 0).tolist()
    answered = margin > between
    expected = 1 / (1 + np.exp(np.where(answered, -margin, margin)))
    np.testing.assert_allclose(found["score"], expected, rtol=1e-5)


def test_a_row_without_context_tokens_has_no_answer():
    outputs = random_outputs(1)[:1]
    outputs[:, :, 2:] = np.minimum(outputs[:, :, 2:], OUTSIDE)
    found = TASK.predictions(Config(), outputs, {})
    assert (found["begin"].tolist(), found["end"].tolist(), found["score"].tolist()) == ([-1], [-1], [1])


# -- table, answers, baselines


def small_table():
    answers = [["rain"], [], ["the snow", "snow"], []]
    rows = [{"answers": one} for one in answers]
    prediction = np.array(["rain", "", "cold snow", "wind"], dtype=object)
    table = {**TASK.references(rows, {}), "prediction": prediction}
    return {**table, **TASK.judge(CONFIG, table, {})}


def test_metrics_are_the_means_of_the_rows():
    table = small_table()
    assert table["reference"].tolist() == ["rain", "", "the snow", ""]
    assert TASK.metric("exact_match").function(table) == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert TASK.metric("f1").function(table) == pytest.approx((1 + 1 + 2 / 3 + 0) / 4)
    for metric in TASK.metrics:
        assert metric.per_row(table).mean() == metric.function(table)


def test_details_part_questions_with_and_without_an_answer():
    [answerable, unanswerable] = TASK.details(small_table(), {})["Questions with and without an answer"]
    expected = {"questions": "with an answer", "rows": 2, "exact_match": 0.5, "f1": 5 / 6, "answered": 1.0}
    assert answerable == pytest.approx(expected)
    expected = {"questions": "without an answer", "rows": 2, "exact_match": 0.5, "f1": 0.5, "answered": 0.5}
    assert unanswerable == pytest.approx(expected)
    found = [(row["actual"], row["predicted"]) for row in TASK.plots(small_table(), {})["confusion"]]
    assert found == [("answer", "answer"), ("no answer", "no answer"), ("answer", "answer"), ("no answer", "answer")]


def test_baselines_answer_nothing_and_the_nearest_sentence():
    rows = [{"question": "Who rules France?", "context": "It rained. The king rules France! Nobody knows?"}]
    found = {name: made(CONFIG, [], rows, {}, 0)["prediction"].tolist() for name, made in TASK.baselines().items()}
    assert found == {"no_answer": [""], "word_overlap": ["The king rules France"]}
    chinese = [{"question": "谁统治法国", "context": "下雨了。国王统治法国。没人知道。"}]
    [answer] = TASK.baselines()["word_overlap"](Config(language="zh"), [], chinese, {}, 0)["prediction"]
    assert answer == "国王统治法国"


def test_the_task_is_found_by_its_name():
    assert tasks.get("question_answering") is module.TASK


# -- the whole chain


@pytest.mark.slow
def test_the_chain_learns_spans_and_answers(make_project, tmp_path):
    from graft.artifact import load, predict
    from graft.evaluation import prediction

    workspace = make_project(
        tmp_path / "project",
        task={"name": "question_answering", "stride_tokens": 4},
        **{"tokenization.max_length_tokens": 14, "training.epochs": 4},
    )
    for seed, (split, count) in enumerate((("train", 90), ("validation", 12), ("test", 24))):
        lines = "".join(json.dumps(row) + "\n" for row in asked_rows(count, seed))
        (workspace.data / split / "part-0000.jsonl").write_text(lines)
    for stage in ("validate", "tokenize", "train", "evaluate", "register"):
        stages.run(stage, workspace)
    metrics = json.loads((workspace.evaluation / "metrics.json").read_text())
    assert metrics["no_answer"]["f1"]["value"] == pytest.approx(1 / 3)
    others = [metrics[one]["f1"]["value"] for one in ("base", "no_answer", "word_overlap")]
    assert metrics["adapter"]["f1"]["value"] > max(others)
    assert json.loads((workspace.package / "input_example.json").read_text())["question"] == "some cold"
    table = prediction.read(workspace.evaluation / "predictions" / "adapter.parquet")
    asked = [{name: row[name] for name in ("question", "context")} for row in asked_rows(24, 2)]
    answers = predict(load(workspace.adapter, workspace.root), asked)
    assert [one["text"] for one in answers] == table["prediction"].tolist()
    for one, row in zip(answers, asked, strict=True):
        assert one["text"] == (row["context"][one["start"] : one["end"]] if one["start"] >= 0 else "")
    for one, again in zip(answers, TASK.answers(table, {}), strict=True):
        assert again == pytest.approx(one)


def test_questions_that_share_a_context_are_no_near_duplicates(tmp_path):
    from graft.data import DataConfig
    from graft.validation import ValidationConfig, validate

    def rows(split):
        context = (
            f"In {split} the river Arve rises near the village of Tour, and ends below the old town of Geneva. " * 3
        )
        asked = ["where does the river Arve rise", "where does it end", "which river is it", "what is old there"]
        answers = ["village of Tour", "Geneva", "Arve", "town"]
        return [
            {"question": f"{question} ({split})", "context": context, "answers": first(context, answer)}
            for question, answer in zip(asked, answers, strict=True)
        ]

    def first(context, answer):
        return {"text": [answer], "answer_start": [context.index(answer)]}

    data = {split: rows(split) for split in ("train", "validation", "test")}
    data["test"].append(data["train"][0] | {"question": "Where does the river Arve rise, (train)"})
    data["test"].append(data["train"][0] | {"question": "where does this river Arve rise (train)"})
    data["test"].append(
        data["train"][0] | {"answers": first(data["train"][0]["context"], "Geneva"), "question": "x y z"}
    )
    for split, some in data.items():
        write_rows(tmp_path / "data" / split / "part-0000.jsonl", some)
    (tmp_path / "params.yaml").write_text("")
    workspace = Workspace(tmp_path)
    validate(workspace, task=Config(), data=DataConfig(), validation=ValidationConfig())
    verdict = read_json(workspace.validation / "verdict.json")
    leaks, repeats = (one for one in verdict["warnings"] if "row of train" in one or "earlier row" in one)
    place = "data/test/part-0000.jsonl"
    assert leaks.startswith("test: 2 rows have the text, or nearly, of a row of train (validation.severity.leakage)")
    assert f"({place}:5, {place}:6); the first has the text of data/train/part-0000.jsonl:1" in leaks
    assert repeats.startswith("test: 1 row has the text, or nearly, of an earlier row of the split")
    assert f"({place}:6); the first has nearly the text of {place}:5" in repeats
