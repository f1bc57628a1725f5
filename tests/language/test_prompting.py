from types import SimpleNamespace

import pytest

from graft.checks import check
from graft.conversations import disorder, messages_of, without_oldest
from graft.errors import ConfigError, DataError
from graft.generation import GenerationConfig
from graft.likelihood import IGNORED
from graft.prompting import (
    PLAIN,
    ChatFormat,
    beginning_of,
    continuation,
    end_of_text,
    fitted,
    valid_template,
)

MARKED = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}A: {% generation %}{{ m['content'] }}"
    "{{ eos_token }}{% endgeneration %}{% else %}Q: {{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A: {% endif %}"
)
MARKED_WITHOUT_END = MARKED.replace("{{ eos_token }}{% endgeneration %}", "{% endgeneration %}{{ eos_token }}")
ENDLESS = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
FORGETFUL = "{% for m in messages %}{{ m['content'] if loop.last else '...' }}{% endfor %}"


def said(role, content):
    return {"role": role, "content": content}


TALK = [
    said("system", "Sei nett."),
    said("user", "Hi"),
    said("assistant", "Grüße 中文"),
    said("user", "Again?"),
    said("assistant", "bye"),
]


def learnt(line, tokenizer):
    """Return the text of each run of supervised tokens."""
    runs, open_ = [], False
    for token, label in zip(line.ids, line.labels, strict=True):
        if label != IGNORED:
            assert label == token
            runs = [*runs[:-1], [*runs[-1], token]] if open_ else [*runs, [token]]
        open_ = label != IGNORED
    return [tokenizer.decode(run) for run in runs]


def encoded(tokenizer, template, messages, limit=500):
    return ChatFormat(tokenizer, template).encode([messages], limit)[0][0]


# -- which tokens are answers


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (None, ["</s>", "</s>"]),
        (MARKED, ["</s>", "</s>"]),
        (MARKED_WITHOUT_END, ["</s>", "</s>"]),
        (ENDLESS, ["\n", "\n</s>"]),
    ],
)
def test_answers_and_what_ends_them_are_learnt(bos_tokenizer, template, ends):
    line = encoded(bos_tokenizer, template, TALK)
    expected = [text + end for text, end in zip(["Grüße 中文", "bye"], ends, strict=True)]
    assert [one.removeprefix("[assistant] ") for one in learnt(line, bos_tokenizer)] == expected
    assert line.ids[-1] == bos_tokenizer.eos_token_id


def test_end_of_turn_is_learnt_and_the_line_break_after_it_is_not(chat_tokenizer):
    line = encoded(chat_tokenizer, None, TALK)
    assert learnt(line, chat_tokenizer) == ["Grüße 中文<|im_end|>", "bye<|im_end|>"]
    assert chat_tokenizer.decode(line.ids).endswith("bye<|im_end|>\n")
    assert ChatFormat(chat_tokenizer, None).stops == [2, 4]


def test_marked_answers_equal_the_mask_of_transformers(bos_tokenizer):
    line = encoded(bos_tokenizer, MARKED, TALK)
    found = bos_tokenizer.apply_chat_template(
        TALK, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True, tokenize=True
    )
    assert line.ids == found["input_ids"]
    assert line.supervised == [bool(one) for one in found["assistant_masks"]]


