from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft import params, stages
from graft.artifact import planned_identity
from graft.artifact.starts import place_of
from graft.errors import ConfigError, IntegrityError, ResourceMissing
from graft.identity import digest_folder, run_key
from graft.publication import pin_start
from graft.workspace import Workspace, read_json
from tests.conftest import TOPICS, validated

Make = Callable[..., Workspace]
STILL = {"learning_rate": 1e-30, "max_steps": 1, "keep": "last"}
"""A training that moves nothing: what comes out is what it started from."""


def locked(workspace: Workspace) -> Any:
    loaded = params.load(workspace.params)
    return pin_start(workspace, training=loaded.training, tracking=loaded.tracking)


def key_of(workspace: Workspace) -> str:
    loaded = params.load(workspace.params)
    return run_key(planned_identity(workspace, loaded.task, loaded.base, loaded.adapter, loaded.training))


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(folder / "adapter_model.safetensors")
    return found


@pytest.fixture
def trained(tokenized: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A trained project; the projects beside it share its store."""
    monkeypatch.setenv("GRAFT_HOME", str(tokenized.root.parent))
    stages.run("train", tokenized)
    return tokenized


def test_training_goes_on_from_a_folder_also_when_that_is_gone(
    trained: Workspace, make_tokenized: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = make_tokenized(tmp_path / "second", training={"init_from": "../first", **STILL})
    shutil.copytree(trained.adapter, tmp_path / "first")
    start = locked(second)
    shutil.rmtree(tmp_path / "first")
    stages.run("train", second)
    assert "train: starts from the adapter of ../first\n" in capsys.readouterr().out
    before, after = tensors(trained.adapter), tensors(second.adapter)
    assert before.keys() == after.keys()
    assert all(after[name].equal(value) for name, value in before.items())
    assert read_json(second.adapter / "identity.json")["init"] == start.digest == digest_folder(trained.adapter)


def test_another_start_is_another_training_and_another_name_of_it_is_not(
    trained: Workspace, make_tokenized: Make, tmp_path: Path
) -> None:
    second = make_tokenized(tmp_path / "second", training={"init_from": "../first", **STILL})
    shutil.copytree(trained.adapter, tmp_path / "first")
    shutil.copytree(trained.adapter, tmp_path / "copy")
    described = yaml.safe_load(second.params.read_text())
    keys = []
    for source in ("../first", "../copy", None):
        described["training"]["init_from"] = source
        second.params.write_text(yaml.safe_dump(described))
        locked(second)
        keys.append(key_of(second))
    assert keys[0] == keys[1] != keys[2]
    assert read_json(second.sources_lock)["init"] is None


def test_changed_weights_of_the_base_go_on_too(make_tokenized: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    unfreeze = {"unfreeze": [r"bert\.encoder\.layer\.1\.output\.dense\..*"]}
    first = make_tokenized(tmp_path / "first", training=unfreeze)
    stages.run("train", first)
    second = make_tokenized(tmp_path / "second", training={**unfreeze, **STILL, "init_from": str(first.adapter)})
    locked(second)
    stages.run("train", second)
    one, other = (load_file(each.adapter / "base_weights.safetensors") for each in (first, second))
    assert one.keys() == other.keys()
    assert all(other[name].equal(value) for name, value in one.items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"adapter.r": 2}, r"adapter\.r is 4 there and 2 here"),
        (
            {"adapter.target_modules": ["query"]},
            r"adapter\.target_modules is \['query', 'value'\] there and \['query'\]",
        ),
        ({"training.unfreeze": ["bert.pooler.*"]}, r"training\.unfreeze is \[\] there and \['bert\.pooler"),
    ],
    ids=["rank", "targets", "unfrozen"],
)
def test_adapter_of_another_configuration_is_refused(
    trained: Workspace, make_tokenized: Make, tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    second = make_tokenized(tmp_path / "second", **{**overrides, "training.init_from": str(trained.adapter)})
    locked(second)
    with pytest.raises(ConfigError, match=rf"training\.init_from: the adapter .* does not fit: {message}"):
        stages.run("train", second)


def test_adapter_of_another_base_is_refused(trained: Workspace, make_project: Make, tmp_path: Path) -> None:
    from graft.base import lock

    second = make_project(tmp_path / "second", training={"init_from": str(trained.adapter)})
    config = second.root / "base" / "config.json"
    config.write_text(config.read_text().replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-11'))
    lock(second, params.load(second.params).base)
    validated(second)
    stages.run("tokenize", second)
    locked(second)
    with pytest.raises(ConfigError, match=r"base is './base \(digest \w{12}\)' there and './base \(digest \w{12}\)'"):
        stages.run("train", second)


def test_rows_of_known_labels_are_kept_by_name(
    trained: Workspace, make_project: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = make_project(tmp_path / "second", training={"init_from": str(trained.adapter), **STILL})
    labels = sorted([*TOPICS, "boats"])  # between "animals" and "cooking"
    validated(second, {"labels": labels})
    stages.run("tokenize", second)
    locked(second)
    stages.run("train", second)
    assert "; new labels start anew: 'boats'\n" in capsys.readouterr().out
    before, after = tensors(trained.adapter), tensors(second.adapter)
    heads = [name for name in before if ".classifier." in name]
    assert len(heads) == 2
    for name in heads:
        assert after[name].shape[0] == 4
        for number, label in enumerate(sorted(TOPICS)):
            assert after[name][labels.index(label)].equal(before[name][number])
    assert all(after[name].equal(value) for name, value in before.items() if name not in heads)


def test_what_lock_has_not_seen_is_refused(trained: Workspace, make_tokenized: Make, tmp_path: Path) -> None:
    second = make_tokenized(tmp_path / "second", training={"init_from": str(trained.adapter)})
    with pytest.raises(ConfigError, match=r"training\.init_from: params\.yaml has .* pins none; run `graft lock`"):
        stages.run("train", second)
    start = locked(second)
    weights = place_of(second, start.digest) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(ResourceMissing, match=r"is not in .*models, or was changed there; `graft lock` fetches"):
        stages.run("train", second)
    locked(second)
    stages.run("train", second)


def test_folder_without_a_whole_adapter_is_not_pinned(trained: Workspace, make_project: Make, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    second = make_project(tmp_path / "second", training={"init_from": str(broken)})
    with pytest.raises(ConfigError, match=r"training\.init_from: no folder '.*broken"):
        locked(second)
    shutil.copytree(trained.adapter, broken)
    (broken / "probe.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"probe\.safetensors differ from identity\.json, or are missing"):
        locked(second)
    assert read_json(second.sources_lock)["init"] is None


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_method_with_a_state_beside_its_weights_is_refused(
    trained: Workspace, make_tokenized: Make, tmp_path: Path, start: str
) -> None:
    second = make_tokenized(
        tmp_path / "second", **{"adapter.init_lora_weights": start, "training.init_from": str(trained.adapter)}
    )
    locked(second)
    with pytest.raises(ConfigError, match=r"training\.init_from: this adapter method has a state beside its weights"):
        stages.run("train", second)
