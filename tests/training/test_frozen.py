"""A base that is not trained, computed once: the same bytes with and without the file, for every kind of head."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graft import params, stages
from graft.adapters import AdapterConfig, attach
from graft.training import TrainingConfig
from graft.training.ranks import ALONE
from graft.workspace import Workspace, read_json

Make = Callable[..., Workspace]
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 40,
}
LENGTHS = (3, 7, 5, 9, 4, 6)
PAD = 0


class Whole:
    """Reads all that a model gives, in the form of a task."""

    def __init__(self, *, decodes: bool = False, starts_and_ends: bool = False, pictures: bool = False) -> None:
        self.decodes, self.starts_and_ends, self.pictures = decodes, starts_and_ends, pictures

    def collate(self, rows: Sequence[Mapping[str, Any]], pad_token_id: int, state: Any) -> dict[str, Any]:
        import torch

        from graft.padding import mask_of, padded

        if self.pictures:
            return {"pixel_values": torch.stack([row["pixel_values"] for row in rows])}
        ids = [row["input_ids"] for row in rows]
        batch = {"input_ids": padded(ids, pad_token_id), "attention_mask": mask_of(ids)}
        if self.decodes:
            starts = torch.full((len(ids), 1), pad_token_id)
            batch["decoder_input_ids"] = torch.cat([starts, padded([one[:-1] for one in ids], pad_token_id)], 1)
        return batch

    def outputs(self, config: Any, model: Any, batch: Mapping[str, Any]) -> Any:
        import torch

        found = model(**batch)
        return torch.stack([found.start_logits, found.end_logits], -1) if self.starts_and_ends else found.logits


def model_of(kind: str) -> tuple[Any, list[str], Whole]:
    """Return a tiny random model, its new modules and a task."""
    import torch
    import transformers as hf

    torch.manual_seed(0)
    bert, llama = hf.BertConfig(**SMALL, num_labels=3), hf.LlamaConfig(**SMALL, num_labels=3, pad_token_id=PAD)
    t5 = hf.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=PAD)
    distil = hf.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=50, num_labels=3)
    made: dict[str, Callable[[], tuple[Any, list[str], Whole]]] = {
        "pooled": lambda: (hf.BertForSequenceClassification(bert), ["classifier"], Whole()),
        "new pooler": lambda: (hf.BertForSequenceClassification(bert), ["bert.pooler", "classifier"], Whole()),
        "tokens": lambda: (hf.BertForTokenClassification(bert), ["classifier"], Whole()),
        "answers": lambda: (
            hf.BertForQuestionAnswering(hf.BertConfig(**SMALL)),
            ["qa_outputs"],
            Whole(starts_and_ends=True),
        ),
        "two layers": lambda: (
            hf.RobertaForSequenceClassification(hf.RobertaConfig(**SMALL, num_labels=3, pad_token_id=PAD)),
            ["classifier"],
            Whole(),
        ),
        "two modules": lambda: (
            hf.DistilBertForSequenceClassification(distil),
            ["classifier", "pre_classifier"],
            Whole(),
        ),
        "language model": lambda: (hf.LlamaForCausalLM(llama), [], Whole()),
        "last token": lambda: (hf.LlamaForSequenceClassification(llama), ["score"], Whole()),
        "encoder-decoder": lambda: (hf.T5ForConditionalGeneration(t5), [], Whole(decodes=True)),
    }
    return made[kind]()


KINDS = (
    *("pooled", "new pooler", "tokens", "answers", "two layers", "two modules"),
    *("language model", "last token", "encoder-decoder"),
)


def inputs_of(kind: str, method: str, **training: Any) -> Any:
    import torch

    model, new, task = model_of(kind)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):  # as the stage does for these methods
            part.p = 0.0
    wrapped = attach(model, AdapterConfig(method=method), new)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:  # a head that is zero would hide what it reads
                parameter.add_(0.1 * torch.randn_like(parameter))
    return ready(wrapped, task, torch.Generator().manual_seed(1), training)


def ready(wrapped: Any, task: Whole, source: Any, training: Mapping[str, Any]) -> Any:
    """Return inputs of the loop, of rows of unequal lengths."""
    import torch

    rows = [
        {
            "input_ids": torch.randint(1, 50, (length,), generator=source).tolist(),
            "pixel_values": torch.randn((3, 8, 8), generator=source),
        }
        for length in LENGTHS
    ]
    return SimpleNamespace(
        model=wrapped.eval(),
        task=task,
        task_config=None,
        train_rows=rows[:4],
        validation_rows=rows[4:],
        pad_token_id=PAD,
        state={},
        config=TrainingConfig(batch_rows=4, **training),
        device="cpu",
        ranks=ALONE,
    )


def count_runs(inputs: Any) -> list[int]:
    """Return a list that grows with each run of a layer of the base."""
    from torch import nn

    runs: list[int] = []
    norm = next(
        part
        for name, part in inputs.model.get_base_model().named_modules()
        if "norm" in type(part).__name__.lower() and not isinstance(part, nn.Identity)
    )
    norm.register_forward_pre_hook(lambda *_: runs.append(1))
    return runs


@pytest.mark.parametrize("method", ["output_linear", "probe"])
@pytest.mark.parametrize("kind", KINDS)
def test_fed_model_gives_what_the_model_gives(kind: str, method: str, tmp_path: Path) -> None:
    import torch

    from graft.training.frozen import above_frozen_layers

    inputs = inputs_of(kind, method)
    batch = inputs.task.collate([*inputs.train_rows, *inputs.validation_rows], PAD, inputs.state)
    wanted = inputs.task.outputs(None, inputs.model, batch)
    runs = count_runs(inputs)
    with above_frozen_layers(inputs, tmp_path, {"test": kind}) as feed:
        assert feed is not None
        assert len(feed.store.places) == len(LENGTHS)
        runs.clear()
        inputs.model.train()
        found = inputs.task.outputs(None, inputs.model, batch)
        assert runs == []
        found.sum().backward()
    assert all(value.grad is not None for value in inputs.model.parameters() if value.requires_grad)
    mask = batch.get("decoder_input_ids", batch["attention_mask"]).bool() if found.ndim == 3 else slice(None)
    assert torch.allclose(found[mask], wanted[mask], atol=1e-5)
    inputs.model.eval()
    assert torch.equal(inputs.task.outputs(None, inputs.model, batch), wanted)
    assert runs != []


def upper(kind: str) -> tuple[Any, Whole, dict[str, Any], int]:
    """Return a tiny model, its task, keys of a LoRA that lies in upper layers alone, and how many layers lie below."""
    import torch
    import transformers as hf

    torch.manual_seed(0)
    deep = {**SMALL, "num_hidden_layers": 4}
    t5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2, "dropout_rate": 0.0}
    deberta = {**deep, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "norm_rel_ebd": "layer_norm"}
    by_number = {"layers_to_transform": [2, 3]}
    made: dict[str, Callable[[], tuple[Any, Whole, dict[str, Any], int]]] = {
        "bert": lambda: (
            hf.BertForSequenceClassification(hf.BertConfig(**deep, num_labels=3)),
            Whole(),
            {"target_modules": ["query", "dense"], "layers_pattern": ["layer"], **by_number},
            2,
        ),
        "roberta": lambda: (
            hf.RobertaForTokenClassification(hf.RobertaConfig(**deep, num_labels=3, pad_token_id=PAD)),
            Whole(),
            {"target_modules": r".*\.3\.output\.dense"},
            3,
        ),
        "distilbert": lambda: (
            hf.DistilBertForSequenceClassification(
                hf.DistilBertConfig(dim=16, n_layers=3, n_heads=2, hidden_dim=32, vocab_size=50, num_labels=3)
            ),
            Whole(),
            {"target_modules": r".*\.layer\.2\..*lin."},
            2,
        ),
        "deberta": lambda: (
            hf.DebertaV2ForTokenClassification(hf.DebertaV2Config(**deberta, num_labels=3)),
            Whole(),
            {"target_modules": ["query_proj"], "layers_pattern": ["layer"], **by_number},
            2,
        ),
        "llama": lambda: (
            hf.LlamaForCausalLM(hf.LlamaConfig(**deep, pad_token_id=PAD)),
            Whole(),
            {"target_modules": ["q_proj", "down_proj"], "layers_pattern": ["layers"], **by_number},
            2,
        ),
        "gpt2": lambda: (
            hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=50, n_positions=40, n_embd=16, n_layer=3, n_head=2)),
            Whole(),
            {"target_modules": r".*\.h\.2\.attn\.c_attn", "fan_in_fan_out": True},
            2,
        ),
        "t5 encoder": lambda: (
            hf.T5ForConditionalGeneration(hf.T5Config(**t5, decoder_start_token_id=PAD)),
            Whole(decodes=True),
            {"target_modules": r"(encoder\.block\.2|decoder\.block\..)\..*\.(q|v)"},
            2,
        ),
        "t5 decoder": lambda: (
            hf.T5ForConditionalGeneration(hf.T5Config(**t5, decoder_start_token_id=PAD)),
            Whole(decodes=True),
            {"target_modules": r"decoder\.block\..\..*\.(q|v)"},
            3,
        ),
        "vit": lambda: (
            hf.ViTForImageClassification(hf.ViTConfig(**deep, image_size=8, patch_size=4, num_labels=3)),
            Whole(pictures=True),
            {"target_modules": r".*\.3\..*(q_proj|query)"},
            3,
        ),
    }
    return made[kind]()


UPPER = ("bert", "roberta", "distilbert", "deberta", "llama", "gpt2", "t5 encoder", "t5 decoder", "vit")


def upper_inputs(kind: str, **training: Any) -> Any:
    """Return inputs whose LoRA lies in upper layers alone, with dropout where the model has any."""
    import torch

    model, task, keys, _ = upper(kind)
    lora = {"r": 2, "lora_alpha": 4, "init_lora_weights": False, **keys}
    wrapped = attach(model, AdapterConfig(method="lora", **lora), [])
    return ready(wrapped, task, torch.Generator().manual_seed(1), training)


def without_dropout(model: Any) -> None:
    from torch import nn

    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0


def gradients(inputs: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of a batch, the mean of their squares and its gradients, in training mode."""
    import torch

    inputs.model.train()
    found = inputs.task.outputs(None, inputs.model, batch)
    chosen = found[batch.get("decoder_input_ids", batch.get("attention_mask")).bool()] if found.ndim == 3 else found
    loss = (chosen**2).mean()
    loss.backward()
    named = {name: torch.clone(one.grad) for name, one in inputs.model.named_parameters() if one.requires_grad}
    for one in inputs.model.parameters():
        one.grad = None
    return {"outputs": chosen.detach(), "loss": loss.detach(), **named}


