"""What is checked of token rows: each check on rows that break it, by severity, through the stage and by itself."""

from __future__ import annotations

import itertools
import json
import statistics

import pytest
from pydantic import ValidationError

from graft import stages, tokenization
from graft.base import load_tokenizer
from graft.errors import DataError
from graft.tasks.question_answering import TASK as ANSWERS
from graft.tasks.question_answering import Config as AnswersConfig
from graft.tasks.text_classification import TASK, Config
from graft.token_checks import Found, TokenContract
from graft.token_checks.found import Rows, padding_share
from graft.token_checks.verdicts import judge, warnings_of
from graft.workspace import Workspace
from tests.conftest import check_rows, problems_of, validated, write_rows

CONFIG = Config()
STATE = {"labels": ["animals", "weather"]}
LONG = "the cat and the dog " * 8
UNKNOWN = "\U0001f600"


def checked(base, *texts, **contract):
    rows = [{"text": text, "label": "animals"} for text in texts]
    return check_rows(TASK, CONFIG, rows, load_tokenizer(base), limit=16, **contract)


def place(line: int) -> str:
    return f"data/train/part.jsonl:{line}"


# -- rows


def test_rows_as_they_should_be_break_nothing(tiny_base):
    kept, found = checked(tiny_base, "the cat barks", "rain")
    ids = load_tokenizer(tiny_base)(["the cat barks", "rain"])["input_ids"]
    assert [row["input_ids"] for row in kept] == ids
    assert (found.broken, found.aside) == ({}, {})
    assert (found.counts["rows"], found.counts["tokens"]) == (2, sum(map(len, ids)))
    assert found.counts["text_tokens"] == found.counts["tokens"] - 2 * 2  # [CLS] and [SEP] of each
    assert found.lines == {len(ids[0]): 1, len(ids[1]): 1}


def test_a_cut_text_names_how_much_of_it_is_lost(tiny_base):
    kept, found = checked(tiny_base, "rain", LONG)
    whole = len(load_tokenizer(tiny_base)(LONG)["input_ids"])
    assert [row["length"] for row in kept][1] == 16
    [problem] = found.broken["truncated_input"].problems
    assert str(problem) == (
        f"{place(2)}: text: expected at most 16 tokens (tokenization.max_length_tokens), found {whole}: {whole - 16} "
        "of the context are cut"
    )
    assert {name: found.counts[f"lost_{name}"] for name in ("prompt", "context", "target")} == {
        "prompt": 0,
        "context": 1,
        "target": 0,
    }


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("\u200b", "empty"),
        (f"the {UNKNOWN} {UNKNOWN}", "unknown"),
        ("[CLS] the cat", "doubled_bos"),
        ("the cat", "min_tokens"),
        ("the cat and the dog and the rain", "max_tokens"),
        (LONG, "truncated_input"),
    ],
)
def test_each_check_finds_its_row_and_no_other(tiny_base, text, check):
    contract = {"max_unknown_share": 0.5, "min_tokens": 5, "max_tokens": 9}
    if check == "empty":
        contract["min_tokens"] = 1
    if check == "truncated_input":
        contract["max_tokens"] = None
    _, found = checked(tiny_base, "the cat is here", text, "the dog is here", **contract)
    assert problems_of(found) == [(check, place(2), "text")]


def test_unknown_tokens_are_counted_among_those_of_text(tiny_base):
    texts = [f"the {UNKNOWN} cat", f"{UNKNOWN} {UNKNOWN}", "the cat"]
    _, found = checked(tiny_base, *texts, max_unknown_share=1 / 3)
    tokenizer = load_tokenizer(tiny_base)
    unknown = [tokenizer.tokenize(text).count(tokenizer.unk_token) for text in texts]
    assert unknown == [1, 2, 0]
    assert found.counts["unknown_tokens"] == sum(unknown)
    assert [(one.place, one.found) for one in found.broken["unknown"].problems] == [(place(2), "2 of 2")]


