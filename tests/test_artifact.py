from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft import stages
from graft.artifact import LoadedAdapter, attention, load, predict, raw_outputs, reproducible, verified
from graft.base import lock, locked
from graft.errors import DataError, IntegrityError, ResourceMissing
from graft.identity import code_of, digest_file
from graft.workspace import Workspace, read_json, write_json
from tests.conftest import validated

WEIGHTS = "adapter_model.safetensors"
MADE: dict[str, Workspace] = {}


@pytest.fixture
def trained(tmp_path_factory: pytest.TempPathFactory, make_project: Callable[..., Workspace]) -> Workspace:
    """A trained project. Read it; do not change it: the tests of this file share it."""
    if not MADE:
        workspace = make_project(
            tmp_path_factory.mktemp("trained") / "project",
            data={"clean": ["whitespace", "duplicates"], "columns": {"text": "body"}},
            training={"epochs": 4},
        )
        for part in workspace.data.rglob("*.jsonl"):
            part.write_text(part.read_text().replace('"text"', '"body"'))
        validated(workspace)
        for stage in ("tokenize", "train"):
            stages.run(stage, workspace)
        MADE["project"] = workspace
    return MADE["project"]


@pytest.fixture
def loaded(trained: Workspace) -> LoadedAdapter:
    return load(trained.adapter, trained.root)


