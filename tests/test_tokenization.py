import gzip
import json
import shutil

import pytest

from graft import params, stages, tasks, tokenization
from graft.artifact import planned_identity
from graft.data import data_digest
from graft.errors import ConfigError, DataError
from graft.identity import digest_file, digest_folder, run_key
from graft.workspace import SPLITS, Workspace, write_json
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
        assert row["label"] == line["label"]
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


def test_renamed_part_is_validated_again_since_quarantine_names_places(project):
    part = project.data / "train" / "part-0000.jsonl"
    verdict = project.validation / "verdict.json"
    validated(project)
    told = json.loads(verdict.read_text())
    told["splits"]["train"]["parts"] = {part.name: {"rows": 60, "digest": digest_file(part)}}
    write_json(verdict, told | {"quarantined": [f"data/train/{part.name}:3"]})
    stages.run("tokenize", project)
    part.rename(part.with_name("other.jsonl"))
    with pytest.raises(DataError, match="data: changed since it was validated"):
        stages.run("tokenize", project)


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


def test_long_rows_are_cut_and_counted(project, capsys):
    text = "the cat and the dog " * 20
    append(project, "train", {"id": "long", "text": text, "label": "animals"})
    stages.run("tokenize", validated(project))
    row = tokenization.read_tokens(project.tokens, "train").to_pylist()[-1]
    assert (row["length"], row["untruncated_length"]) == (32, len(text.split()) + 2)
    assert row["input_ids"][-1] == 3  # [SEP] stays
    entry = manifest(project)["splits"]["train"]
    assert entry["truncated"] == 1
    assert f"tokenize: train: 61 rows, {entry['tokens']} tokens, 1 row cut\n" in capsys.readouterr().out


def test_refused_long_rows_are_named_and_the_old_tables_stay(project):
    stages.run("tokenize", validated(project))
    before = digest_folder(project.tokens)
    change(project, "max_length_tokens: 32", "max_length_tokens: 32\n  severity: {truncated_input: fail}")
    append(project, "test", {"text": "the cat and the dog " * 20, "label": "animals"})
    with pytest.raises(
        DataError, match=r"data/test/part-0000.jsonl:16: text: expected at most 32 tokens .*, found 102"
    ):
        stages.run("tokenize", validated(project))
    assert digest_folder(project.tokens) == before
    report = json.loads((project.failed / "tokenize" / "report.json").read_text())
    assert len(report["problems"]) == 1
    change(project, "truncated_input: fail", "truncated_input: warn")
    stages.run("tokenize", project)
    assert not (project.failed / "tokenize").exists()


