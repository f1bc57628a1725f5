"""The stage on a tiny project: what it writes, that it writes the same again, what it refuses."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.metrics import accuracy_score, f1_score

from graft import artifact, evaluation, params, stages
from graft.base import lock
from graft.data import DataConfig
from graft.errors import DataError, IntegrityError
from graft.evaluation import format_table, score_adapter, summary
from graft.evaluation.prediction import read, score
from graft.identity import digest_file, digest_files, digest_folder
from graft.tokenization import read_tokens
from graft.workspace import Workspace, read_json, write_json
from tests.conftest import validated

SYSTEMS = ("adapter", "base", "majority", "tfidf")


@pytest.fixture
def copy(evaluated: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the evaluated project that a test may change."""
    return Workspace(shutil.copytree(evaluated.root, tmp_path / "copy"))


def test_metrics_match_scikit_learn_on_the_written_predictions(evaluated: Workspace) -> None:
    metrics = read_json(evaluated.evaluation / "metrics.json")
    assert metrics["headline"] == "accuracy"
    assert metrics["test"] == {
        "rows": 15,
        "digest": read_json(evaluated.tokens / "manifest.json")["splits"]["test"]["digest"],
    }
    for system in SYSTEMS:
        table = read(evaluated.evaluation / "predictions" / f"{system}.parquet")
        pair = table["reference"], table["prediction"]
        labels = sorted({*table["reference"].tolist(), *table["prediction"].tolist()})
        assert metrics[system]["accuracy"]["value"] == pytest.approx(accuracy_score(*pair), abs=1e-6)
        expected = f1_score(*pair, average="macro", labels=labels, zero_division=0)
        assert metrics[system]["macro_f1"]["value"] == pytest.approx(expected, abs=1e-6)
        for cell in metrics[system].values():
            assert cell["low"] <= cell["value"] <= cell["high"] or cell["low"] == pytest.approx(cell["high"])


def test_rows_are_the_test_files_lines_in_order(evaluated: Workspace) -> None:
    for system in SYSTEMS:
        table = read(evaluated.evaluation / "predictions" / f"{system}.parquet")
        assert table["row"].tolist() == [f"data/test/part-0000.jsonl:{line}" for line in range(1, 16)]
        assert table["id"].tolist() == [f"2-{number}" for number in range(15)]


def test_majority_predicts_the_most_frequent_training_label(evaluated: Workspace) -> None:
    table = read(evaluated.evaluation / "predictions" / "majority.parquet")
    assert len(set(table["prediction"].tolist())) == 1
    assert table["probabilities"][0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_base_is_the_model_without_the_adapter(evaluated: Workspace) -> None:
    loaded = artifact.load(evaluated.adapter, evaluated.root)
    own = loaded.task.load_model(str(evaluated.root / "base"), loaded.config, loaded.state)[0].eval()
    head = loaded.model.base_model.model.classifier.original_module
    own.classifier.load_state_dict(head.state_dict())
    rows = read_tokens(evaluated.tokens, "test").to_pylist()
    outputs = artifact.raw_outputs(
        own, loaded.task, loaded.config, loaded.state, rows, pad_token_id=0, batch_rows=1, device="cpu"
    )
    expected = loaded.task.predictions(loaded.config, outputs, loaded.state)["probabilities"]
    found = read(evaluated.evaluation / "predictions" / "base.parquet")["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not np.allclose(
        found, read(evaluated.evaluation / "predictions" / "adapter.parquet")["probabilities"], atol=1e-3
    )


def test_batch_size_changes_no_answer(evaluated: Workspace) -> None:
    loaded, tokens = artifact.load(evaluated.adapter, evaluated.root), read_tokens(evaluated.tokens, "test")
    one, many = (score(loaded, tokens, batch_rows=rows) for rows in (1, 7))
    assert one["row"].tolist() == many["row"].tolist()
    np.testing.assert_allclose(one["probabilities"], many["probabilities"], atol=1e-6)


def test_empty_token_table_is_refused(evaluated: Workspace) -> None:
    tokens = read_tokens(evaluated.tokens, "test").slice(0, 0)
    with pytest.raises(DataError, match="adapter: no rows to score"):
        score(artifact.load(evaluated.adapter, evaluated.root), tokens, batch_rows=4, name="adapter")


def test_any_adapter_can_be_scored_on_the_raw_test_rows(evaluated: Workspace) -> None:
    found = score_adapter(evaluated.adapter, evaluated, data=DataConfig(), batch_rows=64, device="cpu").table
    expected = read(evaluated.evaluation / "predictions" / "adapter.parquet")
    assert found["row"].tolist() == expected["row"].tolist()
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], atol=1e-7)