def test_a_cut_question_is_a_lost_prompt(tiny_base):
    row = {"question": "the big old cat was here today", "context": "the rain is very cold"}
    answers = {"answers": {"text": ["rain"], "answer_start": [4]}}
    _, found = check_rows(
        ANSWERS, AnswersConfig(max_question_tokens=3), [row | answers], load_tokenizer(tiny_base), limit=40
    )
    assert (found.counts["lost_prompt"], found.counts["lost_context"]) == (1, 0)
    assert "4 of the prompt are cut" in found.broken["truncated_input"].problems[0].found


def test_windows_are_the_lines_that_padding_is_about(tiny_base):
    row = {"question": "is it", "context": "the rain is very cold " * 5, "answers": {"text": [], "answer_start": []}}
    kept, found = check_rows(ANSWERS, AnswersConfig(stride_tokens=2), [row], load_tokenizer(tiny_base), limit=12)
    assert len(kept[0]["windows"]) > 2
    assert sorted(found.lines.elements()) == sorted(kept[0]["windows"])
    cut = {**row, "question": "is it " * 4}
    aside = {"severity": {"truncated_input": "quarantine"}}
    config = AnswersConfig(stride_tokens=2, max_question_tokens=4)
    _, without = check_rows(ANSWERS, config, [cut, row, cut], load_tokenizer(tiny_base), limit=12, **aside)
    assert len(without.aside) == 2
    assert without.lines == found.lines


def test_rows_in_quarantine_are_counted_nowhere_else(tiny_base):
    severity = {"empty": "quarantine", "truncated_input": "quarantine", "unknown": "warn"}
    kept, found = checked(tiny_base, "rain", "\u200b", f"{UNKNOWN} " * 20, severity=severity)
    assert [row["line"] for row in kept] == [1]
    assert {where: [one.field for one in reasons] for where, reasons in found.aside.items()} == {
        place(2): ["text"],
        place(3): ["text"],
    }
    assert (found.counts["rows"], found.counts["truncated"], found.counts["unknown_tokens"]) == (1, 0, 0)
    assert "unknown" not in found.broken
    assert found.lines == {3: 1}


def test_what_is_ignored_is_not_looked_for(tiny_base):
    severity = {"truncated_input": "ignore", "unknown": "ignore", "doubled_bos": "ignore"}
    _, found = checked(tiny_base, LONG, UNKNOWN, "[CLS] rain", severity=severity)
    assert found.broken == {}
    assert found.counts["truncated"] == 1  # counted all the same


def test_limits_that_no_row_can_keep_are_refused():
    with pytest.raises(ValidationError, match=r"max_tokens \(3\) is below min_tokens \(4\)"):
        TokenContract(min_tokens=4, max_tokens=3)


# -- sums


def test_batches_and_parts_add_up_to_the_whole(tiny_base):
    texts = ["rain", LONG, f"the {UNKNOWN}", "\u200b", "the cat", LONG]
    contract = {"severity": {"empty": "quarantine"}}
    _, whole = checked(tiny_base, *texts, **contract)
    total = Found()
    for part in (texts[:2], texts[2:5], texts[5:]):
        _, found = checked(tiny_base, *part, **contract)
        total.add(found)
    assert (total.counts, total.lines, total.longest) == (whole.counts, whole.lines, whole.longest)
    assert (total.counts["quarantined"], len(whole.aside)) == (1, 1)
    assert {name: rows.count for name, rows in total.broken.items()} == {"truncated_input": 2, "unknown": 1, "empty": 1}
    assert {name: rows.count for name, rows in whole.broken.items()} == {"truncated_input": 2, "unknown": 1, "empty": 1}


