"""A base from scratch: what it refuses, what it is made of, that it is found and made again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from graft import params, stages
from graft.base import BaseConfig, load_processor, lock, locked
from graft.base.scratch import described, make
from graft.base.section import TokenizerConfig
from graft.base.vocabulary import train_tokenizer
from graft.errors import ConfigError, DataError, IntegrityError, ResourceMissing
from graft.repository import Repository
from graft.repository.worktrees import environment_of
from graft.workspace import Workspace, read_json

SMALL: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64},
    "roberta": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64},
    "gpt2": {"n_embd": 32, "n_head": 2, "n_layer": 1, "n_positions": 64},
    "llama": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64},
    "t5": {"d_model": 32, "d_kv": 16, "num_heads": 2, "num_layers": 1, "d_ff": 64},
    "bart": {
        "d_model": 32,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in
           (("layers", 1), ("attention_heads", 2), ("ffn_dim", 64))},
    },
    "vit": {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 64,
        "image_size": 28,
        "patch_size": 7,
        "num_channels": 1,
    },
}  # fmt: skip
LINES = ["送餐快，味道好。", "Ein Mädchen überquert die Straße.", "a dog runs over the grass", "ಠ_ಠ 𝄞\ttab\nline  two"]


def scratch(kind: str = "bert", **changes: Any) -> dict[str, Any]:
    """Return a base section."""
    return {
        "config": {"model_type": kind, **SMALL[kind]},
        "init": "random",
        "tokenizer": {"vocabulary": 600},
        **changes,
    }


@pytest.fixture
def place(tmp_path: Path, make_project: Callable[..., Workspace]) -> Workspace:
    """A project whose params name a BERT from scratch, not locked yet."""
    workspace = make_project(tmp_path / "project")
    shutil.rmtree(workspace.root / "base")
    workspace.sources_lock.unlink()
    described = yaml.safe_load(workspace.params.read_text())
    workspace.params.write_text(yaml.safe_dump({**described, "base": scratch()}))
    return workspace


def config_of(workspace: Workspace) -> BaseConfig:
    return params.load(workspace.params).base


# -- the section


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "needs source .* or config and `init: random`"),
        ({"config": {"model_type": "bert"}}, "say so by `init: random`"),
        ({"config": {"hidden_size": 3}, "init": "random"}, "config needs model_type"),
        ({"source": "./base", **scratch()}, "not both"),
        ({"source": "./base", "seed": 3}, "only for a base from scratch"),
        ({**scratch(), "revision": "main"}, "revision is only for Hub ids"),
        ({**scratch(), "tokenizer": {"kind": "unigram"}}, "'bpe' or 'wordpiece'"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BaseConfig.model_validate(section)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model_type": "lama"}, r"base.config.model_type: transformers has no 'lama'; did you mean `llama`"),
        (
            {"model_type": "bert", "hidden_sizes": 3},
            r"base.config.hidden_sizes: unknown key; did you mean `hidden_size",
        ),
        ({"model_type": "bert", "hidden_size": "32"}, r"base.config.hidden_size: .*expected int, got str"),
        ({"model_type": "llama", "hidden_size": 33}, r"base.config: The hidden size \(33\) is not a multiple"),
        ({"model_type": "bert", "vocab_size": 9}, r"base.config.vocab_size: the tokenizer decides it"),
        ({"model_type": "gpt2", "eos_token_id": 9}, r"base.config.eos_token_id: the tokenizer decides it"),
    ],
)
def test_what_transformers_refuses_is_named_by_its_path(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        described(BaseConfig(config=given, init="random"))


def test_a_value_that_only_the_model_refuses_is_a_message(place: Workspace) -> None:
    section = scratch(config={"model_type": "bert", **SMALL["bert"], "hidden_act": "gelus"})
    with pytest.raises(ConfigError, match=r"base.config: transformers cannot build the model: .*gelus"):
        make(place, BaseConfig.model_validate(section))
    assert not list(place.bases.iterdir())


# -- the tokenizer


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder-decoder"])
def test_no_text_has_unknown_tokens_and_all_come_back(kind: Any, family: str) -> None:
    tokenizer = train_tokenizer(TokenizerConfig(kind=kind, vocabulary=700), family, iter(LINES), 64)
    unseen = ["Ω ≈ žluťoučký кот", "她今天没有来", "##ing # 7", "".join(map(chr, range(33, 400)))]
    for text in [*LINES, *unseen]:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.model_max_length == 64


def test_special_tokens_stand_where_the_family_wants_them() -> None:
    def ids(family: str, *texts: str) -> list[str]:
        tokenizer = train_tokenizer(TokenizerConfig(vocabulary=600), family, iter(LINES), None)
        return [one for one in tokenizer.convert_ids_to_tokens(tokenizer(*texts)["input_ids"]) if one[0] in "<["]

    assert ids("encoder", "a", "b") == ["[CLS]", "[SEP]", "[SEP]"]
    assert ids("encoder-decoder", "a") == ["</s>"]
    assert ids("decoder", "a") == ["<s>"]


def test_only_a_decoder_gets_a_chat_template_unless_one_is_given() -> None:
    def made(family: str, **keys: Any) -> Any:
        return train_tokenizer(TokenizerConfig(vocabulary=600, **keys), family, iter(LINES), None)

    turns = [{"role": "user", "content": "a dog"}, {"role": "assistant", "content": "runs"}]
    chat = made("decoder")
    assert chat.apply_chat_template(turns, tokenize=False) == "<s><|user|>a dog<|assistant|>runs</s>"
    found = chat.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    said = [one for one, mask in zip(found["input_ids"], found["assistant_masks"], strict=True) if mask]
    assert chat.decode(said) == "runs</s>"
    assert made("encoder").chat_template is None
    assert made("decoder", chat_template="").chat_template is None
    assert made("encoder-decoder", chat_template="{{ messages }}").chat_template == "{{ messages }}"


def test_a_vocabulary_without_place_for_the_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"wordpiece needs 517 tokens .*\(got 400\)"):
        train_tokenizer(TokenizerConfig(kind="wordpiece", vocabulary=400), "encoder", iter(LINES), None)
    with pytest.raises(ConfigError, match="no text to train it on"):
        train_tokenizer(TokenizerConfig(), "encoder", iter([]), None)


# -- the folder


@pytest.mark.parametrize("kind", SMALL)
def test_every_kind_of_model_is_made_and_loads(place: Workspace, kind: str) -> None:
    import torch
    from transformers import AutoModel

    config = BaseConfig.model_validate(scratch(kind))
    found = lock(place, config)
    folder = found.folder(place.root)
    assert folder.parent == place.bases
    assert found.kind == "scratch"
    assert locked(place, config) == found
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    described = read_json(folder / "config.json")
    if kind == "vit":
        wanted = {"size": {"height": 28, "width": 28}, "image_mean": [0.5], "image_std": [0.5]}
        assert wanted.items() <= read_json(folder / "preprocessor_config.json").items()
        processor = load_processor("image", folder)
        assert (processor.channels, processor.patches, processor.image_std) == (1, 17, (0.5,))
        return
    from graft.base import load_tokenizer

    tokenizer = load_tokenizer(folder)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == described["vocab_size"] <= 600
    assert described["pad_token_id"] == tokenizer.pad_token_id
    assert described.get("eos_token_id") == tokenizer.eos_token_id
    if kind in ("t5", "bart"):
        assert described["decoder_start_token_id"] == tokenizer.pad_token_id
        given = {"decoder_input_ids": torch.tensor([[0]])}
    else:
        given = {}
    assert torch.isfinite(model(**tokenizer("the dog", return_tensors="pt"), **given)[0]).all()


@pytest.mark.slow
def test_equal_settings_give_equal_bytes_in_another_process(place: Workspace) -> None:
    """WordPiece's own trainer would not."""
    section = scratch(tokenizer={"kind": "wordpiece", "vocabulary": 700})
    described = yaml.safe_load(place.params.read_text())
    place.params.write_text(yaml.safe_dump({**described, "base": section}))
    here = lock(place, config_of(place))
    shutil.rmtree(place.bases)
    code = (
        "import sys; from pathlib import Path; from graft import params; from graft.base import lock; "
        "from graft.workspace import Workspace; w = Workspace(Path(sys.argv[1])); "
        "print(lock(w, params.load(w.params).base).digest)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(place.root)], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == here.digest


def test_seed_and_data_decide_the_bytes(place: Workspace) -> None:
    first = lock(place, config_of(place))
    other = lock(place, config_of(place).model_copy(update={"seed": 1}))
    assert first.tokenizer == other.tokenizer
    assert first.files["model.safetensors"] != other.files["model.safetensors"]
    part = place.data / "train" / "part-0000.jsonl"
    part.write_text(json.dumps({"text": "quite other words " * 40, "label": "weather"}) + "\n" + part.read_text())
    assert lock(place, config_of(place)).tokenizer != first.tokenizer


def test_labels_and_other_splits_are_not_read(place: Workspace) -> None:
    before = lock(place, config_of(place))
    for split, old, new in (("train", '"label": "weather"', '"label": "cooking"'), ("test", "cat", "elephant")):
        part = place.data / split / "part-0000.jsonl"
        part.write_text(part.read_text().replace(old, new))
    assert lock(place, config_of(place)).digest == before.digest


def test_a_row_that_cannot_be_read_is_named(place: Workspace) -> None:
    (place.data / "train" / "part-0000.jsonl").write_text('{"text": 7, "label": "weather"}\n')
    with pytest.raises(DataError, match=r"data/train/part-0000.jsonl:1: text"):
        lock(place, config_of(place))


def test_other_settings_ask_for_a_new_lock(place: Workspace) -> None:
    config = config_of(place)
    lock(place, config)
    with pytest.raises(ConfigError, match=r"describes another base from scratch .*run `graft lock`"):
        locked(place, config.model_copy(update={"seed": 1}))
    (place.root / "base").mkdir()
    with pytest.raises(ConfigError, match=r"base.source: params.yaml has './base', sources.lock pins 'scratch:bert'"):
        locked(place, BaseConfig(source="./base"))


def test_a_missing_base_is_made_again_from_the_data(place: Workspace) -> None:
    found = lock(place, config_of(place))
    shutil.rmtree(place.bases)
    folder = found.folder(place.root)
    assert folder.is_dir()
    assert folder == found.folder(place.root)


def test_a_missing_base_without_data_says_what_to_do(place: Workspace, tmp_path: Path) -> None:
    found = lock(place, config_of(place))
    shutil.move(place.bases, tmp_path / "elsewhere")
    shutil.rmtree(place.data)
    with pytest.raises(ResourceMissing, match=r"'scratch:bert' is not here; .*dvc pull data.dvc.*GRAFT_BASES"):
        found.folder(place.root)
    os.environ["GRAFT_BASES"] = str(tmp_path / "elsewhere")
    assert found.folder(place.root).parent == tmp_path / "elsewhere"


def test_a_clean_clone_finds_the_base_by_its_digest(place: Workspace, tmp_path: Path) -> None:
    """As `graft reproduce` and runs in worktrees do: other folders, another home."""
    found, bases = lock(place, config_of(place)), place.bases
    clone = tmp_path / "clone"
    shutil.copytree(place.root, clone, ignore=shutil.ignore_patterns("bases", "data"))
    with environment_of(place, home=clone):
        assert found.folder(clone).parent == bases


def test_a_worker_without_data_pulls_it_and_makes_the_base(place: Workspace, tmp_path: Path) -> None:
    from dvc.repo import Repo

    from pipelines.stage import get_data_of_base

    os.environ.update({f"DVC_{name}_DIR": str(tmp_path / name) for name in ("GLOBAL_CONFIG", "SITE_CACHE")})
    found = lock(place, config_of(place))
    subprocess.run(["git", "init", "-q"], cwd=place.root, check=True)
    Repo.init(str(place.root)).close()
    (place.root / ".dvc" / "config").write_text(
        f"[core]\n    remote = shared\n['remote \"shared\"']\n    url = {tmp_path}/r\n"
    )
    (place.root / "dvc.yaml").write_text("stages: {}\n")
    repository = Repository(place)
    repository.add_data()
    repository.push()
    shutil.rmtree(place.data)
    get_data_of_base(repository)
    assert not place.data.exists()  # the base is here
    shutil.rmtree(place.bases)
    get_data_of_base(repository)
    assert found.folder(place.root).is_dir()


def test_a_base_made_again_from_other_data_is_refused(place: Workspace) -> None:
    found = lock(place, config_of(place))
    shutil.rmtree(place.bases)
    part = place.data / "train" / "part-0000.jsonl"
    part.write_text(json.dumps({"text": "quite other words " * 40, "label": "weather"}) + "\n" + part.read_text())
    with pytest.raises(IntegrityError, match=r"made again, is not what sources.lock pins: .*tokenizer.json.*differ"):
        found.folder(place.root)


def test_a_damaged_base_is_made_again(place: Workspace) -> None:
    found = lock(place, config_of(place))
    weights = found.folder(place.root) / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert (found.folder(place.root) / "model.safetensors").read_bytes() == good


@pytest.mark.slow
def test_the_chain_trains_on_it_and_proves_the_reload(place: Workspace) -> None:
    lock(place, config_of(place))
    for name in ("validate", "tokenize", "train", "register"):
        stages.run(name, place)
    identity = read_json(place.adapter / "identity.json")
    assert (identity["base"]["kind"], identity["base"]["source"]) == ("scratch", "scratch:bert")
    assert read_json(place.package / "proof.json")["passed"]
    shutil.rmtree(place.bases)  # the adapter finds its base by making it again
    from graft.artifact import load, predict

    assert predict(load(place.adapter, place.root), [{"text": "the cat barks"}])[0]["label"]