@pytest.mark.parametrize("kind", UPPER)
def test_upper_layers_learn_what_they_learn_in_the_whole_model(kind: str, tmp_path: Path) -> None:
    import torch

    from graft.training.frozen import above_frozen_layers

    inputs, layers = upper_inputs(kind), upper(kind)[-1]
    without_dropout(inputs.model)
    batch = inputs.task.collate([*inputs.train_rows, *inputs.validation_rows], PAD, inputs.state)
    wanted = gradients(inputs, batch)
    assert all(float(one.abs().max()) > 0 for one in wanted.values())
    runs: list[int] = []
    with above_frozen_layers(inputs, tmp_path, {}) as feed:
        assert feed is not None
        assert feed.trunk.layers == layers
        assert len(feed.store.places) == len(LENGTHS)
        blocks = [part for part in feed.trunk.below if any(True for _ in part.parameters())]
        hooks = [one.register_forward_hook(lambda *_: runs.append(1)) for part in blocks for one in part.children()]
        found = gradients(inputs, batch)
        for hook in hooks:
            hook.remove()
    assert runs == []
    for name, one in wanted.items():
        assert torch.allclose(found[name], one, rtol=1e-4, atol=1e-6), name
    after = gradients(inputs, batch)
    assert all(torch.equal(after[name], one) for name, one in wanted.items())