def test_listed_rows_are_bounded_and_counted(monkeypatch, tiny_base):
    monkeypatch.setattr("graft.token_checks.part.REPORTED_PROBLEMS", 2)
    monkeypatch.setattr("graft.token_checks.found.REPORTED_PROBLEMS", 2)
    _, found = checked(tiny_base, *[LONG] * 5)
    rows = found.broken["truncated_input"]
    assert (rows.count, [one.place for one in rows.problems]) == (5, [place(1), place(2)])
    rows.add(Rows(3, rows.problems))
    assert (rows.count, len(rows.problems)) == (8, 2)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_padding_is_that_of_all_batches_that_can_be_drawn(batch):
    lengths = [3, 3, 5, 9]
    drawn = list(itertools.product(lengths, repeat=batch))
    width = statistics.fmean(max(one) for one in drawn)
    expected = 1 - statistics.fmean(lengths) / width
    assert padding_share({3: 2, 5: 1, 9: 1}, batch) == pytest.approx(expected)


def test_padding_of_one_length_or_of_no_line_is_none():
    assert padding_share({7: 100}, 32) == padding_share({}, 32) == 0


def test_a_batch_has_no_more_lines_than_there_are():
    assert padding_share({2: 1, 4: 1}, 32) == padding_share({2: 1, 4: 1}, 2)


# -- verdicts


def counted(**counts) -> Found:
    found = Found()
    found.counts.update({"rows": 100, **counts})
    return found


@pytest.mark.parametrize(("limit", "stops"), [(0.0, True), (0.09, True), (0.1, False), (1.0, False)])
def test_a_share_of_cut_rows_may_pass(tiny_base, limit, stops):
    _, found = checked(tiny_base, *[LONG] * 1, *["rain"] * 9)
    contract = TokenContract.model_validate({"max_truncated_share": limit, "severity": {"truncated_input": "fail"}})
    [verdict] = [one for one in judge("train", found, contract) if one.check == "truncated_input"]
    assert (verdict.failed, verdict.share, verdict.limit) == (1, 0.1, limit)
    assert bool(verdict.problems) is verdict.broken is stops


def test_padding_is_judged_where_it_is_asked_for():
    found = Found()
    found.counts.update(rows=2)
    found.lines.update({10: 1, 90: 1})  # two draws of two: 3 of 4 are 90 wide
    share = 1 - 50 / (0.25 * 10 + 0.75 * 90)
    assert all(one.check != "padding" for one in judge("train", found, TokenContract()))
    for severity, limit in itertools.product(("warn", "fail"), (0.2, 0.5)):
        contract = TokenContract.model_validate({"max_padding_share": limit, "severity": {"padding": severity}})
        verdicts = judge("train", found, contract)
        [verdict] = [one for one in verdicts if one.check == "padding"]
        assert verdict.share == pytest.approx(share)
        assert verdict.broken == (limit == 0.2)
        assert len(verdict.problems) == (verdict.broken and severity == "fail")
        assert len(list(warnings_of(verdicts, found))) == (verdict.broken and severity == "warn")


# -- through the stage


def add(workspace: Workspace, split: str, *texts: str) -> None:
    path = workspace.data / split / "part-0000.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_rows(path, [*rows, *({"id": f"new-{n}", "text": text, "label": "animals"} for n, text in enumerate(texts))])


def run(make_project, path, **settings) -> Workspace:
    workspace = make_project(path / "project", tokenization={"max_length_tokens": 16, **settings})
    add(workspace, "train", LONG, "[CLS] the cat", f"{UNKNOWN} {UNKNOWN}")
    validated(workspace)
    stages.run("tokenize", workspace)
    return workspace


ROWS = {"truncated_input": 61, "doubled_bos": 62, "unknown": 63}
WARN = dict.fromkeys(ROWS, "warn")


def verdicts_of(workspace: Workspace, check: str) -> dict[str, dict]:
    manifest = tokenization.read_manifest(workspace.tokens)
    return {one["split"]: one for one in manifest["checks"] if one["check"] == check}


@pytest.mark.parametrize("check", ROWS)
def test_fail_stops_at_the_row(make_project, tmp_path, check):
    first = r"tokenize: 1 problem; report: \.graft/failed/tokenize"
    with pytest.raises(DataError, match=rf"{first}\n  - data/train/part-0000.jsonl:{ROWS[check]}: text: exp"):
        run(make_project, tmp_path, severity=WARN | {check: "fail"})
    report = json.loads((tmp_path / "project" / ".graft" / "failed" / "tokenize" / "report.json").read_text())
    assert len(report["problems"]) == 1
    assert not (tmp_path / "project" / "artifacts" / "tokens").exists()


