"""Batched generation against transformers' generate, one row at a time."""

import copy

import pytest

from graft.adapters import AdapterConfig, attach
from graft.generation import GenerationConfig, described_base, generate_ids

PROMPTS = [[5, 6, 7, 8, 9], [10], [11, 12, 13], [14, 15]]


@pytest.fixture(scope="module")
def decoder():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=40, pad_token_id=None, eos_token_id=None, bos_token_id=None, **sizes)
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def t5():
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=40, decoder_start_token_id=0, eos_token_id=None, **sizes)
    return T5ForConditionalGeneration(config).eval()


def alone(model, prompt, **settings):
    """Return what generate adds to one prompt, without padding or an end token."""
    import torch

    ids = torch.tensor([prompt])
    found = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, eos_token_id=None, **settings
    )
    return found[0, 1 if model.config.is_encoder_decoder else len(prompt) :].tolist()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", ["decoder", "t5"])
def test_batches_give_what_each_prompt_gives_alone_in_order(request, name, beams):
    model = request.getfixturevalue(name)
    settings = GenerationConfig(max_new_tokens=6, num_beams=beams, batch_rows=3)
    found = generate_ids(model, PROMPTS, settings, pad_token_id=0, eos_token_id=None)
    assert found == [alone(model, prompt, max_new_tokens=6, num_beams=beams) for prompt in PROMPTS]
    assert len({tuple(one) for one in found}) > 1


def greedy(model, prompt, count):
    """Return what the likeliest tokens add to one prompt, each from a pass over everything before it."""
    import torch

    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            logits = model(
                input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64)
            ).logits
            ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize(
    "adapter",
    [
        {"method": "prompt_tuning", "num_virtual_tokens": 4},
        {"method": "p_tuning", "num_virtual_tokens": 4, "encoder_hidden_size": 8},
        {"method": "prefix_tuning", "num_virtual_tokens": 4},
        {"method": "cpt", "cpt_token_ids": [5, 6, 7], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 1, 1]},
        {"method": "lora", "target_modules": ["q_proj"]},
    ],
    ids=lambda one: one["method"],
)
def test_an_adapter_s_own_prompt_gives_in_batches_what_it_gives_alone(decoder, adapter):
    import torch

    torch.manual_seed(1)
    decoder = copy.deepcopy(decoder)
    for parameter in decoder.parameters():
        parameter.data.normal_(std=0.5)  # so that it matters where a token stands
    wrapped = attach(copy.deepcopy(decoder), AdapterConfig(**adapter), []).eval()
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data.normal_()
    prompts = [*PROMPTS, [16, 17, 18], [19]]
    found = generate_ids(wrapped, prompts, GenerationConfig(max_new_tokens=5), pad_token_id=0, eos_token_id=None)
    assert found == [greedy(wrapped, prompt, 5) for prompt in prompts]
    with wrapped.disable_adapter():
        found = generate_ids(wrapped, prompts, GenerationConfig(max_new_tokens=5), pad_token_id=0, eos_token_id=None)
    assert found == [greedy(decoder, prompt, 5) for prompt in prompts]


@pytest.mark.parametrize("name", ["decoder", "t5"])
def test_nothing_after_the_end_token_is_kept(request, name):
    model = request.getfixturevalue(name)
    free = [alone(model, prompt, max_new_tokens=8) for prompt in PROMPTS]
    end = free[0][3]
    found = generate_ids(model, PROMPTS, GenerationConfig(max_new_tokens=8), pad_token_id=0, eos_token_id=[end])
    assert found == [one[: one.index(end)] if end in one else one for one in free]
    assert len(found[0]) < 8


def test_no_repeat_ngram_size_is_passed_on(decoder):
    found = generate_ids(
        decoder, PROMPTS, GenerationConfig(max_new_tokens=12, no_repeat_ngram_size=1), pad_token_id=0, eos_token_id=None
    )
    for prompt, one in zip(PROMPTS, found, strict=True):
        assert len({*prompt, *one}) == len(prompt) + len(one)