@pytest.mark.parametrize("kind", ["bert", "llama", "t5 encoder", "t5 decoder", "vit"])
def test_rows_above_frozen_layers_run_packed(kind: str, tmp_path: Path) -> None:
    import torch

    from graft.training.forward import efficient
    from graft.training.frozen import above_frozen_layers

    inputs = upper_inputs(kind)
    without_dropout(inputs.model)
    batch = inputs.task.collate([*inputs.train_rows, *inputs.validation_rows], PAD, inputs.state)
    wanted = gradients(inputs, batch)
    with above_frozen_layers(inputs, tmp_path, {}) as feed, efficient(inputs, feed) as forward:
        assert feed is not None
        assert forward.packed == (kind not in ("vit", "t5 decoder"))  # this T5 is given no mask for its decoder
        assert forward.fused_layers > 0
        feed.served = 0
        found = gradients(inputs, batch)
        assert feed.served == len(LENGTHS)
    for name, one in wanted.items():
        assert torch.allclose(found[name], one, rtol=1e-4, atol=1e-6), name


def test_dropout_is_off_below_and_on_above(tmp_path: Path) -> None:
    from torch import nn

    from graft.training.frozen import above_frozen_layers

    inputs = upper_inputs("bert")
    with above_frozen_layers(inputs, tmp_path, {}):
        layers = inputs.model.get_base_model().bert.encoder.layer
        rates = [{part.p for part in layer.modules() if isinstance(part, nn.Dropout)} for layer in layers]
        assert rates == [{0.0}, {0.0}, {0.1}, {0.1}]


