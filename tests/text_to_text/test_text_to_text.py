"""What translation and summarization share: rows to tokens and back, likelihood, generation, tables."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from graft import text_to_text
from graft.base import load_tokenizer
from graft.errors import ConfigError
from graft.generation import GenerationConfig
from graft.likelihood import IGNORED
from graft.tasks.summarization import Config as SummarizationConfig
from graft.tasks.translation import TASK, Config
from tests.conftest import check_rows, problems_of
from tests.text_to_text.conftest import PROMPT, parallel_rows

CONFIG = Config(max_target_tokens=24)
PROMPTED = Config(max_target_tokens=24, prompt=PROMPT)
SHORT = GenerationConfig(max_new_tokens=8, batch_rows=2)


def encode(config, folder, rows, limit=64):
    return TASK.encode(config, rows, load_tokenizer(folder), limit)


@pytest.fixture(params=["sequence_t5", "sequence_llama"])
def kind(request):
    """A base, and a section that fits it."""
    return request.getfixturevalue(request.param), CONFIG if request.param == "sequence_t5" else PROMPTED


@pytest.fixture
def loaded(kind):
    folder, config = kind
    model, new = TASK.load_model(str(folder), config, {})
    assert new == []
    return model.eval(), config, folder


# -- the section


@pytest.mark.parametrize("prompt", ["no place", "{source} and {source}", ""])
def test_prompt_must_have_the_source_once(prompt) -> None:
    with pytest.raises(ValidationError, match=r"prompt must have \{source\} once"):
        Config(prompt=prompt)


def test_prompt_and_prefix_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="prefix is for an encoder-decoder and prompt for a decoder"):
        SummarizationConfig(prompt="{source}", prefix="summarize: ")


def test_base_must_fit_the_prompt(sequence_t5, sequence_llama, tiny_base) -> None:
    with pytest.raises(ConfigError, match=r"task\.prompt: base\.source is an encoder-decoder \(t5\)"):
        TASK.load_model(str(sequence_t5), PROMPTED, {})
    with pytest.raises(ConfigError, match=r"task\.prompt: not given, but base\.source is no encoder-decoder \(llama\)"):
        TASK.load_model(str(sequence_llama), CONFIG, {})
    with pytest.raises(ConfigError, match="bert is an encoder, and this task needs an encoder-decoder or a decoder"):
        TASK.load_model(str(tiny_base), PROMPTED, {})


# -- rows to tokens


def test_encoder_decoder_reads_the_source_and_learns_the_target_with_its_end(sequence_t5) -> None:
    tokenizer = load_tokenizer(sequence_t5)
    [row] = encode(Config(prefix="German: "), sequence_t5, [{"source": "the cat", "target": "die Straße"}], 128)
    assert tokenizer.decode(row["input_ids"]).strip() == "German: the cat</s>"
    assert tokenizer.decode(row["labels"]).strip() == "die Straße</s>"
    assert (row["prompt_tokens"], row["references"]) == (None, ["die Straße"])
    assert row["length"] == row["untruncated_length"] == len(row["input_ids"]) + len(row["labels"])


def test_decoder_reads_the_prompt_and_learns_the_target_with_its_end(sequence_llama) -> None:
    tokenizer = load_tokenizer(sequence_llama)
    [row] = encode(PROMPTED, sequence_llama, [{"source": "我 喜欢 猫", "target": "ich mag Katzen"}])
    assert tokenizer.decode(row["input_ids"]) == "<s> Translate: 我 喜欢 猫 ="
    assert tokenizer.decode(row["labels"]) == " ich mag Katzen</s>"
    assert row["prompt_tokens"] == len(row["input_ids"])


def test_prompt_of_a_tokenizer_that_ends_every_text_is_left_open(sequence_t5) -> None:
    [row] = encode(PROMPTED, sequence_t5, [{"source": "the cat"}])
    assert load_tokenizer(sequence_t5).eos_token_id not in row["input_ids"]


def test_long_source_is_cut_inside_the_template(kind) -> None:
    folder, config = kind
    tokenizer = load_tokenizer(folder)
    source = "the small cat likes the street " * 9
    [whole] = encode(config, folder, [{"source": source, "target": "die"}], 1000)
    [cut, short] = encode(config, folder, [{"source": source, "target": "die"}, {"source": "the cat", "target": "a"}])
    assert len(cut["input_ids"]) == 64 - 24
    assert cut["length"] == 40 + len(cut["labels"])
    assert cut["untruncated_length"] == whole["length"] == whole["untruncated_length"]
    assert short["untruncated_length"] == short["length"]
    text = tokenizer.decode(cut["input_ids"], skip_special_tokens=True).strip()
    before, after = (part.strip() for part in config.template.split("{source}"))
    assert text.startswith(before)
    assert text.endswith(after)
    assert source.startswith(text.removeprefix(before).removesuffix(after).strip())
    assert (cut["input_ids"][-1] == tokenizer.eos_token_id) is (config.prompt is None)


def test_source_is_cut_at_predict_where_it_was_cut_in_training(kind) -> None:
    folder, config = kind
    source = "我 喜欢 猫 " * 20
    [trained] = encode(config, folder, [{"source": source, "target": "die Katze"}])
    [asked] = encode(config, folder, [{"source": source}])
    assert asked["input_ids"] == trained["input_ids"]
    assert (asked["labels"], asked["references"]) == (None, None)


def test_cut_target_has_no_end_to_be_learnt(kind) -> None:
    folder, config = kind
    [row] = encode(config, folder, [{"source": "the cat", "target": "die Katze mag Straße " * 20}])
    assert len(row["labels"]) == config.max_target_tokens
    assert load_tokenizer(folder).eos_token_id not in row["labels"]
    assert row["untruncated_length"] > row["length"]
    assert (row["ended"], row["lost_target"]) == (False, row["untruncated_length"] - row["length"])


def test_target_without_tokens_is_refused(kind) -> None:
    folder, config = kind
    rows = [{"source": "the cat", "target": ""}, {"source": "a", "target": "die"}]
    _, found = check_rows(TASK, config, rows, load_tokenizer(folder), limit=64)
    assert problems_of(found) == [("unsupervised", "data/train/part.jsonl:1", "target")]


def test_no_room_for_a_source_is_refused(kind) -> None:
    folder, config = kind
    row = {"source": "the cat sees the dog", "target": "die"}
    with pytest.raises(ConfigError, match=r"task\.max_target_tokens: 24 of tokenization\.max_length_tokens \(24\)"):
        encode(config, folder, [row], 24)
    long = config.model_copy(update={"prefix": "x " * 40} if config.prompt is None else {"prompt": "x " * 40 + PROMPT})
    with pytest.raises(ConfigError, match=r"what stands around a source takes all 40 tokens"):
        encode(long, folder, [row])


def test_tokenizer_without_end_token_is_refused(sequence_t5) -> None:
    tokenizer = load_tokenizer(sequence_t5)
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="no end token"):
        TASK.encode(CONFIG, [{"source": "a", "target": "b"}], tokenizer, 64)


def test_several_references_stand_beside_the_target(sequence_t5) -> None:
    rows = [{"source": "a", "target": "b", "references": ["b", "c"]}, {"source": "a", "target": "d"}]
    found = TASK.references(encode(CONFIG, sequence_t5, rows), {})
    assert found["reference"].tolist() == ["b", "d"]
    assert found["references"].tolist() == [["b", "c"], ["d"]]
    equal = TASK.references(encode(CONFIG, sequence_t5, [rows[0], rows[0]]), {})["references"]
    assert (equal.shape, equal.tolist()) == ((2,), [["b", "c"], ["b", "c"]])


# -- likelihood


def test_loss_is_the_sum_of_what_transformers_averages(loaded) -> None:
    model, config, folder = loaded
    batch = TASK.collate(encode(config, folder, parallel_rows(7, 3)), 0, {})
    total, items = TASK.loss(config, model, batch)
    assert items == int((batch["labels"] != IGNORED).sum())
    assert total.item() / items == pytest.approx(model(**batch).loss.item(), rel=1e-5)


def test_outputs_do_not_depend_on_padding(loaded) -> None:
    import torch

    model, config, folder = loaded
    rows = encode(config, folder, parallel_rows(6, 4))
    with torch.no_grad():
        together = TASK.outputs(config, model, TASK.collate(rows, 0, {}))
        alone = torch.cat([TASK.outputs(config, model, TASK.collate([row], 0, {})) for row in rows])
    assert (together.dtype, together.shape) == (torch.float32, (6, 2))
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-4)
    assert together[:, 1].tolist() == [len(row["labels"]) for row in rows]


def test_decoder_is_supervised_on_the_target_alone(sequence_llama) -> None:
    rows = encode(PROMPTED, sequence_llama, parallel_rows(3, 5))
    batch = TASK.collate(rows, 0, {})
    for line, labels, row in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), rows, strict=True):
        target = row["labels"]
        assert labels[: row["prompt_tokens"]] == [IGNORED] * row["prompt_tokens"]
        assert [label for label in labels if label != IGNORED] == target
        assert line[row["prompt_tokens"] : row["prompt_tokens"] + len(target)] == target


def test_perplexity_is_that_of_all_tokens_together() -> None:
    table = TASK.predictions(CONFIG, np.array([[4.0, 2], [3.0, 5]], dtype=np.float32), {})
    assert TASK.metric("perplexity").function(table) == pytest.approx(np.exp(1.0))


# -- generation


@pytest.mark.parametrize("beams", [1, 3])
def test_generated_text_is_what_transformers_gives_row_by_row(loaded, beams) -> None:
    import torch

    model, config, folder = loaded
    config = config.model_copy(update={"generation": SHORT.model_copy(update={"num_beams": beams})})
    tokenizer = load_tokenizer(folder)
    rows = encode(config, folder, [{"source": row["source"]} for row in parallel_rows(3, 6)])
    found = TASK.generate(config, model, rows, tokenizer, 0)
    for row, text in zip(rows, found, strict=True):
        ids = torch.tensor([row["input_ids"]])
        expected = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=beams,
            max_new_tokens=8,
            pad_token_id=0,
            eos_token_id=tokenizer.eos_token_id,
        )[0]
        expected = expected[ids.shape[1] :] if config.prompt else expected
        assert text == tokenizer.decode(expected, skip_special_tokens=True).strip()


@pytest.mark.filterwarnings("ignore:Position ids are not supported for parameter efficient tuning")
@pytest.mark.parametrize("method", ["lora", "ia3", "prompt_tuning", "prefix_tuning", "p_tuning"])
def test_switched_off_adapter_leaves_the_bases_text(kind, method) -> None:
    import torch

    from graft.adapters import AdapterConfig, attach

    folder, config = kind
    tokenizer = load_tokenizer(folder)
    config = config.model_copy(update={"generation": SHORT})
    rows = encode(config, folder, parallel_rows(3, 9))
    model, new = TASK.load_model(str(folder), config, {})
    alone = TASK.generate(config, model.eval(), rows, tokenizer, 0)
    keys = {
        "lora": {"target_modules": "all-linear"},
        "ia3": {"target_modules": "all-linear", "feedforward_modules": []},
    }
    settings = keys.get(method, {"num_virtual_tokens": 3})
    torch.manual_seed(1)
    wrapped = attach(model, AdapterConfig(method=method, **settings), new).eval()
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=2.0)
    changed = TASK.generate(config, wrapped, rows, tokenizer, 0)
    with wrapped.disable_adapter():
        assert TASK.generate(config, wrapped, rows, tokenizer, 0) == alone
    assert TASK.generate(config, wrapped, rows, tokenizer, 0) == changed
    # What a random T5 says hardly depends on what it reads, with a trained prompt before it or not.
    assert changed != alone or (config.prompt is None and method in ("prompt_tuning", "p_tuning"))


def test_no_answer_is_longer_than_a_target(loaded) -> None:
    model, config, folder = loaded
    tokenizer = load_tokenizer(folder)
    rows = encode(config, folder, parallel_rows(4, 7))
    short = config.model_copy(update={"max_target_tokens": 3})
    asked = config.model_copy(update={"generation": GenerationConfig(max_new_tokens=3)})
    found = TASK.generate(short, model, rows, tokenizer, 0)
    assert found == TASK.generate(asked, model, rows, tokenizer, 0)
    assert found != TASK.generate(config, model, rows, tokenizer, 0)


def test_example_is_a_source_without_its_template(kind) -> None:
    folder, config = kind
    source = {"source": "我 喜欢 猫"}
    rows = encode(config, folder, [{**source, "target": "ich mag"}, *parallel_rows(2, 8)])
    probe = {name: value.numpy() for name, value in TASK.collate(rows, 0, {}).items()}
    assert TASK.example(config, probe, load_tokenizer(folder)) == source


# -- tables


def test_length_ratio_and_lengths_count_characters() -> None:
    table = {"prediction": text_to_text.objects(["ab", ""]), "reference": text_to_text.objects(["abcd", "我们"])}
    assert text_to_text.length_ratios(table).tolist() == [0.5, 0]
    reference, prediction = text_to_text.lengths(table)
    assert (reference["text"], reference["mean_characters"], reference["empty"]) == ("reference", 3.0, 0)
    assert (prediction["50_%"], prediction["empty"]) == (1.0, 1)


def test_nearest_target_is_that_of_the_most_similar_source() -> None:
    train = [{"source": "我喜欢猫", "target": "cats"}, {"source": "die alte Straße", "target": "street"}]
    test = [{"source": "eine Straße"}, {"source": "他喜欢狗"}, {"source": "?!"}]
    assert text_to_text.nearest_targets(train, test) == ["street", "cats", "cats"]
    assert text_to_text.nearest_targets([{"source": "!", "target": "x"}], [{"source": "?"}]) == ["x"]


def test_generation_settings_tell_what_was_used() -> None:
    config = Config(max_target_tokens=30, generation=GenerationConfig(num_beams=4, length_penalty=0.8))
    assert text_to_text.generation_settings(config) == {
        "max_new_tokens": "30",
        "num_beams": "4",
        "length_penalty": "0.8",
        "no_repeat_ngram_size": "0",
        "repetition_penalty": "1",
    }
