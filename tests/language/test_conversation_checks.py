"""What is checked of conversations in tokens: what was cut, ends, beginnings, and whose template wrote them."""

from __future__ import annotations

import json

import pytest

from graft import params, stages, tokenization
from graft.base import chat_template_digest, load_tokenizer, lock
from graft.base.contents import fingerprint
from graft.errors import IntegrityError
from graft.tasks.chat import TASK, Config
from graft.tasks.preference import TASK as PREFERENCE
from graft.tasks.preference import Config as PreferenceConfig
from graft.tasks.translation import TASK as TRANSLATION
from graft.tasks.translation import Config as TranslationConfig
from tests.conftest import check_rows, problems_of, toy_rows, validated
from tests.language.conftest import CHATML

PLACE = "data/train/part.jsonl:1"
BARE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
"""A template without any special token."""


def talk(*contents: str) -> dict:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": one} for n, one in enumerate(contents)]}


def size_of(tokenizer, row: dict) -> int:
    """Return how many tokens a conversation has, by the tokenizer itself."""
    return len(tokenizer.apply_chat_template(row["messages"], return_dict=False))


# -- what was cut


def test_earlier_turns_are_lost_context(chat_tokenizer):
    row, last = talk("one", "first", "two", "second"), talk("two", "second")
    limit = size_of(chat_tokenizer, last)
    [kept], found = check_rows(TASK, Config(), [row], chat_tokenizer, limit=limit)
    lost = size_of(chat_tokenizer, row) - limit
    assert (kept["untruncated_length"] - kept["length"], kept["lost_prompt"], kept["lost_target"]) == (lost, 0, 0)
    assert {one: found.counts[f"lost_{one}"] for one in ("prompt", "context", "target")} == {
        "prompt": 0,
        "context": 1,
        "target": 0,
    }
    assert f"{lost} of the context are cut" in found.broken["truncated_input"].problems[0].found


def test_the_front_of_the_last_prompt_is_a_lost_prompt(chat_tokenizer):
    row = talk("x" * 50, "yes")
    limit = size_of(chat_tokenizer, row) - 20
    [kept], found = check_rows(TASK, Config(), [row], chat_tokenizer, limit=limit)
    assert (kept["lost_prompt"], kept["lost_target"], kept["ended"]) == (20, 0, True)
    assert problems_of(found) == [("truncated_input", PLACE, "prompt")]


