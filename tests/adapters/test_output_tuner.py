from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graft import tasks
from graft.adapters import AdapterConfig, attach, describe, head_of, keys, methods, preview
from graft.errors import ConfigError

STATE = {"labels": ["animals", "cooking", "weather"]}
TASK = tasks.get("text_classification")
CONFIG = tasks.config_class("text_classification")(name="text_classification")
SOURCE = str(Path(__file__).parents[2] / "src")
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 40,
}


def attached(base: Path, dtype: str = "float32", **adapter: Any) -> Any:
    import torch

    torch.manual_seed(0)
    model, new = TASK.load_model(str(base), CONFIG, STATE, dtype=getattr(torch, dtype))
    return attach(model, AdapterConfig(**adapter), new).eval()


def language_model(*, tied: bool = True) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TINY, tie_word_embeddings=tied)).eval()


def batch_of(rows: int = 4, tokens: int = 6) -> dict[str, Any]:
    import torch

    ids = torch.randint(1, 40, (rows, tokens), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def shaken(model: Any) -> dict[str, Any]:
    """Give the trained weights random values; return them as numpy arrays by the end of their names."""
    import torch

    source = torch.Generator().manual_seed(2)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for value in trained.values():
        value.data = torch.randn(value.shape, generator=source)
    return {name.partition("_head.default.")[2]: value.detach().double().numpy() for name, value in trained.items()}


def head_input(model: Any, batch: dict[str, Any]) -> Any:
    """Return what the base's last linear layer reads, as a float64 array."""
    import torch

    seen: list[Any] = []
    inner = model.get_base_model()
    layer = inner.lm_head if hasattr(inner, "lm_head") else inner.classifier
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(**batch)
    hook.remove()
    return seen[0].double().numpy()


def test_methods_are_found_by_name() -> None:
    assert {"output_linear", "output_mlp", "probe", "full"} <= set(methods())
    assert set(keys("output_linear")) == {"target_modules", "modules_to_save", "features"}
    assert set(keys("output_mlp")) == {"target_modules", "modules_to_save", "features", "residual"}
    assert set(keys("full")) == {"modules_to_save"}


@pytest.mark.parametrize("tied", [True, False])
def test_linear_adds_a_linear_map_of_what_the_head_reads(tied: bool) -> None:
    import numpy as np

    batch = batch_of()
    wanted = language_model(tied=tied)(**batch).logits
    model = attach(language_model(tied=tied), AdapterConfig(method="output_linear"), []).eval()
    assert (model(**batch).logits == wanted).all()
    given = shaken(model)
    read = head_input(model, batch)
    expected = wanted.detach().double().numpy() + read @ given["weight"].T + given["bias"]
    np.testing.assert_allclose(model(**batch).logits.detach().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("residual", [True, False])
def test_mlp_adds_two_layers_or_takes_the_heads_place(residual: bool) -> None:
    import numpy as np

    batch = batch_of()
    base = language_model()(**batch).logits.detach().double().numpy()
    model = attach(language_model(), AdapterConfig(method="output_mlp", residual=residual), []).eval()
    start = model(**batch).logits.detach().numpy()
    assert np.array_equal(start, base.astype(np.float32)) == residual
    given = shaken(model)
    hidden = np.maximum(head_input(model, batch) @ given["0.weight"].T + given["0.bias"], 0)
    assert given["0.weight"].shape == (16, 16)
    expected = hidden @ given["2.weight"].T + given["2.bias"] + (base if residual else 0)
    np.testing.assert_allclose(model(**batch).logits.detach().numpy(), expected, atol=1e-3)


def test_gradient_at_the_start_is_that_of_softmax_regression(tiny_base: Path) -> None:
    import numpy as np
    import torch

    model, batch = attached(tiny_base, method="output_linear"), batch_of(8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 2, 0])
    logits = TASK.outputs(CONFIG, model, batch)
    assert not logits.any()  # a new head is zero
    loss, items = TASK.loss(CONFIG, model, {**batch, "labels": labels})
    loss.backward()
    layer = model.get_base_model().classifier.output_linear_head["default"]
    errors = np.full((8, 3), 1 / 3) - np.eye(3)[labels.numpy()]
    np.testing.assert_allclose(layer.weight.grad.numpy(), errors.T @ head_input(model, batch), atol=1e-5)
    np.testing.assert_allclose(layer.bias.grad.numpy(), errors.sum(0), atol=1e-5)
    assert items == 8
    assert {name for name, value in model.named_parameters() if value.grad is not None} == {
        f"base_model.model.classifier.output_linear_head.default.{kind}" for kind in ("weight", "bias")
    }


def test_linear_on_a_new_head_is_logistic_regression(tiny_base: Path, tiny_rows: list[dict[str, Any]]) -> None:
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoTokenizer

    model = attached(tiny_base, method="output_linear")
    rows = TASK.encode(CONFIG, tiny_rows, AutoTokenizer.from_pretrained(tiny_base), 32)
    batch = TASK.collate(rows, 0, STATE)
    targets = batch["labels"].numpy()
    read = head_input(model, {name: value for name, value in batch.items() if name != "labels"})
    peer = LogisticRegression(C=1.0, tol=1e-8, max_iter=2000).fit(read, targets)
    layer = model.get_base_model().classifier.output_linear_head["default"]
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=300, line_search_fn="strong_wolfe", tolerance_change=0)

    def closure() -> Any:
        optimizer.zero_grad()
        loss, _ = TASK.loss(CONFIG, model, batch)
        total = loss + 0.5 * layer.weight.pow(2).sum()  # sklearn's objective at C = 1
        total.backward()
        return total

    optimizer.step(closure)
    found = torch.softmax(TASK.outputs(CONFIG, model, batch), -1).detach().numpy()
    np.testing.assert_allclose(found, peer.predict_proba(read), atol=2e-3)