def test_adapter_in_all_layers_runs_the_whole_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    import transformers as hf

    from graft.training.frozen import above_frozen_layers

    model = hf.BertForSequenceClassification(hf.BertConfig(**SMALL, num_labels=3))
    wrapped = attach(model, AdapterConfig(method="lora", target_modules=["query"]), [])
    inputs = ready(wrapped, Whole(), torch.Generator().manual_seed(1), {})
    with above_frozen_layers(inputs, tmp_path, {}) as feed:
        assert feed is None
    assert capsys.readouterr().out == ""
    assert not any(tmp_path.iterdir())


def test_rows_decide_the_bytes_not_the_order_of_asking(tmp_path: Path) -> None:
    import torch

    from graft.training.frozen import above_frozen_layers

    found = []
    for number, order in enumerate(([0, 1, 2], [2, 1, 0])):
        inputs = upper_inputs("llama")
        with above_frozen_layers(inputs, tmp_path / str(number), {}):
            inputs.model.eval()
            for row in order:
                batch = inputs.task.collate(inputs.train_rows[row : row + 1], PAD, inputs.state)
                found.append((row, inputs.task.outputs(None, inputs.model, batch)))
    first, second = (dict(found[start : start + 3]) for start in (0, 3))
    assert all(torch.equal(first[row], second[row]) for row in first)


def test_size_is_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.training.frozen import Feed, above_frozen_layers

    size = sum(LENGTHS) * 16 * 4
    with above_frozen_layers(upper_inputs("llama", frozen_cache_bytes=size), tmp_path / "fits", {}) as feed:
        assert feed.store.size_bytes == size
    with above_frozen_layers(upper_inputs("llama", frozen_cache_bytes=size - 1), tmp_path / "told", {}) as feed:
        assert feed is None
    monkeypatch.setattr(Feed, "expected_bytes", lambda _: 0)
    with above_frozen_layers(upper_inputs("llama", frozen_cache_bytes=size - 1), tmp_path / "found", {}) as feed:
        assert feed is None
    assert capsys.readouterr().out.count("above training.frozen_cache_bytes") == 2
    assert {path.parent.name for path in tmp_path.glob("*/*") if path.is_dir()} == {"fits"}


