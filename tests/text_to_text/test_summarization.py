"""Summarization: metrics over a table, cheap predictors, and the whole chain."""

from __future__ import annotations

import json

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.chrf import CHRF

from graft import stages, text_to_text
from graft.tasks.summarization import TASK, Config, first_sentences

DIALOGUE = "#Person1#: Hello! How are you?\n#Person2#: I have a cold.\n#Person1#: Oh."
PREDICTIONS = ["#Person1# asks #Person2# about a cold.", "Nothing", ""]
REFERENCES = [["#Person2# has a cold.", "#Person1# asks about #Person2#."], ["Nothing at all"], ["A walk"]]


def table_of(predictions, references):
    table = {
        "prediction": text_to_text.objects(predictions),
        "reference": text_to_text.objects([several[0] for several in references]),
        "references": text_to_text.objects(references),
    }
    return table | TASK.judge(Config(), table, {})


def test_metrics_are_those_of_rouge_score_and_sacrebleu() -> None:
    table = table_of(PREDICTIONS, REFERENCES)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    rows = [scorer.score_multi(several, one) for one, several in zip(PREDICTIONS, REFERENCES, strict=True)]
    for ours, theirs in {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rougeL"}.items():
        metric = TASK.metric(ours)
        scores = [row[theirs].fmeasure for row in rows]
        assert metric.per_row(table) == pytest.approx(scores)
        assert metric.function(table) == pytest.approx(sum(scores) / 3)
    streams = [[several[0] for several in REFERENCES], ["#Person1# asks about #Person2#.", None, None]]
    chrf = CHRF()
    assert TASK.metric("chrf").function(table) == pytest.approx(chrf.corpus_score(PREDICTIONS, streams).score)
    found = TASK.measured(Config(), table, {})
    assert found["chrf"] == str(chrf.get_signature())
    assert found["rouge"].startswith("best-reference|f-measure|stemmer:no")


def test_chinese_summaries_are_compared_by_character() -> None:
    table = table_of(["他喜欢猫"], [["她喜欢狗"]])
    assert TASK.metric("rouge1").function(table) == pytest.approx(2 / 4)


@pytest.mark.parametrize(
    ("text", "wanted", "lead"),
    [
        (DIALOGUE, 1, "#Person1#: Hello!"),
        (DIALOGUE, 5, "#Person1#: Hello! How are you?"),
        (DIALOGUE, 9, "#Person1#: Hello! How are you?"),
        (DIALOGUE, 10, "#Person1#: Hello! How are you? #Person2#: I have a cold."),
        (DIALOGUE, 99, " ".join(DIALOGUE.split())),
        ("我感冒了。我要去医院。", 4, "我感冒了。"),
        ("Über die Straße! Dann links.", 3, "Über die Straße!"),
        ("...\n\nwords come late", 1, "... words come late"),
        ("no stop at all", 1, "no stop at all"),
        ("", 3, ""),
    ],
)
def test_lead_is_whole_sentences(text: str, wanted: int, lead: str) -> None:
    assert first_sentences(text, wanted) == lead


def test_cheap_predictors_lead_and_look_up() -> None:
    train = [{"source": "I have a cold", "target": "A cold."}, {"source": "the bus is late", "target": "Late bus now."}]
    test = [{"source": "My bus is late. It rains."}, {"source": "A cold? Yes."}]
    found = {name: one(Config(), train, test, {}, 0)["prediction"].tolist() for name, one in TASK.baselines().items()}
    assert found == {"lead": ["My bus is late.", "A cold?"], "nearest": ["Late bus now.", "A cold."]}


def test_report_has_lengths_and_plots_every_row() -> None:
    table = table_of(PREDICTIONS, REFERENCES)
    assert TASK.details(table, {})["Length"][1]["empty"] == 1
    assert all(sum(row["rows"] for row in rows) == 3 for rows in TASK.plots(table, {}).values())


def test_errors_are_ranked_by_rouge() -> None:
    from graft.evaluation.findings import mistakes

    table = table_of(PREDICTIONS, REFERENCES) | {"row": text_to_text.objects(["t:1", "t:2", "t:3"])}
    metric = TASK.metric(TASK.worst or TASK.headline)
    found = mistakes(metric, table, table["reference"].tolist(), TASK.answers(table, {}), ["a", "b", "c"])
    assert found.shown[0].place == "t:3"


@pytest.mark.slow
def test_chain_with_several_references(tmp_path, make_sequence_project, sequence_t5) -> None:
    task = {"name": "summarization", "prefix": "summarize: ", "max_target_tokens": 30}
    overrides = {"task": task, "task.generation.max_new_tokens": 8, "tokenization.max_length_tokens": 80}
    adapter = {"target_modules": ["q", "v"]}
    workspace = make_sequence_project(tmp_path / "project", sequence_t5, adapter=adapter, **overrides)
    test = workspace.data / "test" / "part-0000.jsonl"
    rows = [json.loads(line) for line in test.read_text().splitlines()]
    test.write_text("".join(json.dumps({**row, "references": [row["target"], "mag"]}) + "\n" for row in rows))
    for name in ("validate", "tokenize", "train", "evaluate", "register"):
        stages.run(name, workspace)
    metrics = json.loads((workspace.evaluation / "metrics.json").read_text())
    assert metrics["measured"]["chrf"].startswith("nrefs:2|")
    assert metrics["headline"] == "rougeL"
    assert set(metrics["lead"]) == set(metrics["nearest"]) == {"rougeL", "rouge1", "rouge2", "chrf"}
    assert metrics["adapter"]["perplexity"]["value"] < metrics["base"]["perplexity"]["value"]