@pytest.mark.parametrize("check", ROWS)
def test_warn_reports_the_row_and_keeps_it(make_project, tmp_path, check, capsys):
    workspace = run(make_project, tmp_path, severity=dict.fromkeys(ROWS, "ignore") | {check: "warn"})
    where = f"data/train/part-0000.jsonl:{ROWS[check]}"
    lines = [one for one in capsys.readouterr().out.splitlines() if one.startswith("warning: train")]
    said = {
        "truncated_input": f"warning: train: 1 of 63 rows cut (1.59%): 1 lost part of the context ({where}); "
        "the longest has 42 tokens",
        "doubled_bos": f"warning: train: 1 row not as expected: text: one [CLS] at the start ({where})",
        "unknown": "warning: train: 1 row not as expected: text: at most 10% unknown tokens "
        f"(tokenization.max_unknown_share) ({where})",
    }
    assert lines == [said[check]]
    found = verdicts_of(workspace, check)
    assert found["train"] == {
        "split": "train",
        "check": check,
        "severity": "warn",
        "failed": 1,
        "share": round(1 / 63, 6),
        "limit": 0.0,
        "rows": [where],
    }
    assert (found["test"]["failed"], found["test"]["rows"]) == (0, [])
    assert tokenization.read_tokens(workspace.tokens, "train").num_rows == 63


@pytest.mark.parametrize("check", ROWS)
def test_quarantine_leaves_the_row_out_and_says_why(make_project, tmp_path, check, capsys):
    shares = {"max_quarantined_share": 0.02, "max_truncated_share": 0.5}
    workspace = run(make_project, tmp_path, severity=dict.fromkeys(ROWS, "ignore") | {check: "quarantine"}, **shares)
    where = f"data/train/part-0000.jsonl:{ROWS[check]}"
    manifest = tokenization.read_manifest(workspace.tokens)
    assert manifest["quarantined"] == [where]
    found = verdicts_of(workspace, check)["train"]
    assert (found["failed"], found["share"], found["limit"]) == (1, round(1 / 63, 6), 0.0)
    entry = manifest["splits"]["train"]
    assert (entry["rows"], entry["quarantined"], entry["truncated"]) == (62, 1, int(check != "truncated_input"))
    places = tokenization.read_tokens(workspace.tokens, "train")["row"].to_pylist()
    assert places == [f"data/train/part-0000.jsonl:{n}" for n in range(1, 64) if n != ROWS[check]]
    [line] = (workspace.tokens / "quarantine" / "train" / "part-0000.jsonl").read_text().splitlines()
    aside = json.loads(line)
    assert (aside["place"], aside["row"]["label"]) == (where, "animals")
    assert [reason["field"] for reason in aside["reasons"]] == ["text"]
    out = capsys.readouterr().out
    assert "tokenize: train: 1 row in quarantine; artifacts/tokens/quarantine" in out
    assert "warning: train: 1" not in out


@pytest.mark.parametrize("check", ROWS)
def test_ignore_says_nothing(make_project, tmp_path, check, capsys):
    workspace = run(make_project, tmp_path, severity=dict.fromkeys(ROWS, "ignore"))
    assert "warning: train: 1" not in capsys.readouterr().out
    assert verdicts_of(workspace, check) == {}