def test_tokens_equal_those_of_transformers_with_one_bos(chat_tokenizer, bos_tokenizer):
    assert encoded(chat_tokenizer, None, TALK).ids == chat_tokenizer.apply_chat_template(TALK).input_ids
    assert encoded(bos_tokenizer, None, TALK).ids.count(bos_tokenizer.bos_token_id) == 1
    assert encoded(bos_tokenizer, MARKED, TALK).ids.count(bos_tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("template", [None, MARKED, ENDLESS])
def test_question_alone_gives_the_tokens_before_its_answer(bos_tokenizer, template):
    whole, asked = encoded(bos_tokenizer, template, TALK), encoded(bos_tokenizer, template, TALK[:-1])
    assert asked.ids == whole.ids[: whole.prompt]
    assert asked.supervised == whole.supervised[: whole.prompt]


def test_generation_prompt_is_the_one_of_the_template(chat_tokenizer):
    asked = encoded(chat_tokenizer, None, TALK[:-1])
    assert asked.ids == chat_tokenizer.apply_chat_template(TALK[:-1], add_generation_prompt=True).input_ids


def test_answer_bytes_are_those_of_the_answers(bos_tokenizer, chat_tokenizer):
    expected = len("Grüße 中文".encode()) + len("bye")
    for tokenizer in (bos_tokenizer, chat_tokenizer):
        chat = ChatFormat(tokenizer, None)
        assert chat.encode([TALK], 500)[0][0].answer_bytes(chat.special) == expected


# -- what does not fit


def test_oldest_turns_go_first_and_instructions_stay(bos_tokenizer):
    whole = encoded(bos_tokenizer, None, TALK)
    found, size = ChatFormat(bos_tokenizer, None).encode([TALK], len(whole.ids) - 1)[0]
    assert bos_tokenizer.decode(found.ids) == "<s>Sei nett.\nAgain?\nbye</s>"
    assert size == len(whole.ids)


def test_front_of_the_last_prompt_goes_before_the_answer(bos_tokenizer):
    line = encoded(bos_tokenizer, None, [said("user", "x" * 50), said("assistant", "answer")], limit=20)
    assert bos_tokenizer.decode(line.ids) == "<s>" + "x" * 11 + "\nanswer</s>"
    assert bos_tokenizer.decode(line.ids[: line.prompt]) == "<s>" + "x" * 11 + "\n"


def test_long_answer_leaves_the_prompt_its_share_and_has_no_end(bos_tokenizer):
    chat = ChatFormat(bos_tokenizer, None)
    line, size = chat.encode([[said("user", "x" * 50), said("assistant", "y" * 50)]], 20)[0]
    assert bos_tokenizer.decode(line.ids) == "<s>xxx\n" + "y" * 15
    assert (size, line.answer_bytes(chat.special), line.ends_in(chat.special)) == (103, 15, False)


def test_alternatives_keep_one_prompt(bos_tokenizer):
    pairs = [[[*TALK[:-1], said("assistant", text)] for text in ("short", "long" * 8)]]
    (short, long_), size = ChatFormat(bos_tokenizer, None).encode_together(pairs, 48)[0]
    assert short.ids[: short.prompt] == long_.ids[: long_.prompt]
    assert bos_tokenizer.decode(short.ids) == "<s> nett.\nAgain?\nshort</s>"
    assert len(long_.ids) == 48
    assert learnt(short, bos_tokenizer) == ["short</s>"]
    assert learnt(long_, bos_tokenizer) == ["long" * 8 + "</s>"]
    assert size > len(short.ids) + len(long_.ids)


def test_conversation_of_one_question_cannot_be_shortened():
    assert without_oldest(TALK) == [TALK[0], *TALK[3:]]
    assert without_oldest(TALK[:3]) == []


def test_prompts_leave_room_for_the_answer(bos_tokenizer):
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=10))
    prompts = [[1, *range(10, 30)], [1, 7], [*range(10, 30)]]
    settings = GenerationConfig(max_new_tokens=6)
    assert fitted(prompts, model, settings, bos_tokenizer) == [[1, 27, 28, 29], [1, 7], [26, 27, 28, 29]]
    with pytest.raises(ConfigError, match="max_new_tokens: 9 leave a prompt no room, the base has 10 positions"):
        fitted(prompts, model, GenerationConfig(max_new_tokens=9), bos_tokenizer)


def test_prompts_leave_room_for_the_adapters_own_prompt(bos_tokenizer):
    model = SimpleNamespace(
        config=SimpleNamespace(max_position_embeddings=12), active_peft_config=SimpleNamespace(num_virtual_tokens=2)
    )
    settings = GenerationConfig(max_new_tokens=6)
    assert fitted([[1, *range(10, 30)]], model, settings, bos_tokenizer) == [[1, 27, 28, 29]]
    with pytest.raises(ConfigError, match="12 positions, 2 of them for the adapter's own prompt; set fewer"):
        fitted([[1, 7]], model, GenerationConfig(max_new_tokens=9), bos_tokenizer)


# -- what is refused