def test_no_prompts_give_no_answers(decoder):
    assert generate_ids(decoder, [], GenerationConfig(), pad_token_id=0, eos_token_id=None) == []


def changed(model, **own):
    """Return a copy of ``model`` whose base brings its own settings."""
    made = copy.deepcopy(model)
    for name, value in own.items():
        setattr(made.generation_config, name, value)
    return made


UNKEPT = {
    "sequence_bias": [[[7], 50.0]],
    "encoder_no_repeat_ngram_size": 1,
    "exponential_decay_length_penalty": (1, 5.0),
    "min_new_tokens": 8,
    "max_length": 5,
    "num_beams": 3,
    "num_return_sequences": 2,
    "prompt_lookup_num_tokens": 3,
    "early_stopping": True,
    "do_sample": True,
    "temperature": 9.0,
    "top_k": 2,
    "repetition_penalty": 5.0,
    "guidance_scale": 3.0,
    "renormalize_logits": True,
    "max_time": 0.0,
}


@pytest.mark.parametrize("setting", UNKEPT)
@pytest.mark.parametrize("name", ["decoder", "t5"])
def test_setting_of_the_base_does_not_act(request, name, setting):
    model = request.getfixturevalue(name)
    settings = GenerationConfig(max_new_tokens=8)
    other = changed(model, **{setting: UNKEPT[setting]})
    free = generate_ids(model, PROMPTS, settings, pad_token_id=0, eos_token_id=[free_end(model)])
    assert generate_ids(other, PROMPTS, settings, pad_token_id=0, eos_token_id=[free_end(model)]) == free
    assert getattr(other.generation_config, setting) == UNKEPT[setting]
    assert described_base(other) == described_base(model)


def free_end(model):
    """Return a token that ends one of the answers before the last token."""
    return alone(model, PROMPTS[0], max_new_tokens=8)[3]


@pytest.mark.parametrize("name", ["decoder", "t5"])
@pytest.mark.parametrize("setting", ["suppress_tokens", "begin_suppress_tokens", "bad_words_ids"])
def test_tokens_that_the_base_never_writes_stay_away_and_are_reported(request, name, setting):
    model = request.getfixturevalue(name)
    settings = GenerationConfig(max_new_tokens=8)
    free = generate_ids(model, PROMPTS, settings, pad_token_id=0, eos_token_id=None)
    banned = free[0][0]
    other = changed(model, **{setting: [[banned]] if setting == "bad_words_ids" else [banned]})
    found = generate_ids(other, PROMPTS, settings, pad_token_id=0, eos_token_id=None)
    assert found[0] == alone(other, PROMPTS[0], max_new_tokens=8)
    assert found[0][0] != banned
    said = {"bad_words_ids": f"[[{banned}]]"}.get(setting, f"[{banned}]")
    assert described_base(other)[f"{setting} (of the base)"] == said


def test_first_and_last_token_that_the_base_forces_are_kept(t5):
    other = changed(t5, forced_bos_token_id=31, forced_eos_token_id=32, decoder_start_token_id=9)
    found = generate_ids(other, PROMPTS, GenerationConfig(max_new_tokens=5), pad_token_id=0, eos_token_id=None)
    assert {(one[0], one[-1]) for one in found} == {(31, 32)}
    assert found == [alone(other, prompt, max_new_tokens=5) for prompt in PROMPTS]
    assert described_base(other) == {
        "decoder_start_token_id (of the base)": "9",
        "forced_bos_token_id (of the base)": "31",
        "forced_eos_token_id (of the base)": "32",
    }


def test_settings_of_the_base_are_back_also_after_an_error(decoder):
    other = changed(decoder, num_beams=3)
    own = other.generation_config
    with pytest.raises(IndexError, match="out of range"):
        generate_ids(other, [[99]], GenerationConfig(), pad_token_id=0, eos_token_id=None)
    assert other.generation_config is own