def test_a_champion_is_scored_on_its_own_base_once_loaded(copy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project moved on to another base, and its test rows changed: the champion answers the new rows as ever."""
    expected = read(copy.evaluation / "predictions" / "adapter.parquet")
    shutil.copytree(copy.root / "base", copy.root / "other")
    config = copy.root / "other" / "config.json"
    config.write_text(config.read_text().replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-05'))
    copy.params.write_text(copy.params.read_text().replace("./base", "./other"))
    lock(copy, params.load(copy.params).base)
    part = copy.data / "test" / "part-0000.jsonl"
    part.write_text("".join(line + "\n" for line in part.read_text().splitlines()[5:]))
    loads: list[Path] = []
    load = artifact.load
    monkeypatch.setattr(
        artifact, "load", lambda folder, *rest, **more: loads.append(folder) or load(folder, *rest, **more)
    )
    subject = score_adapter(copy.adapter, copy, data=DataConfig(), batch_rows=64, device="cpu")
    assert loads == [copy.adapter]
    assert subject.loaded.base.source == "./base"
    np.testing.assert_allclose(subject.table["probabilities"], expected["probabilities"][5:], atol=1e-6)


def test_the_project_decides_which_rows_an_adapter_answers(copy: Workspace) -> None:
    part = copy.data / "test" / "part-0000.jsonl"
    first = part.read_text().splitlines()[0]
    part.write_text(f"{part.read_text()}{first}\n")
    for data, rows in ((DataConfig(), 16), (DataConfig(clean=("duplicates",)), 15)):
        found = score_adapter(copy.adapter, copy, data=data, batch_rows=64, device="cpu").table
        assert len(found["row"]) == rows


def test_an_adapter_is_scored_with_its_own_redaction(copy: Workspace) -> None:
    part = copy.data / "test" / "part-0000.jsonl"
    rows = [json.loads(line) for line in part.read_text().splitlines()]

    def scores(adapter: Path, value: str) -> Any:
        part.write_text("".join(json.dumps({**row, "text": f"{row['text']} {value}"}) + "\n" for row in rows))
        return score_adapter(adapter, copy, data=DataConfig(), batch_rows=64, device="cpu").table["probabilities"]

    mail, plain = "ann" + "@example.org", scores(copy.adapter, "<EMAIL_1>")
    assert not np.allclose(scores(copy.adapter, mail), plain, atol=1e-4)
    own = copy.root / "redacts"
    shutil.copytree(copy.adapter, own)
    identity = read_json(own / "identity.json")
    for kinds, same in ((["email"], True), (["card"], False)):
        privacy = {"kinds": kinds, "regions": []}
        write_json(own / "identity.json", {**identity, "clean": ["redact"], "privacy": privacy})
        assert np.allclose(scores(own, mail), plain, atol=1e-6) == same


@pytest.mark.slow
def test_rows_in_quarantine_are_trained_on_and_scored_by_nobody(make_project: Any, tmp_path: Path) -> None:
    aside = {"severity": {"readable": "quarantine", "placeholders": "quarantine"}, "max_quarantined_share": 0.1}
    tokens = {"severity": {"unknown": "quarantine"}, "max_quarantined_share": 0.1}
    workspace = make_project(tmp_path / "p", training={"epochs": 1}, validation=aside, tokenization=tokens)
    unknown = json.dumps({"text": "\U0001f600 \U0001f600", "label": "weather"})
    rows = (("test", 3, "{broken"), ("train", 7, '{"text": "nan", "label": "weather"}'), ("test", 5, unknown))
    for split, line, text in rows:
        part = workspace.data / split / "part-0000.jsonl"
        lines = part.read_text().splitlines()
        part.write_text("\n".join([*lines[: line - 1], text, *lines[line:]]) + "\n")
    for stage in ("validate", "tokenize", "train", "evaluate"):
        stages.run(stage, workspace)
    places = {"data/test/part-0000.jsonl:3", "data/train/part-0000.jsonl:7", "data/test/part-0000.jsonl:5"}
    kept = [row for split in ("train", "test") for row in read_tokens(workspace.tokens, split)["row"].to_pylist()]
    assert len(kept) == 60 + 15 - 3
    assert places.isdisjoint(kept)
    for name in ("adapter", "base", "majority", "tfidf"):
        table = read(workspace.evaluation / "predictions" / f"{name}.parquet")
        assert "data/test/part-0000.jsonl:2" in table["row"].tolist()
        assert places.isdisjoint(table["row"])
    champion = score_adapter(workspace.adapter, workspace, data=DataConfig(), batch_rows=8, device="cpu").table
    assert champion["row"].tolist() == table["row"].tolist()
    report = (workspace.evaluation / "report.html").read_text()
    assert "<h3>Checks of tokens</h3>" in report
    assert "<td>unknown</td><td>quarantine</td>" in report


def test_label_that_a_champion_does_not_know_is_refused(copy: Workspace) -> None:
    part = copy.data / "test" / "part-0000.jsonl"
    part.write_text(part.read_text().replace('"weather"', '"tides"'))
    with pytest.raises(
        DataError, match=r"part-0000\.jsonl:3: label: the adapter knows one of animals, cooking, weather"
    ):
        score_adapter(copy.adapter, copy, data=DataConfig(), batch_rows=64, device="cpu")


def test_same_inputs_give_the_same_bytes(copy: Workspace) -> None:
    before = digest_files(copy.evaluation)
    stages.run("evaluate", copy)
    assert digest_files(copy.evaluation) == before


def test_confusion_csv_has_a_line_per_test_row(evaluated: Workspace) -> None:
    with (evaluated.evaluation / "plots" / "confusion.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    table = read(evaluated.evaluation / "predictions" / "adapter.parquet")
    right = sum(line["actual"] == line["predicted"] for line in lines)
    assert (len(lines), right) == (15, int((table["reference"] == table["prediction"]).sum()))


def test_comparison_is_the_adapter_against_each_other_system(evaluated: Workspace) -> None:
    found = read_json(evaluated.evaluation / "comparison.json")
    metrics = read_json(evaluated.evaluation / "metrics.json")
    assert found["metric"] == "accuracy"
    assert set(found["against"]) == {"base", "majority", "tfidf"}
    for system, one in found["against"].items():
        gap = metrics["adapter"]["accuracy"]["value"] - metrics[system]["accuracy"]["value"]
        assert one["difference"] == pytest.approx(gap, abs=2e-6)
        assert (one["only_candidate"] - one["only_reference"]) / 15 == pytest.approx(gap, abs=2e-6)


class Page(HTMLParser):
    """Collects the text, the tags that stay open and the addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.open, self.addresses = "", list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_report_is_one_file_with_the_numbers(evaluated: Workspace) -> None:
    text = (evaluated.evaluation / "report.html").read_text(encoding="utf-8")
    page, metrics = Page(text), read_json(evaluated.evaluation / "metrics.json")
    assert page.open == []
    inside = [address[1:] for address in page.addresses if address.startswith("#")]
    assert inside
    assert set(inside) <= set(re.findall(r'id="([^"]+)"', text))
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert not re.search(r"https?://|@import|url\(|<script", text)
    for system in SYSTEMS:
        for cell in metrics[system].values():
            assert f"{cell['value']:.3f}" in page.text
            assert f"{cell['low']:.3f} to {cell['high']:.3f}" in page.text
    assert digest_folder(evaluated.adapter) in page.text
    assert read_json(evaluated.adapter / "identity.json")["data"] in page.text


def test_no_file_names_this_machine(evaluated: Workspace) -> None:
    for path in evaluated.evaluation.rglob("*"):
        if path.is_file():
            assert str(evaluated.root).encode() not in path.read_bytes(), path.name


def test_model_card_has_a_front_matter_and_whole_tables(evaluated: Workspace) -> None:
    _, head, text = (evaluated.evaluation / "model_card.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(head)["tags"] == ["lora", "text_classification"]
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    assert "`animals`, `cooking`, `weather`" in text
    assert "## Limits" in text


def test_printed_table_is_made_of_metrics_json(evaluated: Workspace) -> None:
    metrics = read_json(evaluated.evaluation / "metrics.json")
    lines = format_table(summary(metrics), columns=2).splitlines()
    assert lines[0].split() == ["system", "accuracy", "macro_f1"]
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "base (adapter off)",
        "adapter",
        "majority class",
        "TF-IDF + logistic regression",
    ]
    assert f"{metrics['adapter']['accuracy']['value']:.3f} [" in lines[2]


def test_changed_test_rows_are_refused_and_the_old_result_stays(copy: Workspace) -> None:
    before = digest_files(copy.evaluation)
    part = copy.data / "test" / "part-0000.jsonl"
    part.write_text("".join(part.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="not the rows that artifacts/tokens was made from; run `graft stage tokenize`"):
        stages.run("evaluate", copy)
    assert digest_files(copy.evaluation) == before


def test_tokens_of_other_rows_are_refused(copy: Workspace) -> None:
    manifest = copy.tokens / "manifest.json"
    write_json(manifest, read_json(manifest) | {"data": "0" * 64})
    with pytest.raises(IntegrityError, match="artifacts/tokens holds data 000000000000; run `graft stage train`"):
        stages.run("evaluate", copy)


def test_flipped_bit_in_the_adapter_is_refused(copy: Workspace) -> None:
    weights = copy.adapter / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(IntegrityError, match="adapter_model"):
        stages.run("evaluate", copy)
    assert digest_file(weights)


def test_section_decides_the_level(copy: Workspace) -> None:
    text = yaml.safe_load(copy.params.read_text())
    copy.params.write_text(
        yaml.safe_dump(text | {"evaluation": {"resamples": 200, "confidence": 0.8}}, sort_keys=False)
    )
    before = read_json(copy.evaluation / "metrics.json")["base"]["accuracy"]
    stages.run("evaluate", copy)
    metrics = json.loads((copy.evaluation / "metrics.json").read_text())
    assert params.load(copy.params).evaluation.confidence == metrics["confidence"] == 0.8
    assert before["low"] < metrics["base"]["accuracy"]["low"] < metrics["base"]["accuracy"]["high"] < before["high"]
    assert "80\N{NO-BREAK SPACE}% interval" in (copy.evaluation / "report.html").read_text(encoding="utf-8")


def test_a_cheap_predictor_may_lack_a_metric_and_a_model_may_not() -> None:
    from types import SimpleNamespace

    from graft.evaluation.assessment import measure
    from graft.evaluation.intervals import Drawn
    from graft.tasks import Metric

    metrics = (Metric("a", lambda table: float(table["a"].mean())), Metric("b", lambda table: float(table["b"].mean())))
    task: Any = SimpleNamespace(headline="a", metrics=metrics)
    whole, less = {"a": np.arange(4.0), "b": np.arange(4.0)}, {"a": np.arange(4.0)}
    found = measure({"adapter": whole, "trivial": less}, task=task, digest="", config=Drawn(resamples=100))
    assert (set(found["adapter"]), set(found["trivial"])) == ({"a", "b"}, {"a"})
    with pytest.raises(KeyError, match="'b'"):
        measure({"adapter": less}, task=task, digest="", config=Drawn(resamples=100))


def test_tables_of_the_report_scroll_by_themselves() -> None:
    """On a telephone a table is wider than the page; the page itself must not be."""
    templates = Path(evaluation.__file__).parent / "templates"
    page = "".join(path.read_text(encoding="utf-8") for path in templates.glob("*.html.j2"))
    style = (templates / "report.css").read_text(encoding="utf-8")
    assert page.count("<table") == page.count('<div class="scroll"><table') > 0
    assert re.search(r"^\.scroll \{ overflow-x: auto;", style, re.MULTILINE)
    assert re.search(r"^h1, h2, h3, p, \.chip, .*overflow-wrap: anywhere", style, re.MULTILINE)


OWN_CODE = """from transformers import BertConfig, BertForSequenceClassification

class OwnConfig(BertConfig):
    model_type = "own_bert"

class OwnModel(BertForSequenceClassification):
    config_class = OwnConfig
"""


def test_base_with_code_of_its_own_is_asked_by_who_trusts_it(
    make_project: Any, tiny_base: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    (base / "own.py").write_text(OWN_CODE)
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnModel"}
    write_json(base / "config.json", {**read_json(base / "config.json"), "model_type": "own_bert", "auto_map": classes})
    quiet = {
        name: {size: 0} for name, size in (("robustness", "rows"), ("forgetting", "texts"), ("explanations", "rows"))
    }
    project = make_project(
        tmp_path / "p", **{"base.trust_remote_code": True, "evaluation": quiet, "training.epochs": 1}
    )
    shutil.rmtree(project.root / "base")
    shutil.copytree(base, project.root / "base")
    config = params.load(project.params)
    lock(project, config.base)
    for stage in ("tokenize", "train", "evaluate"):
        stages.run(stage, validated(project))
    scored = score_adapter(project.adapter, project, data=config.data, batch_rows=64, trust_remote_code=True)
    written = read(project.evaluation / "predictions" / "adapter.parquet")
    assert scored.table["prediction"].tolist() == written["prediction"].tolist()
    with pytest.raises(ValueError, match="custom code"):
        score_adapter(project.adapter, project, data=config.data, batch_rows=64)
