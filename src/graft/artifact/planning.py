"""What a training will be made of, known before torch is imported: the key under which its result is found again."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from graft.adapters import AdapterConfig, refuse_length
from graft.artifact.starts import pinned
from graft.base import BaseConfig, LockedBase, locked, quantization
from graft.config import Section
from graft.errors import ConfigError
from graft.identity import code_digest, code_environment, digest_json
from graft.reading import file_of, order_of
from graft.tasks import TaskConfig
from graft.workspace import Workspace, read_json

FORMAT = 1
NO_BYTES = ("device", "repeats")
"""Settings of the training that are no part of the result: the device is in the identity by itself, and trainings with
other seeds are adapters of their own."""
LUCK = ("seed", "threads", "processes", "sharding")
"""Settings of the training that decide bytes, and how good the adapter is by luck alone."""
RECIPE = ("recipe", "data", "base", "code", "environment", "versions")
"""What is equal in the identities of adapters that differ by luck alone."""
LIBRARIES = ("torch", "transformers", "peft", "safetensors")


def planned_identity(
    workspace: Workspace, task: TaskConfig, base: BaseConfig, adapter: AdapterConfig, training: Section
) -> dict[str, Any]:
    """Return the identity that a training with these sections will have, as far as it is known before.

    ``identity.run_key`` of it is the run key. Still open: the adapter's resolved configuration, its files, the device.

    Raises:
        ConfigError: no token tables yet, no ``sources.lock``, the tables were made for another task or base, or their
            rows leave no positions for the method's own prompt.
    """
    manifest = read_json(workspace.tokens / "manifest.json")
    held = locked(workspace, base)
    if manifest["base"] != held.digest or manifest["tokenizer"] != held.tokenizer:
        raise ConfigError(
            "artifacts/tokens: made with another base or tokenizer than sources.lock pins; run `graft stage tokenize`"
        )
    refuse_length(adapter, manifest["max_length_tokens"], held.positions)
    settings = training.model_dump(mode="json")
    start = pinned(workspace, settings["init_from"])
    if start is not None:  # by content: who is champion by now is no part of what was trained
        settings["init_from"] = start.digest
    cleaning = {name: manifest[name] for name in ("clean", "privacy") if name in manifest}
    made_by = {
        "task": task.model_dump(mode="json"),
        "base": base.model_dump(mode="json"),
        "adapter": adapter.model_dump(mode="json"),
        "training": {name: value for name, value in settings.items() if name not in NO_BYTES},
        **cleaning,
        "max_length_tokens": manifest["max_length_tokens"],
        **({"quarantined": _numbered(manifest)} if manifest["quarantined"] else {}),
    }
    recipe = {**made_by, "training": {name: one for name, one in made_by["training"].items() if name not in LUCK}}
    return {
        "format": FORMAT,
        "task": {"name": task.name, "config": made_by["task"], "state": manifest["state"]},
        "base": base_identity(held, base),
        **cleaning,
        "columns": manifest["columns"],
        "max_length_tokens": manifest["max_length_tokens"],
        "data": manifest["data"],
        "test": manifest["splits"]["test"]["digest"],
        "params": digest_json(made_by),
        "recipe": digest_json(recipe),
        "code": code_digest("graft.training", task.name),
        "environment": code_environment(),
        **({"init": start.digest} if start is not None else {}),
        "seed": settings["seed"],
        "threads": settings["threads"],
        "versions": {
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            **{name: metadata.version(name) for name in (*LIBRARIES, *_quantizing(base))},
        },
    }


def _numbered(manifest: Mapping[str, Any]) -> list[list[Any]]:
    """Return the rows in quarantine by split, number of the part, line and column: a part's name decides nothing."""
    numbers = {
        file: [split, number] for split, one in manifest["splits"].items() for number, file in enumerate(one["files"])
    }
    return sorted([*numbers[file_of(place)], *order_of(place)] for place in manifest["quarantined"])


def same_recipe(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two adapters were trained alike but for the seed (or the number of threads), by their identities.

    Adapters from before recipes were recorded are of unlike recipes.
    """
    return "recipe" in one and all(one.get(name) == other.get(name) for name in RECIPE)


def _quantizing(base: BaseConfig) -> tuple[str, ...]:
    """Return the library that keeps the base in few bits, where one does.

    Raises:
        ResourceMissing: it is not installed.
    """
    quantization.arguments(base.quantization, "cpu")
    return (quantization.LIBRARY,) if base.quantization else ()


def base_identity(pinned: LockedBase, config: BaseConfig) -> dict[str, Any]:
    """Return the base's part of an identity: what it is by content, and where it was found."""
    return {
        "source": pinned.source,
        "kind": pinned.kind,
        "revision": pinned.revision,
        "digest": pinned.digest,
        "files": dict(pinned.files),
        "model_type": pinned.model_type,
        "parameters": pinned.parameters,
        "positions": pinned.positions,
        "tokenizer": pinned.tokenizer,
        "chat_template": pinned.chat_template,
        "dtype": config.dtype,
        **({"quantization": config.quantization} if config.quantization else {}),
    }


def base_of(identity: dict[str, Any]) -> LockedBase:
    """Return the base that an identity names, in the form that finds and verifies its folder."""
    known = {name: value for name, value in identity["base"].items() if name not in ("dtype", "quantization")}
    return LockedBase(**known, requested=known["revision"])
