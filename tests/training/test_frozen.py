"""A base that is not trained, computed once: the same bytes with and without the file, for every kind of head."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graft import params, stages
from graft.adapters import AdapterConfig, attach
from graft.training import TrainingConfig
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

    def __init__(self, *, decodes: bool = False, starts_and_ends: bool = False) -> None:
        self.decodes, self.starts_and_ends = decodes, starts_and_ends

    def collate(self, rows: Sequence[Mapping[str, Any]], pad_token_id: int, state: Any) -> dict[str, Any]:
        import torch

        from graft.padding import mask_of, padded

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
    source = torch.Generator().manual_seed(1)
    rows = [{"input_ids": torch.randint(1, 50, (length,), generator=source).tolist()} for length in LENGTHS]
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

    from graft.training.frozen import starting_at_the_head

    inputs = inputs_of(kind, method)
    batch = inputs.task.collate([*inputs.train_rows, *inputs.validation_rows], PAD, inputs.state)
    wanted = inputs.task.outputs(None, inputs.model, batch)
    runs = count_runs(inputs)
    with starting_at_the_head(inputs, tmp_path, {"test": kind}) as feed:
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


def test_line_alone_gives_the_same_bytes_in_every_batch(tmp_path: Path) -> None:
    import torch

    from graft.training.frozen import starting_at_the_head

    found = []
    for limit in (0, 1 << 30):
        inputs = inputs_of("language model", "probe", frozen_cache_bytes=limit)
        with starting_at_the_head(inputs, tmp_path, {}) as feed:
            assert (feed.store is None) == (limit == 0)
            for rows in (inputs.train_rows[:2], inputs.train_rows[1:4]):
                batch = inputs.task.collate(rows, PAD, inputs.state)
                found.append(inputs.task.outputs(None, inputs.model, batch))
    assert all(torch.equal(one, two) for one, two in zip(found[:2], found[2:], strict=True))
    shared = inputs.train_rows[1]["input_ids"]
    assert torch.equal(found[0][1, : len(shared)], found[1][0, : len(shared)])


def test_base_answers_are_fed_too(tmp_path: Path) -> None:
    import torch

    from graft.training.frozen import starting_at_the_head

    inputs = inputs_of("language model", "output_mlp")
    batch = inputs.task.collate(inputs.train_rows, PAD, inputs.state)
    with inputs.model.disable_adapter():
        wanted = inputs.task.outputs(None, inputs.model, batch)
    runs = count_runs(inputs)
    with starting_at_the_head(inputs, tmp_path, {}):
        runs.clear()
        with inputs.model.disable_adapter():
            found = inputs.task.outputs(None, inputs.model, batch)
        assert runs == []
    mask = batch["attention_mask"].bool()
    assert torch.allclose(found[mask], wanted[mask], atol=1e-5)


def test_left_padded_batch_runs_as_it_is(tmp_path: Path) -> None:
    import torch

    from graft.training.frozen import starting_at_the_head

    inputs = inputs_of("language model", "probe")
    batch = {"input_ids": torch.tensor([[0, 0, 5, 6]]), "attention_mask": torch.tensor([[0, 0, 1, 1]])}
    wanted = inputs.model(**batch).logits
    with starting_at_the_head(inputs, tmp_path, {}) as feed:
        computed = feed.computed
        assert torch.equal(inputs.model(**batch).logits, wanted)
        assert feed.computed == computed


def test_model_whose_head_reads_more_is_trained_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from graft.training.frozen import starting_at_the_head

    inputs = inputs_of("pooled", "probe")
    inner = inputs.model.get_base_model()
    forward = inner.forward

    def skewed(**named: Any) -> Any:
        from transformers.modeling_outputs import SequenceClassifierOutput

        states = inner.bert(**named).last_hidden_state
        return SequenceClassifierOutput(logits=inner.classifier(states[:, 0]) + inner.classifier(states[:, 1]))

    inner.forward = skewed
    with starting_at_the_head(inputs, tmp_path, {}) as feed:
        assert feed is None
        assert inner.forward is not forward
    assert "the base runs in each epoch" in capsys.readouterr().out
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
    from graft.training.frozen import starting_at_the_head

    with starting_at_the_head(inputs_of("tokens", "probe"), tmp_path, {}) as feed:
        folder = feed.store.folder
    whole = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "state.json"}
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage != "gone":
        (folder / name).write_bytes(content[:-9] if damage == "cut" else content[:-9] + b"#" + content[-8:])
    capsys.readouterr()
    with starting_at_the_head(inputs_of("tokens", "probe"), tmp_path, {}) as feed:
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
    anew, summary = trained(make_tokenized(tmp_path / "anew", **adapter, training={"frozen_cache_bytes": 100}))
    assert "above training.frozen_cache_bytes" in capsys.readouterr().out
    assert summary["frozen"]["lines"] == 0
    assert first == again == anew
    assert read_json(tmp_path / "anew/artifacts/adapter/identity.json") == identity


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
    from graft.adapters import trained_modules
    from graft.training.frozen import Feed

    inputs = inputs_of(kind, "probe")
    feed = Feed(inputs.model, trained_modules(inputs.model), pooled=kind == "pooled", vector_bytes=10)
    if kind == "pooled":
        inputs = SimpleNamespace(train_rows=range(4), validation_rows=range(2))  # a number has no length
    assert feed.expected_bytes(inputs) == 10 * (6 if kind == "pooled" else sum(LENGTHS))


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

    monkeypatch.setattr(stage, "starting_at_the_head", noted)
    inputs: Any = SimpleNamespace(config=config.training, device="cpu")
    for base in (plain["base"], {**plain["base"], "quantization": bits}):
        with stage._frozen(workspace, config.adapter, inputs, {**plain, "base": base}):
            pass
    assert keys[0] != keys[1]