def test_the_end_of_an_answer_is_a_lost_target_and_no_missing_end(chat_tokenizer):
    row = talk("x" * 50, "y" * 80)
    size, limit = size_of(chat_tokenizer, row), 60
    [kept], found = check_rows(TASK, Config(), [row], chat_tokenizer, limit=limit)
    answer = len(chat_tokenizer("y" * 80 + "<|im_end|>\n", add_special_tokens=False)["input_ids"])
    assert kept["lost_target"] == answer - (limit - limit // 4)
    assert kept["lost_prompt"] + kept["lost_target"] == size - limit
    assert not kept["ended"]
    assert problems_of(found) == [("truncated_input", PLACE, "prompt"), ("truncated_target", PLACE, "completion")]


def test_pairs_lose_what_both_answers_lose(chat_tokenizer):
    pair = {"prompt": "x" * 60, "chosen": "y" * 70, "rejected": "z"}
    [kept], found = check_rows(PREFERENCE, PreferenceConfig(), [pair], chat_tokenizer, limit=60)
    wholes = [size_of(chat_tokenizer, talk("x" * 60, pair[name])) for name in ("chosen", "rejected")]
    assert kept["lost_prompt"] + kept["lost_target"] == sum(wholes) - len(kept["input_ids"])
    assert kept["lost_target"] == 70 + len("\n") + 1 - 45  # the answer has three quarters of the length
    assert [found.counts[f"lost_{one}"] for one in ("prompt", "context", "target")] == [1, 0, 1]


# -- ends


def test_an_end_is_learnt_also_where_the_template_writes_none(chat_tokenizer):
    rows = [talk("a", "b"), talk("a", "b", "c", "d")]
    kept, found = check_rows(TASK, Config(template=BARE), rows, chat_tokenizer, limit=60)
    assert problems_of(found) == []
    assert [row["labels"][-1] for row in kept] == [chat_tokenizer.eos_token_id] * 2


def test_a_row_that_never_learns_to_end_is_found(chat_tokenizer):
    rows = [talk("a", "b"), talk("a", "b", "c", "")]  # of the second row only the first answer has a token
    kept, found = check_rows(TASK, Config(template=BARE), rows, chat_tokenizer, limit=60)
    assert [row["supervised"] for row in kept] == [2, 1]
    assert chat_tokenizer.eos_token_id not in kept[1]["labels"]
    assert problems_of(found) == [("end", "data/train/part.jsonl:2", "completion")]


def test_an_answer_without_a_token_is_found(chat_tokenizer):
    asked = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    [kept], found = check_rows(TASK, Config(template=asked), [talk("a", "b")], chat_tokenizer, limit=60)
    assert (kept["supervised"], set(kept["labels"])) == (0, {-100})
    assert problems_of(found) == [("unsupervised", PLACE, "completion")]


@pytest.mark.parametrize("silent", ["chosen", "rejected"])
def test_a_pair_with_one_answer_without_a_token_is_found(chat_tokenizer, silent):
    pair = {"prompt": "a", "chosen": "b", "rejected": "c", silent: ""}
    [kept], found = check_rows(PREFERENCE, PreferenceConfig(template=BARE), [pair], chat_tokenizer, limit=60)
    assert kept["supervised"] == 0
    assert problems_of(found) == [("unsupervised", PLACE, "chosen")]


# -- beginnings


@pytest.mark.parametrize(("text", "begun"), [("hi", 1), ("<s>hi", 2)])
def test_a_text_that_brings_the_token_that_its_template_writes(bos_tokenizer, text, begun):
    row = {"prompt": text, "completion": "yes"}
    [kept], found = check_rows(TASK, Config(), [row], bos_tokenizer, limit=60)
    assert kept["input_ids"][:2].count(bos_tokenizer.bos_token_id) == begun
    assert problems_of(found) == [("doubled_bos", PLACE, "prompt")] * (begun - 1)


def test_a_prompt_that_writes_what_the_tokenizer_adds(bos_tokenizer):
    config = TranslationConfig(prompt="<s>{source}=", max_target_tokens=8)
    [kept], found = check_rows(TRANSLATION, config, [{"source": "a", "target": "b"}], bos_tokenizer, limit=30)
    assert kept["input_ids"] == bos_tokenizer("<s>a=")["input_ids"]
    assert problems_of(found) == [("doubled_bos", PLACE, "source")]
    assert "expected one <s> at the start, found two" in str(found.broken["doubled_bos"].problems[0])


def test_targets_of_translation_are_cut_apart_from_sources(bos_tokenizer):
    config = TranslationConfig(prompt="{source}=", max_target_tokens=8)
    rows = [{"source": "a" * 40, "target": "b"}, {"source": "a", "target": "b" * 20}]
    kept, found = check_rows(TRANSLATION, config, rows, bos_tokenizer, limit=30)
    source = len(bos_tokenizer("a" * 40 + "=")["input_ids"])
    assert [row["lost_target"] for row in kept] == [0, 20 + 1 - 8]
    assert kept[0]["untruncated_length"] - kept[0]["length"] == source - (30 - 8)
    assert problems_of(found) == [
        ("truncated_input", PLACE, "source"),
        ("truncated_target", "data/train/part.jsonl:2", "target"),
    ]


# -- whose template


def keep_in_settings(folder, value):
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": value}))


@pytest.mark.parametrize("kept", ["file", "settings", "list", "folder", "none"])
def test_the_digest_of_what_was_loaded_is_that_of_the_lock(chat_llama, tmp_path, kept):
    import shutil

    folder = tmp_path / "base"
    shutil.copytree(chat_llama, folder)
    if kept == "settings":
        keep_in_settings(folder, CHATML)
    if kept == "list":
        keep_in_settings(folder, [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": "t"}])
    if kept == "folder":
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text("t")
    if kept == "none":
        (folder / "chat_template.jinja").unlink()
    loaded, pinned = load_tokenizer(folder).chat_template, fingerprint(folder, "base").chat_template
    assert (pinned is None) is (kept == "none")
    assert isinstance(loaded, dict) is (kept in ("list", "folder"))
    assert chat_template_digest(folder, loaded) == pinned
    if loaded:
        assert chat_template_digest(folder, "another") != pinned


@pytest.fixture
def processors(language_project, chat_llama):
    """A project whose base keeps its template where only processors look: the tokenizer loads none."""

    def make(task=None, **severity):
        workspace = language_project(chat_llama, chat_row, {"name": "chat", **(task or {})})
        folder = workspace.root / "base"
        (folder / "chat_template.jinja").unlink()
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHATML}))
        text = workspace.params.read_text().replace("tokenization:", f"tokenization:\n  severity: {severity}", 1)
        workspace.params.write_text(text)
        lock(workspace, params.load(workspace.params).base)
        return validated(workspace)

    return make


def chat_row(number: int) -> dict:
    row = toy_rows(90, 3)[number]
    return {"prompt": row["text"][:12], "completion": row["label"]}


def test_another_template_than_the_pinned_one_is_refused(processors):
    workspace = processors()
    digest = fingerprint(workspace.root / "base", "base").chat_template
    expected = rf"sources\.lock pins a template with digest {digest[:12]}, the tokenizer that was loaded has none; save"
    with pytest.raises(IntegrityError, match=expected):
        stages.run("tokenize", workspace)


@pytest.mark.parametrize("severity", ["warn", "ignore"])
def test_another_template_is_reported_or_ignored(processors, severity, capsys):
    workspace = processors(chat_template=severity)
    stages.run("tokenize", workspace)
    assert ("warning: base.chat_template: sources.lock pins" in capsys.readouterr().out) is (severity == "warn")
    checks = tokenization.read_manifest(workspace.tokens)["checks"]
    assert [one["failed"] for one in checks if one["check"] == "chat_template"] == ([1] if severity == "warn" else [])


def test_a_task_with_a_template_of_its_own_reads_no_other(processors):
    stages.run("tokenize", processors(task={"template": CHATML}))


def test_the_pinned_template_is_said_to_be_the_one_that_was_read(language_project, chat_llama):
    workspace = validated(language_project(chat_llama, chat_row, {"name": "chat"}))
    stages.run("tokenize", workspace)
    manifest = tokenization.read_manifest(workspace.tokens)
    [found] = [one for one in manifest["checks"] if one["check"] == "chat_template"]
    assert (found["split"], found["failed"], manifest["chat_template"] is None) == ("all", 0, False)