def test_another_place_or_origin_has_a_file_of_its_own(tmp_path: Path) -> None:
    from graft.training.frozen import above_frozen_layers

    folders = set()
    for kind, made_of in (("bert", {"rows": 1}), ("bert", {"rows": 2}), ("vit", {"rows": 1})):
        with above_frozen_layers(upper_inputs(kind), tmp_path, made_of) as feed:
            folders.add(feed.store.folder)
    with above_frozen_layers(upper_inputs("bert"), tmp_path, {"rows": 1}) as feed:
        assert feed.store.folder in folders
    assert len(folders) == 3


def test_base_answers_are_fed_too(tmp_path: Path) -> None:
    import torch

    from graft.training.frozen import above_frozen_layers

    inputs = inputs_of("language model", "output_mlp")
    batch = inputs.task.collate(inputs.train_rows, PAD, inputs.state)
    with inputs.model.disable_adapter():
        wanted = inputs.task.outputs(None, inputs.model, batch)
    runs = count_runs(inputs)
    with above_frozen_layers(inputs, tmp_path, {}):
        runs.clear()
        with inputs.model.disable_adapter():
            found = inputs.task.outputs(None, inputs.model, batch)
        assert runs == []
    mask = batch["attention_mask"].bool()
    assert torch.allclose(found[mask], wanted[mask], atol=1e-5)


def test_left_padded_batch_runs_as_it_is(tmp_path: Path) -> None:
    import torch

    from graft.training.frozen import above_frozen_layers

    inputs = inputs_of("language model", "probe")
    batch = {"input_ids": torch.tensor([[0, 0, 5, 6]]), "attention_mask": torch.tensor([[0, 0, 1, 1]])}
    wanted = inputs.model(**batch).logits
    with above_frozen_layers(inputs, tmp_path, {}) as feed:
        computed = feed.computed
        assert torch.equal(inputs.model(**batch).logits, wanted)
        assert feed.computed == computed


def test_model_whose_head_reads_more_is_trained_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from graft.training.frozen import above_frozen_layers

    inputs = inputs_of("pooled", "probe")
    inner = inputs.model.get_base_model()

    def skewed(**named: Any) -> Any:
        from transformers.modeling_outputs import SequenceClassifierOutput

        states = inner.bert(**named).last_hidden_state
        return SequenceClassifierOutput(logits=inner.classifier(states[:, 0]) + inner.classifier(states[:, 1]))

    inner.forward = skewed
    with above_frozen_layers(inputs, tmp_path, {}) as feed:
        assert feed is None
        assert inner.forward is skewed
    assert "the whole base runs in each epoch" in capsys.readouterr().out
    assert inner.forward is skewed
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("vectors.bin", "cut"),
        ("vectors.bin", "changed"),
        ("vectors.bin", "gone"),
        ("index.safetensors", "changed"),
        ("state.json", "cut"),
    ],
)
def test_damaged_file_is_noticed_and_computed_again(
    name: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from graft.training.frozen import above_frozen_layers

    with above_frozen_layers(inputs_of("tokens", "probe"), tmp_path, {}) as feed:
        folder = feed.store.folder
    whole = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "state.json"}
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage != "gone":
        (folder / name).write_bytes(content[:-9] if damage == "cut" else content[:-9] + b"#" + content[-8:])
    capsys.readouterr()
    with above_frozen_layers(inputs_of("tokens", "probe"), tmp_path, {}) as feed:
        assert len(feed.store.places) == len(LENGTHS)
    told = capsys.readouterr().out
    assert "are damaged" in told
    assert "computed once" in told
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "state.json"} == whole


def trained(workspace: Workspace) -> tuple[bytes, dict[str, Any]]:
    stages.run("train", workspace)
    weights = (workspace.adapter / "adapter_model.safetensors").read_bytes()
    return weights, read_json(workspace.training / "summary.json")