@pytest.mark.parametrize("method", ["output_linear", "output_mlp"])
def test_columns_replace_what_the_head_reads(tiny_base: Path, method: str) -> None:
    import numpy as np
    import torch

    torch.manual_seed(0)
    model, new = TASK.load_model(str(tiny_base), CONFIG, STATE)
    wrapped = attach(model, AdapterConfig(method=method, features="columns"), new, columns=4).eval()
    assert wrapped.get_base_model().takes_features
    given, batch = shaken(wrapped), batch_of()
    columns = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))
    found = wrapped(**batch, features=columns).logits.detach().numpy()
    numbers = columns.double().numpy()
    if method == "output_mlp":
        numbers = np.maximum(numbers @ given["0.weight"].T + given["0.bias"], 0)
        given = {"weight": given["2.weight"], "bias": given["2.bias"]}
    np.testing.assert_allclose(found, numbers @ given["weight"].T + given["bias"], atol=1e-4)
    with wrapped.disable_adapter():
        assert not wrapped(**batch, features=columns).logits.any()
    with pytest.raises(ValueError, match="the batch has no `features`"):
        wrapped(**batch)


def test_columns_without_any_are_refused(tiny_base: Path) -> None:
    model, new = TASK.load_model(str(tiny_base), CONFIG, STATE)
    with pytest.raises(ConfigError, match=r"adapter\.features: columns, but the rows have none; .*numeric_columns"):
        attach(model, AdapterConfig(method="output_linear", features="columns"), new)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"features": "rows"}, r"adapter: features must be `hidden` or `columns`"),
        ({"target_modules": "nothing"}, r"'nothing' meets 0 linear layers.*leave it out for `classifier`"),
        ({"target_modules": ["query"]}, r"\{'query'\} meets 2 linear layers"),
        ({"target_modules": ["quarry"]}, r"the base has no module 'quarry'"),
        ({"new_head": True}, r"adapter\.new_head: Graft fills this key in"),
        ({"r": 8}, r"adapter\.r: unknown key"),
    ],
)
def test_wrong_keys_are_refused(tiny_base: Path, adapter: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attached(tiny_base, method="output_linear", **adapter)


def test_base_that_brings_its_head_keeps_it_under_the_adapter() -> None:
    import torch

    batch = batch_of()
    wanted = language_model()(**batch).logits
    for method in ("output_linear", "output_mlp", "probe"):
        model = attach(language_model(), AdapterConfig(method=method), []).eval()
        shaken(model)
        assert not torch.allclose(model(**batch).logits, wanted)
        with model.disable_adapter():
            assert torch.equal(model(**batch).logits, wanted)
        embeddings = model.get_base_model().get_input_embeddings().weight
        assert not embeddings.requires_grad
        assert (
            describe(model).trainable_parameters
            == {
                "output_linear": 16 * 50 + 50,
                "output_mlp": 16 * 16 + 16 + 16 * 50 + 50,
                "probe": 16 * 50,
            }[method]
        )


def test_head_of_two_layers_trains_the_new_one_below() -> None:
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    torch.manual_seed(0)
    model = RobertaForSequenceClassification(RobertaConfig(**TINY, num_labels=3, pad_token_id=0))
    assert head_of(model) == "classifier.out_proj"
    wrapped = attach(model, AdapterConfig(method="output_linear"), ["classifier"]).eval()
    summary = describe(wrapped)
    assert summary.modules == ("classifier.out_proj",)
    assert summary.saved_modules == ("classifier.dense",)
    assert summary.trainable_parameters == (16 * 16 + 16) + (16 * 3 + 3)
    assert not wrapped(**batch_of()).logits.any()


def test_bfloat16_base_gives_float32_logits(tiny_base: Path) -> None:
    import torch

    model = attached(tiny_base, "bfloat16", method="output_linear")
    shaken(model)
    found = TASK.outputs(CONFIG, model, batch_of())
    assert found.dtype == torch.float32
    assert not torch.equal(found, found.bfloat16().float())


def test_preview_knows_what_the_head_reads(tiny_base: Path) -> None:
    summary = preview(TASK, CONFIG, STATE, tiny_base, AdapterConfig(method="output_linear"))
    assert summary.head_input == (1, 32)
    assert summary.trainable_parameters == 3 * 32 + 3
    assert summary.adapter_bytes == 4 * (3 * 32 + 3)
    assert preview(TASK, CONFIG, STATE, tiny_base, AdapterConfig(method="full")).head_input == ()


FRESH = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
from graft.adapters import register
register()
base, adapter, out = sys.argv[1:]
torch.manual_seed(99)
model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
model = PeftModel.from_pretrained(model, adapter).eval()
ids = torch.load(out + "/ids.pt")
torch.save(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, out + "/logits.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["output_linear", "output_mlp", "probe"])
def test_peft_alone_loads_it_in_a_fresh_process(tiny_base: Path, tmp_path: Path, method: str) -> None:
    import torch

    model, batch = attached(tiny_base, method=method), batch_of()
    shaken(model)
    wanted = model(**batch).logits
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    torch.save(batch["input_ids"], tmp_path / "ids.pt")
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tiny_base), str(tmp_path / "adapter"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "logits.pt"), wanted)


@pytest.mark.parametrize("method", ["output_linear", "output_mlp", "probe"])
def test_two_adapters_are_switched_and_deleted(tmp_path: Path, method: str) -> None:
    import torch

    batch = batch_of()
    model = attach(language_model(), AdapterConfig(method=method), []).eval()
    shaken(model)
    first = model(**batch).logits
    model.add_adapter("second", model.peft_config["default"])
    assert torch.equal(model(**batch).logits, first)
    model.set_adapter("second")
    second = model(**batch).logits
    assert not torch.allclose(second, first)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    assert (tmp_path / "second" / "adapter_model.safetensors").is_file()
    model.set_adapter("default")
    assert torch.equal(model(**batch).logits, first)
    model.delete_adapter("second")
    assert torch.equal(model(**batch).logits, first)


def test_merge_is_refused(tiny_base: Path) -> None:
    model = attached(tiny_base, method="output_mlp")
    with pytest.raises(ValueError, match="output_mlp cannot be merged"):
        model.merge_and_unload()
