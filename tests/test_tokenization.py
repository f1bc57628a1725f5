import gzip
import json
import shutil

import pytest

from graft import params, stages, tokenization
from graft.data import data_digest
from graft.errors import ConfigError, DataError
from graft.identity import digest_folder
from graft.workspace import Workspace, write_json
from tests.conftest import validated

LABELS = ["animals", "cooking", "weather"]


def append(workspace: Workspace, split: str, *rows: dict, part: str = "part-0000.jsonl") -> None:
    with (workspace.data / split / part).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def change(workspace: Workspace, old: str, new: str) -> None:
    text = workspace.params.read_text()
    assert old in text
    workspace.params.write_text(text.replace(old, new))


def manifest(workspace: Workspace) -> dict:
    return tokenization.read_manifest(workspace.tokens)


def test_tokenize_writes_what_the_tokenizer_says_for_each_row(project):
    from transformers import AutoTokenizer

    stages.run("tokenize", validated(project))
    tokenizer = AutoTokenizer.from_pretrained(project.root / "base")
    lines = (project.data / "train" / "part-0000.jsonl").read_text().splitlines()
    rows = tokenization.read_tokens(project.tokens, "train").to_pylist()
    assert len(rows) == len(lines) == 60
    for number, (row, line) in enumerate(zip(rows, map(json.loads, lines), strict=True), start=1):
        assert row["row"] == f"data/train/part-0000.jsonl:{number}"
        assert row["id"] == line["id"]
        assert row["input_ids"] == tokenizer(line["text"])["input_ids"]
        assert row["length"] == row["untruncated_length"] == len(row["input_ids"])
        assert LABELS[row["label"]] == line["label"]
        assert row["token_type_ids"] is None


def test_manifest_counts_rows_and_tokens_and_names_base_and_data(project):
    from graft.base import locked

    stages.run("tokenize", validated(project))
    found, base = manifest(project), locked(project, params.load(project.params).base)
    table = tokenization.read_tokens(project.tokens, "test")
    assert found["splits"]["test"]["rows"] == table.num_rows == 15
    assert found["splits"]["test"]["tokens"] == sum(len(ids) for ids in table["input_ids"].to_pylist())
    assert (found["base"], found["tokenizer"], found["chat_template"]) == (base.digest, base.tokenizer, None)
    assert found["data"] == data_digest(project.data)
    assert (found["max_length_tokens"], found["pad_token_id"]) == (32, 0)
    assert found["state"] == {"labels": LABELS}


def test_tokenize_twice_gives_the_same_bytes(project):
    validated(project)
    stages.run("tokenize", project)
    first = digest_folder(project.tokens)
    stages.run("tokenize", project)
    assert digest_folder(project.tokens) == first