@pytest.fixture
def copied(trained: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the trained project, to be damaged."""
    shutil.copytree(trained.root, tmp_path / "copy", symlinks=True)
    return Workspace(tmp_path / "copy")


def rewrite_digests(folder: Path) -> None:
    """Make identity.json agree with the files, as someone who tampers with care would."""
    identity = read_json(folder / "identity.json")
    identity["files"] = {name: digest_file(folder / name) for name in identity["files"]}
    identity["adapter"]["config"] = read_json(folder / "adapter_config.json")
    write_json(folder / "identity.json", identity)


def test_loaded_adapter_gives_the_trainers_outputs(trained: Workspace, loaded: LoadedAdapter) -> None:
    import torch
    from safetensors.torch import load_file

    probe = load_file(trained.adapter / "probe.safetensors")
    batch = {name: value for name, value in probe.items() if not name.endswith("_outputs")}
    assert probe["adapter_outputs"].shape == (8, 3)
    assert torch.equal(loaded.task.outputs(loaded.config, loaded.model, batch), probe["adapter_outputs"])
    with loaded.model.disable_adapter():  # the untrained head is drawn again from the seed
        assert torch.equal(loaded.task.outputs(loaded.config, loaded.model, batch), probe["base_outputs"])
    assert not loaded.model.training
    assert loaded.device == "cpu"


def test_peft_itself_loads_the_folder(trained: Workspace, loaded: LoadedAdapter) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(trained.root / "base", num_labels=3)
    model = PeftModel.from_pretrained(base, str(trained.adapter)).eval()
    batch = {"input_ids": torch.arange(5, 25).view(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.int64)}
    # PEFT's load takes the fused attention, ours the plain products.
    assert torch.allclose(model(**batch).logits, loaded.model(**batch).logits, atol=1e-6)


@pytest.mark.parametrize(
    ("device", "length", "plain"), [("cpu", 128, True), ("cpu", 256, True), ("cpu", 257, False), ("cuda", 128, False)]
)
def test_attention_is_plain_for_short_rows_on_a_cpu(device: str, length: int, plain: bool) -> None:
    assert attention(device, length) == ({"attn_implementation": "eager"} if plain else {})


def test_reproducible_pins_and_restores() -> None:
    import torch

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    with reproducible(before[0] + 1):
        torch.manual_seed(1)
        assert torch.get_num_threads() == before[0] + 1
        assert torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_adapter_config_names_the_base_without_a_path(trained: Workspace) -> None:
    config = read_json(trained.adapter / "adapter_config.json")
    assert config["base_model_name_or_path"] == "./base"
    assert config["modules_to_save"] == sorted(config["modules_to_save"])
    assert config["target_modules"] == ["query", "value"]
    text = b"".join(path.read_bytes() for path in trained.adapter.iterdir())
    assert str(trained.root).encode() not in text


def test_predict_answers_raw_rows_in_order(trained: Workspace, loaded: LoadedAdapter) -> None:
    rows = [json.loads(line) for line in (trained.data / "test" / "part-0000.jsonl").read_text().splitlines()]
    answers = predict(loaded, [{"body": row["body"]} for row in rows], batch_rows=4)
    right = sum(answer["label"] == row["label"] for answer, row in zip(answers, rows, strict=True))
    assert right >= 12
    assert answers == predict(loaded, rows, batch_rows=4)  # other columns do not matter
    alone = [predict(loaded, [row])[0] for row in rows]
    assert [one["label"] for one in alone] == [one["label"] for one in answers]
    assert [one["score"] for one in alone] == pytest.approx([one["score"] for one in answers], abs=1e-5)
    assert predict(loaded, []) == []


def test_predict_cleans_text_as_in_training_and_drops_no_row(loaded: LoadedAdapter) -> None:
    plain, spaced = (predict(loaded, [row]) for row in ({"text": "the cat barks"}, {"body": "  the \n cat\tbarks "}))
    assert len(spaced) == 1
    assert plain == spaced


def test_predict_cuts_at_the_training_length(loaded: LoadedAdapter) -> None:
    assert predict(loaded, [{"text": "cat " * 500}])[0]["label"] in loaded.state["labels"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "animals"}, "row 2: body: missing; a row needs body"),
        ({"body": None}, "row 2: body: missing"),
        ({"body": 7}, "row 2: body: expected a string, found the integer 7"),
    ],
)
def test_predict_refuses_a_row_by_its_number(loaded: LoadedAdapter, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        predict(loaded, [{"body": "the cat"}, row])


def test_raw_outputs_keep_the_order_of_rows(loaded: LoadedAdapter) -> None:
    import numpy as np

    rows = [{"input_ids": [2, *range(5, 5 + length), 3]} for length in (9, 1, 5, 3, 7)]
    settings: dict[str, Any] = {"pad_token_id": 0, "device": "cpu"}
    together = raw_outputs(loaded.model, loaded.task, loaded.config, loaded.state, rows, batch_rows=2, **settings)
    single = [
        raw_outputs(loaded.model, loaded.task, loaded.config, loaded.state, [row], batch_rows=1, **settings)
        for row in rows
    ]
    assert together.shape == (5, 3)
    assert np.allclose(together, np.concatenate(single), atol=1e-5)


def _without_head(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    kept = {name: value for name, value in load_file(folder / WEIGHTS).items() if "classifier" not in name}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})


def _other_head(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = {
        name: value[:2] if "classifier" in name else value for name, value in load_file(folder / WEIGHTS).items()
    }
    save_file(
        {name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS, metadata={"format": "pt"}
    )


def _flipped(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 0x40
    (folder / WEIGHTS).write_bytes(content)


def _truncated(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8])


def _set(file: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: write_json(folder / file, {**read_json(folder / file), **values})


def _fewer_labels(folder: Path) -> None:
    identity = read_json(folder / "identity.json")
    identity["task"]["state"]["labels"] = ["animals", "cooking"]
    write_json(folder / "identity.json", identity)


def _other_base_digest(folder: Path) -> None:
    identity = read_json(folder / "identity.json")
    identity["base"]["digest"] = "0" * 64
    write_json(folder / "identity.json", identity)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no head": (_without_head, r"adapter_model.safetensors differ from identity.json"),
    "flipped bit": (_flipped, r"adapter_model.safetensors differ from identity.json"),
    "truncated": (_truncated, r"adapter_model.safetensors differ from identity.json"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), r"adapter_model.safetensors differ .*or are missing"),
    "lora_alpha": (_set("adapter_config.json", lora_alpha=64), r"adapter_config.json differ from identity.json"),
    "no identity": (lambda folder: (folder / "identity.json").unlink(), r"identity.json: no such file: the folder"),
    "identity of a later format": (_set("identity.json", format=2), r"identity.json: format 2, this Graft reads 1"),
    "identity without files": (_set("identity.json", files={}), r"identity.json: incomplete"),
    "identity is no JSON": (
        lambda folder: (folder / "identity.json").write_text("{"),
        r"identity.json: not valid JSON",
    ),
    "identity is a list": (lambda folder: (folder / "identity.json").write_text("[]"), r"must be a JSON object"),
    "unknown task": (
        _set("identity.json", task={"name": "nothing", "config": {}, "state": {}}),
        r"identity.json: task: .*no task 'nothing'",
    ),
    "fewer labels": (_fewer_labels, r"classifier.* is torch.float32 \[3.*\], not torch.float32 \[2"),
    "base digest": (_other_base_digest, r"the base's digest is not that of its files"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_adapter_is_refused(copied: Workspace, damage: str) -> None:
    harm, message = DAMAGE[damage]
    harm(copied.adapter)
    with pytest.raises(IntegrityError, match=message):
        load(copied.adapter, copied.root)


REWRITTEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no head": (_without_head, r"classifier.bias is missing; .*classifier.weight is missing; restore"),
    "other head": (_other_head, r"classifier.* is torch.float32 \[2.*\], not torch.float32 \[3"),
    "truncated": (_truncated, r"adapter_model.safetensors: not a safetensors file"),
    "other rank": (
        _set("adapter_config.json", r=8),
        r"lora_A.* is torch.float32 \[4, 32\], not torch.float32 \[8, 32\]",
    ),
    "other targets": (_set("adapter_config.json", target_modules=["key"]), r"key.lora_A.weight is missing"),
    "unknown targets": (
        _set("adapter_config.json", target_modules=["nothing"]),
        r"cannot be put on its base: .*No modules were targeted",
    ),
    "unknown method": (_set("adapter_config.json", peft_type="NOTHING"), r"cannot be put on its base"),
}


@pytest.mark.parametrize("damage", REWRITTEN)
def test_damaged_adapter_with_rewritten_digests_is_refused(copied: Workspace, damage: str) -> None:
    harm, message = REWRITTEN[damage]
    harm(copied.adapter)
    rewrite_digests(copied.adapter)
    with pytest.raises(IntegrityError, match=message):
        load(copied.adapter, copied.root)


def _change_base(workspace: Workspace) -> None:
    """Give the base other weights of the same shapes."""
    from safetensors.torch import load_file, save_file

    path = workspace.root / "base" / "model.safetensors"
    save_file({name: value * 1.01 for name, value in load_file(path).items()}, path, metadata={"format": "pt"})


def test_base_with_other_weights_is_refused(copied: Workspace) -> None:
    _change_base(copied)
    with pytest.raises(IntegrityError, match=r"model.safetensors changed or missing"):
        load(copied.adapter, copied.root)


def test_base_that_is_locked_anew_is_refused_by_both_names(copied: Workspace) -> None:
    from graft import params

    _change_base(copied)
    config = params.load(copied.params).base
    lock(copied, config)
    with pytest.raises(IntegrityError, match=r"trained on base ./base \(digest .*sources.lock pins ./base \(digest"):
        load(copied.adapter, copied.root, pinned=locked(copied, config))


def test_base_is_found_elsewhere_by_its_digest(
    copied: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(copied.root / "base", tmp_path / "bases" / "renamed")
    with pytest.raises(ResourceMissing, match=r"GRAFT_BASES \(base digest [0-9a-f]{64}\)"):
        load(copied.adapter, copied.root)
    monkeypatch.setenv("GRAFT_BASES", str(tmp_path / "bases"))
    assert load(copied.adapter, copied.root).base.source == "./base"


def test_verified_returns_what_the_adapter_is(trained: Workspace) -> None:
    identity = verified(trained.adapter)
    assert identity["adapter"]["method"] == "lora"
    assert identity["adapter"]["new_modules"] == ["classifier"]
    assert identity["task"]["state"]["labels"] == ["animals", "cooking", "weather"]
    assert identity["clean"] == ["whitespace", "duplicates"]
    assert identity["columns"] == {"text": "body"}
    assert set(identity["versions"]) == {"python", "torch", "transformers", "peft", "safetensors"}


def test_artifact_needs_no_pipeline_library() -> None:
    source = Path(__file__).parents[1] / "src"
    libraries = {"git", "dvc", "mlflow", "prefect", "great_expectations", "pandas"}
    imported = {
        name.split(".")[0]
        for path in code_of("graft.artifact", source)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    assert not imported & libraries
    assert "torch" in imported  # the walk does see imports inside functions
