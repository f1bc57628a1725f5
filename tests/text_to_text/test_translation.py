"""Translation: its section, metrics over a table, cheap predictors, and the whole chain on both kinds of base."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from graft import stages, text_to_text
from graft.errors import ConfigError
from graft.evaluation import prediction
from graft.tasks.translation import TASK, Config
from tests.text_to_text.conftest import PROMPT, parallel_rows

GERMAN = ["Ein Mann läuft die Straße entlang.", "Zwei Hunde", "Das ist gut."]
CHINESE = ["我喜欢猫。", "今天天气很好。", "是的"]


def table_of(predictions, references, config=Config()):  # noqa: B008
    table = {
        "prediction": text_to_text.objects(predictions),
        "reference": text_to_text.objects([several[0] for several in references]),
        "references": text_to_text.objects(references),
        "nll": np.ones(len(predictions)),
        "tokens": np.full(len(predictions), 2),
    }
    return table | TASK.judge(config, table, {})


@pytest.mark.parametrize(
    ("language", "texts", "tokenizer"), [("de", GERMAN, "13a"), ("zh", CHINESE, "zh"), (None, GERMAN, "13a")]
)
def test_metrics_are_sacrebleus(language, texts, tokenizer) -> None:
    predictions = [texts[0], texts[1][:-1], texts[0]]
    references = [[text, f"{text} {texts[0]}"] for text in texts]
    config = Config(target_language=language)
    table = table_of(predictions, references, config)
    several = [list(column) for column in zip(*references, strict=True)]
    bleu, chrf = BLEU(tokenize=tokenizer, force=True), CHRF()
    assert TASK.metric("bleu").function(table) == pytest.approx(bleu.corpus_score(predictions, several).score)
    assert TASK.metric("chrf").function(table) == pytest.approx(chrf.corpus_score(predictions, several).score)
    assert TASK.metric("exact_match").function(table) == pytest.approx(1 / 3)
    assert TASK.metric("perplexity").function(table) == pytest.approx(np.exp(0.5))
    found = TASK.measured(config, table, {})
    assert (found["bleu"], found["chrf"]) == (str(bleu.get_signature()), str(chrf.get_signature()))
    assert (found["languages"], found["num_beams"]) == (f"? to {language or '?'}", "1")


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [
        *((code, "zh") for code in ("zh", "ZH", "zh-CN", "zh_Hant", "zho_Hans", "zh-Hant-TW", "cmn")),
        *((code, "13a") for code in ("de", "deu", "de-AT", "es-419", "sl-rozaj-1994")),
        ("ja", "char"),
    ],
)
def test_language_is_a_code_that_decides_the_words(language: str, tokenizer: str) -> None:
    assert Config(source_language=language, target_language=language).words == tokenizer


@pytest.mark.parametrize("field", ["source_language", "target_language"])
@pytest.mark.parametrize("name", ["Chinese", "German", "Thai", "Mandarin Chinese", "中文", "", "z", "zh-", "zh CN"])
def test_language_s_name_is_refused_with_what_to_write(field: str, name: str) -> None:
    with pytest.raises(
        ValidationError, match=r"(?s)_language.*must be a language's code .* write `de`, `zh` or `zh-CN`"
    ):
        Config(**{field: name})


def test_row_scores_have_their_metrics_as_means() -> None:
    table = table_of(["Ein Mann", "Zwei Hunde"], [["Ein Hund"], ["Zwei Hunde"]])
    scored = {metric.name: metric for metric in TASK.metrics if metric.per_row}
    assert list(scored) == ["mean_row_chrf", "exact_match"]
    for metric in scored.values():
        assert metric.per_row(table).mean() == pytest.approx(metric.function(table))


def test_table_without_generated_text_has_the_metric_that_selects() -> None:
    table = {"nll": np.array([1.0]), "tokens": np.array([2]), "references": text_to_text.objects([["a"]])}
    assert TASK.judge(Config(), table, {}) == {}
    assert [metric.name for metric in TASK.metrics if not metric.generated] == [TASK.selecting.name] == ["perplexity"]


def test_tokenizer_of_the_section_wins_over_the_language() -> None:
    assert Config(target_language="zh").words == "zh"
    assert Config(target_language="zh", bleu_tokenizer="char").words == "char"


def test_missing_tokenizer_is_refused_before_training() -> None:
    import importlib.util

    if importlib.util.find_spec("MeCab"):
        pytest.skip("MeCab is installed")
    with pytest.raises(ConfigError, match=r"task\.bleu_tokenizer: ja-mecab cannot be loaded"):
        TASK.learn(Config(bleu_tokenizer="ja-mecab"), iter([]))


def test_empty_list_of_references_is_a_problem() -> None:
    [problem] = TASK.check_row(Config(), {"source": "a", "target": "b", "references": []}, {})
    assert (problem.field, problem.found) == ("references", "an empty list")
    assert list(TASK.check_row(Config(), {"source": "a", "target": "b", "references": None}, {})) == []


def test_cheap_predictors_copy_and_look_up() -> None:
    train = [{"source": "two dogs run", "target": "zwei Hunde rennen"}, {"source": "a red car", "target": "ein Auto"}]
    test = [{"source": "two dogs"}, {"source": "the car"}]
    found = {name: one(Config(), train, test, {}, 0)["prediction"].tolist() for name, one in TASK.baselines().items()}
    assert found == {"copy": ["two dogs", "the car"], "translation_memory": ["zwei Hunde rennen", "ein Auto"]}


def test_report_has_lengths_and_plots_every_row() -> None:
    table = table_of(["Ein Mann", "", "Zwei"], [["Ein Hund"], ["Zwei Hunde"], ["Zwei Hunde"]])
    assert [row["text"] for row in TASK.details(table, {})["Length"]] == ["reference", "prediction"]
    plots = TASK.plots(table, {})
    assert set(plots) == {"histogram", "length_ratio"}
    assert all(sum(row["rows"] for row in rows) == 3 for rows in plots.values())


def test_answers_are_texts_and_json() -> None:
    found = TASK.answers({"prediction": text_to_text.objects(["Straße", ""])}, {})
    assert json.loads(json.dumps(found)) == found == [{"text": "Straße"}, {"text": ""}]


# -- the whole chain

CHAIN = {
    "task": {"name": "translation", "target_language": "de", "max_target_tokens": 40},
    "task.generation.max_new_tokens": 10,
}


@pytest.mark.slow
@pytest.mark.parametrize("base", ["sequence_t5", "sequence_llama"])
def test_chain_from_rows_to_a_package(base, request, tmp_path, make_sequence_project) -> None:
    from graft import artifact

    adapter = {"target_modules": "all-linear"}
    task = {**CHAIN["task"], **({"prompt": PROMPT} if base == "sequence_llama" else {})}
    overrides = {**CHAIN, "task": task, "adapter": adapter, "tokenization.max_length_tokens": 100}
    workspace = make_sequence_project(tmp_path / "project", request.getfixturevalue(base), **overrides)
    for name in ("validate", "tokenize", "train", "evaluate", "register"):
        stages.run(name, workspace)
    metrics = json.loads((workspace.evaluation / "metrics.json").read_text())
    assert metrics["headline"] == "bleu"
    assert metrics["measured"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert metrics["measured"]["max_new_tokens"] == "10"
    own = {
        "sequence_t5": ("decoder_start_token_id (of the base)", "0"),
        "sequence_llama": ("bos_token_id (of the base)", "0"),
    }
    assert own[base] in metrics["measured"].items()
    assert metrics["adapter"]["perplexity"]["value"] < metrics["base"]["perplexity"]["value"]
    assert {name for name, found in metrics.items() if isinstance(found, dict) and "bleu" in found} == {
        "adapter",
        "base",
        "copy",
        "translation_memory",
        "measured",
    }
    assert "perplexity" not in metrics["copy"]
    report = (workspace.evaluation / "report.html").read_text()
    assert "How it was measured" in report
    assert metrics["measured"]["chrf"] in report
    table = prediction.read(workspace.evaluation / "predictions" / "adapter.parquet")
    assert table["prediction"].shape == (10,)
    assert metrics["adapter"]["bleu"]["value"] == pytest.approx(TASK.metric("bleu").function(table), abs=1e-6)
    loaded = artifact.load(workspace.package / "adapter", workspace.root)
    source = parallel_rows(10, 2)[3]["source"]
    assert artifact.predict(loaded, [{"source": source}]) == [{"text": table["prediction"][3]}]
    example = json.loads((workspace.package / "input_example.json").read_text())
    assert example["source"] in {row["source"] for row in parallel_rows(8, 1)}