def test_packed_parts_give_the_tokens_of_plain_ones(project):
    stages.run("tokenize", validated(project))
    wanted = tokenization.read_tokens(project.tokens, "train").drop_columns(["row"]).to_pylist()
    plain = project.data / "train" / "part-0000.jsonl"
    lines = plain.read_bytes().splitlines(keepends=True)
    (project.data / "train" / "part-0001.json").write_text(json.dumps([json.loads(line) for line in lines[20:]]))
    plain.unlink()
    validated(project)  # counts the lines of files of text
    plain.with_name("part-0000.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[:20])))
    verdict = project.validation / "verdict.json"
    write_json(verdict, json.loads(verdict.read_text()) | {"data": data_digest(project.data)})
    stages.run("tokenize", project)
    found = tokenization.read_tokens(project.tokens, "train")
    assert found.drop_columns(["row"]).to_pylist() == wanted
    places = found["row"].to_pylist()
    assert (places[0], places[19]) == ("data/train/part-0000.jsonl.gz:1", "data/train/part-0000.jsonl.gz:20")
    assert places[20] == "data/train/part-0001.json:1"
    assert places[21].startswith("data/train/part-0001.json:1:")
    names = [path.name for path in sorted((project.tokens / "train").iterdir())]
    assert names == ["part-0000.arrow", "part-0001.arrow"]


def test_batches_do_not_change_the_rows(project, monkeypatch):
    validated(project)
    stages.run("tokenize", project)
    whole = tokenization.read_tokens(project.tokens, "train").to_pylist()
    monkeypatch.setattr("graft.tokenization.part_encoder.BATCH_ROWS", 7)
    shutil.rmtree(project.store)
    stages.run("tokenize", project)
    assert tokenization.read_tokens(project.tokens, "train").to_pylist() == whole


def test_token_tables_open_with_datasets(project):
    from datasets import Dataset

    stages.run("tokenize", validated(project))
    opened = Dataset.from_file(str(project.tokens / "train" / "part-0000.arrow"))
    assert opened[:]["input_ids"] == tokenization.read_tokens(project.tokens, "train")["input_ids"].to_pylist()


def test_long_rows_are_cut_and_counted(project):
    text = "the cat and the dog " * 20
    append(project, "train", {"id": "long", "text": text, "label": "animals"})
    stages.run("tokenize", validated(project))
    row = tokenization.read_tokens(project.tokens, "train").to_pylist()[-1]
    assert (row["length"], row["untruncated_length"]) == (32, len(text.split()) + 2)
    assert row["input_ids"][-1] == 3  # [SEP] stays
    assert manifest(project)["splits"]["train"]["truncated"] == 1


def test_refused_long_rows_are_named_and_the_old_tables_stay(project):
    stages.run("tokenize", validated(project))
    before = digest_folder(project.tokens)
    change(project, "max_length_tokens: 32", "max_length_tokens: 32\n  too_long: refuse")
    append(project, "test", {"text": "the cat and the dog " * 20, "label": "animals"})
    with pytest.raises(DataError, match=r"data/test/part-0000.jsonl:16: text: expected at most 32 tokens, found 102"):
        stages.run("tokenize", validated(project))
    assert digest_folder(project.tokens) == before
    report = json.loads((project.failed / "tokenize" / "report.json").read_text())
    assert len(report["problems"]) == 1
    change(project, "too_long: refuse", "too_long: truncate")
    stages.run("tokenize", project)
    assert not (project.failed / "tokenize").exists()


def test_rows_without_a_token_are_refused(project):
    append(
        project, "validation", {"text": "\u200b\u200b", "label": "animals"}, {"text": "\U0001f600", "label": "animals"}
    )
    with pytest.raises(
        DataError, match=r"1 rows cannot be used\n  - data/validation/part-0000.jsonl:16: text: expected"
    ):
        stages.run("tokenize", validated(project))


def test_column_names_of_the_files_are_used_in_messages(make_project, tmp_path):
    project = make_project(tmp_path / "named", data={"columns": {"text": "body"}})
    for path in project.data.rglob("*.jsonl"):
        path.write_text(path.read_text().replace('"text"', '"body"'))
    append(project, "train", {"body": "\u200b", "label": "animals"})
    with pytest.raises(DataError, match=r"part-0000.jsonl:61: body: expected"):
        stages.run("tokenize", validated(project))


def test_rows_shared_with_training_are_counted(project, capsys):
    first = json.loads((project.data / "train" / "part-0000.jsonl").read_text().splitlines()[0])
    append(project, "test", {**first, "id": "again", "text": first["text"].upper()})
    stages.run("tokenize", validated(project))
    assert manifest(project)["splits"]["test"]["also_in_train"] == 1
    assert "test: 1 rows have the same tokens as a training row" in capsys.readouterr().out


def test_unknown_tokens_are_counted(project, capsys):
    append(project, "test", *({"text": "\U0001f600 \U0001f600", "label": "animals"} for _ in range(20)))
    stages.run("tokenize", validated(project))
    assert manifest(project)["splits"]["test"]["unknown_tokens"] == 40
    assert "of the tokens are unknown" in capsys.readouterr().out


def test_parts_keep_their_order_and_names(project):
    append(project, "train", {"text": "rain", "label": "weather"}, part="part-0001.jsonl")
    (project.data / "train" / "part-0001.csv").write_text("text,label\nsnow,weather\n")
    stages.run("tokenize", validated(project))
    names = manifest(project)["splits"]["train"]["parts"]
    assert names == ["part-0000.arrow", "part-0001.csv.arrow", "part-0001.jsonl.arrow"]
    rows = tokenization.read_tokens(project.tokens, "train")["row"].to_pylist()
    assert rows[-2:] == ["data/train/part-0001.csv:2", "data/train/part-0001.jsonl:1"]


@pytest.mark.parametrize("happened", ["never validated", "changed", "failed"])
def test_data_that_was_not_validated_is_refused(project, happened):
    if happened != "never validated":
        validated(project)
    if happened == "changed":
        append(project, "train", {"text": "rain", "label": "weather"})
    if happened == "failed":
        path = project.validation / "verdict.json"
        write_json(path, {**json.loads(path.read_text()), "passed": False})
    with pytest.raises(DataError, match="run `graft stage validate`"):
        stages.run("tokenize", project)
    assert not project.tokens.exists()


@pytest.mark.parametrize("data", [{"clean": ["nfc"]}, {"columns": {"text": "body"}}])
def test_a_verdict_on_otherwise_read_data_is_refused(make_project, tmp_path, data):
    project = validated(make_project(tmp_path / "read", data=data))
    path = project.validation / "verdict.json"
    write_json(path, {**json.loads(path.read_text()), "clean": [], "columns": {}})
    with pytest.raises(DataError, match=r"data\.clean, data\.columns: changed since validation; run `graft stage val"):
        stages.run("tokenize", project)
    assert not project.tokens.exists()


def test_duplicates_are_dropped_over_the_parts_of_a_split(make_project, tmp_path):
    project = make_project(tmp_path / "duplicates", data={"clean": ["duplicates", "whitespace"]})
    first = json.loads((project.data / "train" / "part-0000.jsonl").read_text().splitlines()[0])
    append(project, "train", {"text": f"  {first['text']}", "label": first["label"]}, part="part-0001.jsonl")
    append(project, "test", {"text": first["text"], "label": first["label"]})
    stages.run("validate", project)
    stages.run("tokenize", project)
    assert {split: one["rows"] for split, one in manifest(project)["splits"].items()} == {
        "train": 60,
        "validation": 15,
        "test": 16,
    }
    assert tokenization.read_tokens(project.tokens, "train")["row"].to_pylist()[-1] == "data/train/part-0000.jsonl:60"


def test_a_limit_above_the_positions_is_refused(make_project, tmp_path):
    project = validated(make_project(tmp_path / "wide", tokenization={"max_length_tokens": 65}))
    with pytest.raises(ConfigError, match=r"max_length_tokens: ./base has 64 positions \(got 65\)"):
        stages.run("tokenize", project)


@pytest.mark.parametrize(("end", "filler"), [("[SEP]", 3), (None, 0)])
def test_a_decoders_tokenizer_without_padding_fills_up_with_its_end_token(project, end, filler):
    from graft.base import load_tokenizer, lock

    path = project.root / "base" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("pad_token")
    path.write_text(json.dumps(settings | ({"eos_token": end} if end else {})))
    lock(project, params.load(project.params).base)
    stages.run("tokenize", validated(project))
    assert load_tokenizer(project.root / "base").pad_token is None
    assert manifest(project)["pad_token_id"] == filler


def test_tokens_that_were_not_made_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"manifest.json: no such file; run the stage"):
        tokenization.read_tokens(tmp_path, "train")
