"""The summed likelihood against transformers' own mean loss, on models made in memory."""

import pytest

from graft.likelihood import IGNORED, _head_loss, supervised, total_likelihood


@pytest.fixture(scope="module")
def decoder():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=30, pad_token_id=None, **sizes)).eval()


@pytest.fixture(scope="module")
def t5():
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=30, decoder_start_token_id=0, **sizes)).eval()


def batch_of(labels, width=7):
    import torch

    torch.manual_seed(1)
    mask = torch.ones(len(labels), width, dtype=torch.int64)
    mask[-1, 4:] = 0
    ids = torch.randint(1, 30, (len(labels), width)) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(labels)}


def plain(model, batch, row):
    """Return transformers' mean loss of one row, times its supervised tokens."""
    one = {name: value[row : row + 1] for name, value in batch.items() if name != "window_row"}
    skipped = 0 if model.config.is_encoder_decoder else 1  # a decoder predicts no first token
    tokens = int((one["labels"][:, skipped:] != IGNORED).sum())
    return model(**one).loss.item() * tokens, tokens


DECODER_LABELS = [
    [IGNORED, IGNORED, 3, 4, 5, 6, 7],
    [8, 9, IGNORED, 10, 11, 12, IGNORED],
    [IGNORED, 2, 3, 4, IGNORED, IGNORED, IGNORED],
]
T5_LABELS = [[4, 5, 6, 1], [7, 1, IGNORED, IGNORED], [9, 9, 1, IGNORED]]


def test_sum_per_row_is_transformers_loss_of_a_decoder(decoder):
    batch = batch_of(DECODER_LABELS)
    sums, tokens = supervised(decoder, batch)
    expected = [plain(decoder, batch, row) for row in range(3)]
    assert tokens.tolist() == [count for _, count in expected] == [5, 4, 3]
    assert sums.tolist() == pytest.approx([value for value, _ in expected], rel=1e-5)


def test_sum_per_row_is_transformers_loss_of_an_encoder_decoder(t5):
    batch = batch_of(T5_LABELS)
    sums, tokens = supervised(t5, batch)
    expected = [plain(t5, batch, row) for row in range(3)]
    assert tokens.tolist() == [count for _, count in expected] == [4, 2, 3]
    assert sums.tolist() == pytest.approx([value for value, _ in expected], rel=1e-5)


@pytest.mark.parametrize("kind", ["Blenderbot", "M2M100"])
def test_decoders_of_models_that_do_not_shift_labels_themselves(kind):
    import torch
    import transformers

    torch.manual_seed(0)
    sides = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
    config = getattr(transformers, f"{kind}Config")(
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sides.items()},
        **{"vocab_size": 30, "d_model": 16, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1},
    )
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    batch = batch_of(T5_LABELS)
    sums, tokens = supervised(model, batch)
    expected = [plain(model, batch, row) for row in range(3)]
    assert tokens.tolist() == [4, 2, 3]
    assert sums.tolist() == pytest.approx([value for value, _ in expected], rel=1e-5)


def test_windows_are_summed_by_row(decoder):
    import torch

    batch = batch_of(DECODER_LABELS)
    alone, counts = supervised(decoder, batch)
    sums, tokens = supervised(decoder, {**batch, "window_row": torch.tensor([0, 1, 1])})
    assert tokens.tolist() == [5, 7]
    torch.testing.assert_close(sums, torch.stack([alone[0], alone[1] + alone[2]]))
    assert counts.sum() == tokens.sum()


def test_a_row_without_supervised_tokens_has_the_sum_zero(decoder):
    sums, tokens = supervised(decoder, batch_of([DECODER_LABELS[0], [IGNORED] * 7]))
    assert (sums[1].item(), tokens.tolist()) == (0.0, [5, 0])


def test_virtual_tokens_in_front_shift_nothing(decoder):
    """Second route: the trained prompt put before the embeddings by hand, transformers' loss over all of it."""
    import copy

    import torch
    from peft import PromptTuningConfig, get_peft_model

    batch = batch_of(DECODER_LABELS)
    torch.manual_seed(3)
    adapted = get_peft_model(copy.deepcopy(decoder), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    sums, _ = supervised(adapted.eval(), batch)
    prompt = adapted.get_prompt(batch_size=1)
    for row in range(3):
        words = decoder.get_input_embeddings()(batch["input_ids"][row : row + 1])
        labels = torch.cat([torch.full((1, 4), IGNORED), batch["labels"][row : row + 1]], dim=1)
        mask = torch.cat([torch.ones(1, 4, dtype=torch.int64), batch["attention_mask"][row : row + 1]], dim=1)
        loss = decoder(inputs_embeds=torch.cat([prompt, words], dim=1), attention_mask=mask, labels=labels).loss
        count = int((batch["labels"][row, 0:] != IGNORED).sum())
        first = batch["labels"][row, 0].item() != IGNORED  # the last virtual token would predict it: not counted here
        if not first:
            assert sums[row].item() == pytest.approx(loss.item() * count, rel=1e-4)


def long_rows(width=60):
    import torch

    torch.manual_seed(2)
    ids = torch.randint(1, 30, (4, width))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def test_chunks_of_logits_have_the_losses_and_gradients_of_all_at_once(decoder, monkeypatch):
    import torch

    batch = long_rows()
    hidden = torch.randn(64, 16)
    weight, bias, targets = torch.randn(30, 16), torch.randn(30), torch.randint(0, 30, (64,))
    expected = hidden.clone().requires_grad_()
    weights = torch.rand(64)
    losses = torch.nn.functional.cross_entropy(expected @ weight.T + bias, targets, reduction="none")
    (losses * weights).sum().backward()
    monkeypatch.setattr("graft.likelihood.CHUNK", 30 * 32)
    found = hidden.clone().requires_grad_()
    chunked = _head_loss()(found, weight, bias, targets)
    (chunked * weights).sum().backward()
    torch.testing.assert_close(chunked, losses)
    torch.testing.assert_close(found.grad, expected.grad)
    rows = [plain(decoder, batch, row)[0] for row in range(4)]
    assert supervised(decoder, batch)[0].tolist() == pytest.approx(rows, rel=1e-5)


def test_losses_of_a_model_in_bfloat16_are_summed_in_float32(decoder):
    import copy

    import torch

    batch = long_rows()
    narrow = copy.deepcopy(decoder).to(torch.bfloat16)
    exact = float(total_likelihood(decoder, batch)[0])
    assert float(total_likelihood(narrow, batch)[0]) == pytest.approx(exact, rel=2e-3)


def test_a_model_that_caps_its_logits_is_scored_by_what_it_puts_out():
    import torch
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma2Config(vocab_size=30, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.05, **sizes)
    capped = Gemma2ForCausalLM(config).eval()
    batch = long_rows(9)
    for _ in range(2):  # the second time it is known
        rows = [plain(capped, batch, row)[0] for row in range(4)]
        assert supervised(capped, batch)[0].tolist() == pytest.approx(rows, rel=1e-5)