@pytest.mark.parametrize("method", ["output_linear", "probe"])
def test_training_gives_the_same_bytes_with_and_without_the_file(
    method: str, make_tokenized: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = {"adapter": None, "adapter.method": method}
    kept = make_tokenized(tmp_path / "kept", **adapter)
    first, summary = trained(kept)
    assert "of 75 lines" in capsys.readouterr().out
    assert summary["frozen"]["lines"] == 75
    assert summary["frozen"]["bytes"] == 75 * 32 * 4
    identity = read_json(kept.adapter / "identity.json")
    again, summary = trained(kept)
    told = capsys.readouterr().out
    assert "taken from .graft/store/frozen/" in told
    assert summary["frozen"]["served_lines"] == 2 * (60 + 15)
    assert read_json(kept.adapter / "identity.json") == identity
    shutil.rmtree(kept.store)
    anew, _ = trained(kept)
    assert "computed once" in capsys.readouterr().out
    assert first == again == anew
    assert read_json(kept.adapter / "identity.json") == identity
    whole, summary = trained(make_tokenized(tmp_path / "whole", **adapter, training={"frozen_cache_bytes": 100}))
    assert "above training.frozen_cache_bytes" in capsys.readouterr().out
    assert "frozen" not in summary
    assert len(whole) == len(first)
    other = read_json(tmp_path / "whole/artifacts/adapter/identity.json")
    assert other["params"] != identity["params"]


def test_methods_share_what_the_base_put_out(
    make_tokenized: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    for number, method in enumerate(("output_linear", "probe", "output_mlp")):
        workspace = make_tokenized(tmp_path / method, **{"adapter": None, "adapter.method": method})
        trained(workspace)
        assert ("taken from" in capsys.readouterr().out) == (number > 0)
    assert len([path for path in (tmp_path / "home/.graft/store/frozen").iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("kind", ["pooled", "tokens"])
def test_rows_are_looked_at_only_where_their_length_counts(kind: str) -> None:
    from graft.training.frozen import Feed

    inputs = inputs_of(kind, "probe")
    if kind == "pooled":
        inputs.train_rows, inputs.validation_rows = range(4), range(2)  # a number has no length
    trunk: Any = SimpleNamespace(inner=inputs.model.get_base_model())
    feed = Feed(inputs, trunk, pooled=kind == "pooled", vector_bytes=10)
    assert feed.expected_bytes() == 10 * (6 if kind == "pooled" else sum(LENGTHS))


def test_another_base_type_is_computed_anew(make_tokenized: Make, tmp_path: Path) -> None:
    workspace = make_tokenized(tmp_path / "one", **{"adapter": None, "adapter.method": "probe"})
    trained(workspace)
    params = workspace.params.read_text().replace("source: ./base", "source: ./base\n  dtype: bfloat16")
    workspace.params.write_text(params)
    trained(workspace)
    folders = [path for path in (workspace.store / "frozen").iterdir() if path.is_dir()]
    assert {json.loads((path / "state.json").read_text())["dtype"] for path in folders} == {"float32", "bfloat16"}


@pytest.mark.parametrize("bits", [{"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}])
def test_each_quantization_has_base_outputs_of_its_own(
    bits: dict[str, Any], make_tokenized: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graft.artifact import planned_identity
    from graft.training import stage

    workspace = make_tokenized(tmp_path / "one", **{"adapter": None, "adapter.method": "probe"})
    config = params.load(workspace.params)
    plain = planned_identity(workspace, config.task, config.base, config.adapter, config.training) | {"device": "cpu"}
    keys: list[Mapping[str, Any]] = []

    @contextlib.contextmanager
    def noted(_inputs: Any, _folder: Path, made_of: Mapping[str, Any]) -> Iterator[None]:
        keys.append(made_of)
        yield None

    monkeypatch.setattr(stage, "above_frozen_layers", noted)
    inputs: Any = SimpleNamespace(config=config.training, device="cpu", ranks=ALONE)
    for base in (plain["base"], {**plain["base"], "quantization": bits}):
        with stage._frozen(workspace, inputs, {**plain, "base": base}):
            pass
    assert keys[0] != keys[1]