@pytest.mark.parametrize(
    ("roles", "found"),
    [
        (["assistant"], "'assistant'"),
        (["user", "user"], "'user'"),
        (["user", "assistant", "assistant"], "'assistant'"),
        (["system", "assistant"], "'assistant'"),
        (["user", "system"], "'system'"),
        (["user", "tool"], "'tool'"),
        (["user", "bot"], "'bot'"),
        (["user", "assistant", "tool", "user"], "'user'"),
    ],
)
def test_roles_out_of_order_are_named(roles, found):
    problems = list(disorder([said(role, "x") for role in roles]))
    assert [one for _, one in problems] == [found]
    assert problems[0][0].startswith(f"message {len(roles)} from ")


def test_tools_answer_between_answers():
    roles = ["developer", "user", "assistant", "tool", "tool", "assistant", "function", "assistant", "user"]
    assert list(disorder([said(role, "x") for role in roles])) == []


def test_template_that_rewrites_the_beginning_is_refused(bos_tokenizer):
    with pytest.raises(DataError, match="writes the start of a conversation of user, assistant, user, assistant"):
        encoded(bos_tokenizer, FORGETFUL, TALK[1:])


def test_template_that_refuses_a_role_says_so(bos_tokenizer):
    template = "{{ raise_exception('no system') if messages[0]['role'] == 'system' }}" + PLAIN
    with pytest.raises(DataError, match=r"refuses a conversation of system, user.*: no system"):
        encoded(bos_tokenizer, template, TALK)


def test_template_must_be_jinja():
    with pytest.raises(ValueError, match="not a chat template: "):
        valid_template("{% for %}")
    assert valid_template(PLAIN) == PLAIN


def test_row_without_a_question_is_refused():
    with pytest.raises(DataError, match="neither messages nor a prompt"):
        messages_of({"prompt": None, "messages": None})
    assert messages_of({"prompt": "p", "system": "s"}, "a") == [
        said("system", "s"),
        said("user", "p"),
        said("assistant", "a"),
    ]


# -- tokenizers


def test_beginning_is_what_the_tokenizer_puts_there(bos_tokenizer, chat_tokenizer):
    assert beginning_of(bos_tokenizer) == [1]
    assert beginning_of(chat_tokenizer) == []


def test_tokenizer_without_an_end_is_refused(bos_tokenizer):
    with pytest.raises(ConfigError, match="has no end token"):
        end_of_text(SimpleNamespace(eos_token_id=None))
    assert end_of_text(bos_tokenizer) == 2


def test_continuation_is_the_text_after_the_prompt(bos_tokenizer):
    prompt, more = bos_tokenizer("für ").input_ids, bos_tokenizer("中 x", add_special_tokens=False).input_ids
    assert continuation(bos_tokenizer, prompt, more) == "中 x"


@pytest.mark.parametrize(("tokens", "state"), [(80, None), (81, "warn"), (127, "fail")])
def test_check_counts_prompt_and_answer_against_the_positions(language_project, bos_llama, tokens, state):
    task = {"name": "chat", "generation": {"max_new_tokens": tokens}}
    project = language_project(bos_llama, lambda n: {"prompt": f"ask {n}", "completion": "yes"}, task)
    found = {one.state: one.text for one in check(project, adapter=False).findings if one.check == "generation"}
    assert list(found) == ([state] if state else [])
    if state == "warn":
        assert found["warn"] == (
            "task.generation.max_new_tokens: 81 and a prompt of 48 tokens (tokenization.max_length_tokens) are more "
            "than the base's 128 positions: where text is generated, a prompt keeps its last 47 tokens; lower one of "
            "the two"
        )
    if state == "fail":
        assert found["fail"].startswith("task.generation.max_new_tokens: 127 leave a prompt no room")


def test_check_only_warns_where_no_metric_needs_generated_text(language_project, bos_llama):
    task = {"name": "text_generation", "generation": {"max_new_tokens": 127}}
    project = language_project(bos_llama, lambda n: {"text": f"a text of {n}"}, task)
    (found,) = (one for one in check(project, adapter=False).findings if one.check == "generation")
    assert (found.state, found.text.endswith("until then `graft predict` cannot answer")) == ("warn", True)