def test_rows_without_a_token_are_refused(project):
    append(
        project, "validation", {"text": "\u200b\u200b", "label": "animals"}, {"text": "\U0001f600", "label": "animals"}
    )
    with pytest.raises(
        DataError, match=r"1 problem; report: .*\n  - data/validation/part-0000.jsonl:16: text: expected"
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
    append(project, "test", {**first, "id": "and again"})
    stages.run("validate", project)
    stages.run("tokenize", project)
    assert manifest(project)["splits"]["test"]["also_in_train"] == 2
    assert manifest(project)["leaked"] == {
        "the text of a row of train": 1,
        "the text, or nearly, of a row of train": 1,
    }
    assert "test: 2 rows have the same tokens as a training row" in capsys.readouterr().out


def test_unknown_tokens_are_counted(project, capsys):
    append(project, "test", *({"text": "\U0001f600 \U0001f600", "label": "animals"} for _ in range(20)))
    stages.run("tokenize", validated(project))
    assert manifest(project)["splits"]["test"]["unknown_tokens"] == 40
    assert "warning: test: 20 rows not as expected: text: at most 10% unknown tokens" in capsys.readouterr().out


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
    with pytest.raises(
        DataError, match=r"data\.clean, data\.columns, data\.privacy: changed since validation; run `gr"
    ):
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


def made(project) -> dict[str, int]:
    """Return the results in the store and when each was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (project.store / "tokenize").glob("*/digests.json")}


def test_an_added_part_is_tokenized_alone_and_a_renamed_one_not_at_all(project):
    stages.run("tokenize", validated(project))
    before, rows = made(project), tokenization.read_tokens(project.tokens, "train").drop_columns(["row"])
    assert len(before) == 3
    append(project, "train", {"text": "rain", "label": "weather"}, part="part-0001.jsonl")
    (project.data / "train" / "part-0000.jsonl").rename(project.data / "train" / "first.jsonl")
    stages.run("tokenize", validated(project))
    assert len(made(project)) == 4
    assert made(project).items() > before.items()
    table = tokenization.read_tokens(project.tokens, "train")
    assert table.drop_columns(["row"]).slice(0, 60) == rows
    assert table["row"].to_pylist()[59:] == ["data/train/first.jsonl:60", "data/train/part-0001.jsonl:1"]
    assert manifest(project)["splits"]["train"]["parts"] == ["first.arrow", "part-0001.arrow"]


@pytest.mark.parametrize("changed", ["limit", "tokenizer"])
def test_what_decides_a_table_is_part_of_its_key(project, changed):
    stages.run("tokenize", validated(project))
    before = made(project)
    if changed == "limit":
        change(project, "max_length_tokens: 32", "max_length_tokens: 8")
        stages.run("tokenize", project)
    else:
        from graft.base import lock

        path = project.root / "base" / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "cls_token": "[MASK]"}))
        lock(project, params.load(project.params).base)
        stages.run("tokenize", project)
    assert len(made(project)) == 6
    assert made(project).items() > before.items()


TAUGHT = {
    "text_classification": (
        {"name": "text_classification", "numeric_columns": ["size", "age"]},
        [{"text": f"cat {n}", "label": "xy"[n % 2], "age": n, "size": 2.5} for n in range(4)],
        {"text": "rain", "label": "a new one", "age": 1e6, "size": -3.0},
    ),
    "multi_label_classification": (
        {"name": "multi_label_classification"},
        [{"text": f"cat {n}", "labels": ["x", "y"][: n % 3]} for n in range(4)],
        {"text": "rain", "labels": ["a new one", "x"]},
    ),
    "regression": (
        {"name": "regression"},
        [{"text": f"cat {n}", "target": n / 7} for n in range(4)],
        {"text": "rain", "target": 1e6},
    ),
    "token_classification": (
        {"name": "token_classification"},
        [{"tokens": ["cat", "the"], "tags": ["B-x", "O"]} for _ in range(4)],
        {"tokens": ["rain"], "tags": ["B-new"]},
    ),
}


@pytest.mark.parametrize("name", TAUGHT)
def test_a_part_that_changes_what_the_task_learns_is_tokenized_alone(make_project, tmp_path, name):
    settings, rows, new = TAUGHT[name]
    task, config = tasks.get(name), tasks.config_class(name)(**settings)
    project = make_project(tmp_path / "project", task=settings)
    for split in SPLITS:
        (project.data / split / "part-0000.jsonl").unlink()
        append(project, split, *rows)
    before = task.learn(config, iter(rows))
    stages.run("tokenize", validated(project, before))
    first, digest = made(project), digest_file(project.tokens / "train" / "part-0000.arrow")
    append(project, "train", new, part="part-0001.jsonl")
    after = task.learn(config, iter([*rows, new]))
    assert after != before
    stages.run("tokenize", validated(project, after))
    assert len(made(project)) == len(first) + 1
    assert digest_file(project.tokens / "train" / "part-0000.arrow") == digest
    learnt = [column for column in ("label", "labels", "target", "tags") if column in rows[0]]
    for found, row in zip(tokenization.token_rows(project.tokens, "train"), [*rows, new], strict=True):
        assert [found[column] for column in learnt] == [row[column] for column in learnt]
    batch = task.collate(tokenization.token_rows(project.tokens, "train")[:], 0, after)
    assert len(batch["labels"]) == 5


def grown(project):
    """Return the project with more parts."""
    for number in range(3):
        append(project, "train", {"text": f"rain {number}", "label": "weather"}, part=f"part-000{number + 1}.jsonl")
    append(project, "test", {"text": "\u200b\u200b snow", "label": "weather"}, part="part-0001.jsonl")
    return validated(project)


def test_a_warm_store_changes_no_byte(project):
    digests = []
    for cold in (True, False, True):
        if cold:
            shutil.rmtree(project.store, ignore_errors=True)
        stages.run("tokenize", grown(project) if not digests else project)
        digests.append(digest_folder(project.tokens))
    assert len(set(digests)) == 1


@pytest.mark.slow
def test_processes_change_no_byte(project, monkeypatch):
    digests = []
    for processes in ("1", "2"):
        monkeypatch.setenv("GRAFT_PROCESSES", processes)
        shutil.rmtree(project.store, ignore_errors=True)
        stages.run("tokenize", grown(project) if not digests else project)
        digests.append(digest_folder(project.tokens))
    assert digests[0] == digests[1]


def test_a_refused_row_is_refused_again_from_the_store_under_its_parts_name(project):
    append(project, "test", {"text": "\u200b", "label": "animals"}, part="part-0001.jsonl")
    with pytest.raises(DataError, match=r"data/test/part-0001.jsonl:1: text: expected text that"):
        stages.run("tokenize", validated(project))
    (project.data / "test" / "part-0001.jsonl").rename(project.data / "test" / "bad.jsonl")
    before = made(project)
    with pytest.raises(DataError, match=r"data/test/bad.jsonl:1: text: expected text that"):
        stages.run("tokenize", validated(project))
    assert made(project) == before


def test_a_row_that_goes_to_quarantine_later_makes_a_new_table(project):
    stages.run("tokenize", validated(project))
    path = project.validation / "verdict.json"
    write_json(path, {**json.loads(path.read_text()), "quarantined": ["data/train/part-0000.jsonl:3"]})
    stages.run("tokenize", project)
    places = tokenization.read_tokens(project.tokens, "train")["row"].to_pylist()
    assert places[1:3] == ["data/train/part-0000.jsonl:2", "data/train/part-0000.jsonl:4"]
    assert len(places) == 59
    assert len(made(project)) == 4


def test_a_damaged_result_is_made_again(project):
    stages.run("tokenize", validated(project))
    first = digest_folder(project.tokens)
    for path in (project.store / "tokenize").glob("*/table.arrow"):
        path.unlink()
        path.write_bytes(b"damaged")
    stages.run("tokenize", project)
    assert digest_folder(project.tokens) == first


def test_rows_on_disk_are_those_of_the_table(project):
    append(project, "train", {"id": "pair", "text": "rain", "text_pair": "snow and wind", "label": "weather"})
    append(project, "train", {"id": "late", "text": "soup", "label": "cooking"}, part="part-0001.jsonl")
    stages.run("tokenize", validated(project))
    wanted = tokenization.read_tokens(project.tokens, "train").to_pylist()
    found = tokenization.token_rows(project.tokens, "train")
    assert len(found) == 62
    assert list(found) == found[:] == wanted
    assert [found[61], found[-1], *found[58:60]] == [wanted[61], wanted[-1], *wanted[58:60]]
    assert tokenization.lengths_of(found) == tokenization.lengths_of(wanted) == [row["length"] for row in wanted]
    assert [one.tolist() for one in found.lists("input_ids")] == [row["input_ids"] for row in wanted]


def test_shared_rows_are_counted_bucket_by_bucket(tmp_path, monkeypatch):
    import numpy as np

    from graft.tokenization import shared_rows

    dice = np.random.default_rng(0)
    theirs = [dice.integers(0, 2**64, count, np.uint64) for count in (700, 0, 300)]
    ours = [np.concatenate([theirs[0][:50], dice.integers(0, 2**64, 200, np.uint64), theirs[2][:7], theirs[2][:7]])]
    paths = {"theirs": [], "ours": []}
    for name, arrays in (("theirs", theirs), ("ours", ours)):
        for number, array in enumerate(arrays):
            paths[name].append(tmp_path / f"{name}{number}.npy")
            np.save(paths[name][-1], np.sort(array))
    known = set(np.concatenate(theirs).tolist())
    wanted = sum(one in known for one in ours[0].tolist())
    assert wanted == 64
    for rows in (1 << 20, 300, 10):
        monkeypatch.setattr(shared_rows, "BUCKET_ROWS", rows)
        assert shared_rows.count_shared(paths["ours"], paths["theirs"]) == wanted
    assert shared_rows.count_shared(paths["ours"], [paths["theirs"][1]]) == 0


def test_rows_of_the_reload_proof_travel_without_private_data(project):
    from transformers import AutoTokenizer

    part = project.data / "validation" / "part-0000.jsonl"
    rows = [json.loads(line) for line in part.read_text().splitlines()]
    texts = [row["text"] for row in rows]
    mail = "ann" + "@example.org"
    part.write_text("".join(json.dumps({**row, "text": f"{row['text']} {mail}"}) + "\n" for row in rows))
    stages.run("tokenize", validated(project))
    tokenizer = AutoTokenizer.from_pretrained(project.root / "base")
    chosen = [texts[number * 15 // 8] for number in range(8)]
    expected = tokenizer([f"{text} <EMAIL_1>" for text in chosen])["input_ids"]
    assert [row["input_ids"] for row in tokenization.probe_rows(project.tokens)] == expected
    stored = tokenization.read_tokens(project.tokens, "validation")["input_ids"].to_pylist()
    assert stored == tokenizer([f"{text} {mail}" for text in texts])["input_ids"]
    (project.tokens / "probe.arrow").unlink()
    with pytest.raises(ConfigError, match=r"tokens: no probe\.arrow; run `graft stage tokenize`"):
        tokenization.probe_rows(project.tokens)


@pytest.mark.parametrize("privacy", [{"kinds": ["email"]}, {"regions": ["DE"]}])
def test_what_redact_replaces_is_part_of_the_verdict_and_of_the_identity(project, privacy):
    change(project, "tokenization:", "data:\n  clean: [redact]\ntokenization:")
    stages.run("tokenize", validated(project))
    settings = manifest(project)["privacy"]
    assert set(settings) == {"kinds", "regions"}
    loaded = params.load(project.params)
    identity = planned_identity(project, loaded.task, loaded.base, loaded.adapter, loaded.training)
    assert (identity["clean"], identity["privacy"]) == (["redact"], settings)
    write_json(project.tokens / "manifest.json", {**manifest(project), "privacy": {**settings, **privacy}})
    other = planned_identity(project, loaded.task, loaded.base, loaded.adapter, loaded.training)
    assert run_key(other) != run_key(identity)
    change(project, "clean: [redact]", f"clean: [redact]\n  privacy: {json.dumps(privacy)}")
    with pytest.raises(DataError, match=r"data\.clean, data\.columns, data\.privacy: changed since validation"):
        stages.run("tokenize", project)