def test_more_rows_in_quarantine_than_may_be_stop_the_chain(make_project, tmp_path):
    severity = {"severity": dict.fromkeys(ROWS, "quarantine")}
    with pytest.raises(DataError, match="problem") as caught:
        run(make_project, tmp_path, **severity)
    places = ", ".join(f"data/train/part-0000.jsonl:{line}" for line in ROWS.values())
    assert str(caught.value) == (
        "tokenize: 1 problem; report: .graft/failed/tokenize\n"
        "  - data/train: expected at most 1 row in quarantine (1%: tokenization.max_quarantined_share), found 3 of 63 "
        f"({places}): 1 for text: one [CLS] at the start; 1 for text: at most 16 tokens "
        "(tokenization.max_length_tokens); 1 for text: at most 10% unknown tokens (tokenization.max_unknown_share); "
        "mend the rows; or raise tokenization.max_quarantined_share; or let what they break be reported only "
        "(tokenization.severity: warn), where that is possible; or split the data again"
    )
    folder = tmp_path / "project" / ".graft" / "failed" / "tokenize" / "quarantine"
    assert json.loads((folder / "summary.json").read_text()) == {"rows": {"train": 3}}
    [path] = folder.rglob("*.jsonl")
    assert path.relative_to(folder).as_posix() == "train/part-0000.jsonl"
    aside = {one["place"].split(":")[1]: one["row"]["text"] for one in map(json.loads, path.read_text().splitlines())}
    assert aside == {"61": LONG, "62": "[CLS] the cat", "63": f"{UNKNOWN} {UNKNOWN}"}


def test_one_row_may_be_in_quarantine_unless_the_share_is_nothing(make_project, tmp_path):
    severity = {"severity": WARN | {"unknown": "quarantine"}, "max_quarantined_share": 0.001}
    workspace = run(make_project, tmp_path, **severity)
    assert tokenization.read_manifest(workspace.tokens)["splits"]["train"]["quarantined"] == 1
    workspace.params.write_text(workspace.params.read_text().replace("0.001", "0.0"))
    with pytest.raises(DataError, match=r"expected at most 0 rows in quarantine \(0%: "):
        stages.run("tokenize", workspace)


def test_a_row_with_two_reasons_is_one_row(make_project, tmp_path):
    workspace = make_project(
        tmp_path / "project",
        tokenization={
            "max_length_tokens": 16,
            "max_quarantined_share": 0,
            "severity": {"truncated_input": "quarantine", "unknown": "quarantine"},
        },
    )
    add(workspace, "train", f"{UNKNOWN} " * 20, LONG)
    with pytest.raises(DataError, match="problem") as caught:
        stages.run("tokenize", validated(workspace))
    cut = "text: at most 16 tokens (tokenization.max_length_tokens)"
    [problem] = caught.value.problems
    assert (
        "found 2 of 62 (data/train/part-0000.jsonl:61, data/train/part-0000.jsonl:62): "
        f"1 for {cut} and text: at most 10% unknown tokens (tokenization.max_unknown_share); 1 for {cut}; "
    ) in problem


@pytest.mark.parametrize("severity", ["fail", "warn"])
def test_a_share_of_cut_rows_is_said_with_all_of_its_rows(make_project, tmp_path, monkeypatch, capsys, severity):
    for module in ("part", "found"):
        monkeypatch.setattr(f"graft.token_checks.{module}.REPORTED_PROBLEMS", 25)
    share = {"max_truncated_share": 0.05, "severity": {"truncated_input": severity}}
    workspace = make_project(tmp_path / "project", tokenization={"max_length_tokens": 16, **share})
    add(workspace, "train", *[f"{LONG} {number}" for number in range(30)])
    validated(workspace)
    if severity == "warn":
        stages.run("tokenize", workspace)
        assert (
            "warning: train: 30 of 90 rows cut (33.3%, more than max_truncated_share 5%): 30 lost part of the context "
            "(data/train/part-0000.jsonl:61, "
        ) in capsys.readouterr().out
        return
    with pytest.raises(DataError, match="problem") as caught:
        stages.run("tokenize", workspace)
    first, *lines = str(caught.value).splitlines()
    assert first == (
        "tokenize: train: 30 of 90 rows cut, 33.3% (at most 5%: tokenization.max_truncated_share); 30 problems; "
        "report: .graft/failed/tokenize"
    )
    assert (len(lines), lines[-1]) == (21, "  ... and 10 more")
    report = json.loads((workspace.failed / "tokenize" / "report.json").read_text())
    assert (report["total"], len(report["problems"])) == (30, 25)


def test_a_split_of_which_no_row_stays_is_refused(make_project, tmp_path):
    severity = {"min_tokens": 16, "max_quarantined_share": 1.0, "severity": WARN | {"min_tokens": "quarantine"}}
    found = (
        r"data/test: expected a row that stays, found none: all are in quarantine \(data/test/part-0000.jsonl:1, .*:5, "
        r"\.\.\.\): 15 for text: at least 16 tokens \(tokenization.min_tokens\)"
    )
    with pytest.raises(DataError, match=found):
        run(make_project, tmp_path, **severity)


@pytest.mark.parametrize("others", [0, 1])
def test_a_label_of_which_no_training_row_stays_is_refused(make_project, tmp_path, others):
    severity = {"severity": {"unknown": "quarantine"}, "max_quarantined_share": 0.05}
    workspace = make_project(tmp_path / "project", tokenization=severity)
    path = workspace.data / "train" / "part-0000.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rare = [{"text": text, "label": "zoo"} for text in (UNKNOWN, *["the zoo"] * others)]
    write_rows(path, [*rows, *rare, {"text": f"{UNKNOWN} {UNKNOWN}", "label": "animals"}])
    validated(workspace, {"labels": ["animals", "cooking", "weather", "zoo"]})
    if others:
        stages.run("tokenize", workspace)
        return
    with pytest.raises(DataError, match="problem") as caught:
        stages.run("tokenize", workspace)
    assert caught.value.problems == (
        "data/train: expected a row with the label 'zoo' that stays, found none: all are in quarantine "
        "(data/train/part-0000.jsonl:61): 1 for text: at most 10% unknown tokens (tokenization.max_unknown_share); "
        "mend them, or remove them",
    )
    assert (workspace.failed / "tokenize" / "quarantine" / "train" / "part-0000.jsonl").is_file()


@pytest.mark.parametrize("kinds", [["email"], []])
def test_private_data_in_quarantine_is_masked_where_it_is_looked_for(make_project, tmp_path, kinds):
    settings = {"severity": {"truncated_input": "quarantine"}, "max_quarantined_share": 0.02}
    data = {"privacy": {"kinds": kinds}}
    workspace = make_project(tmp_path / "project", data=data, tokenization={"max_length_tokens": 16, **settings})
    add(workspace, "train", f"{LONG} write to ann@example.org")
    stages.run("tokenize", validated(workspace))
    text = (workspace.tokens / "quarantine" / "train" / "part-0000.jsonl").read_text()
    assert ("ann@example.org" in text) is not bool(kinds)
    assert ("<EMAIL_1>" in text) is bool(kinds)


def test_a_renamed_part_keeps_its_findings_under_its_new_name(make_project, tmp_path, capsys):
    workspace = run(make_project, tmp_path, severity=WARN)
    path = workspace.data / "train" / "part-0000.jsonl"
    path.rename(path.with_name("part-0007.jsonl"))
    before = sorted((workspace.store / "tokenize").iterdir())
    stages.run("tokenize", validated(workspace))
    assert sorted((workspace.store / "tokenize").iterdir()) == before
    assert verdicts_of(workspace, "unknown")["train"]["rows"] == ["data/train/part-0007.jsonl:63"]


def test_limits_of_a_split_are_judged_without_encoding_its_parts_again(make_project, tmp_path):
    workspace = run(make_project, tmp_path, severity=WARN)
    before = sorted((workspace.store / "tokenize").iterdir())
    text = workspace.params.read_text()
    workspace.params.write_text(
        text.replace("max_length_tokens: 16", "max_length_tokens: 16\n  max_truncated_share: 0.5")
    )
    stages.run("tokenize", workspace)
    assert sorted((workspace.store / "tokenize").iterdir()) == before
    assert verdicts_of(workspace, "truncated_input")["train"]["limit"] == 0.5
