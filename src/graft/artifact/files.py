"""The adapter's folder: PEFT's layout with equal bytes for equal content, and ``identity.json`` over it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.artifact.base_weights import BASE_WEIGHTS, save_base_weights
from graft.artifact.planning import FORMAT
from graft.errors import IntegrityError, shown
from graft.identity import digest_file, digest_json
from graft.workspace import write_json

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
PROBE = "probe.safetensors"
IDENTITY = "identity.json"
REQUIRED = ("task", "base", "adapter", "clean", "columns", "max_length_tokens", "data", "seed", "threads", "files")


def save(
    model: PeftModel,
    folder: Path,
    identity: Mapping[str, Any],
    probe: Mapping[str, torch.Tensor],
    new_modules: list[str],
) -> dict[str, Any]:
    """Write the adapter of ``model``, the ``probe`` and the completed identity to ``folder``; return the identity.

    Weights of the base that were trained too go to a file of their own (``base_weights.py``).
    """
    from safetensors.torch import save_file

    weights = {name: value.detach().cpu().contiguous().clone() for name, value in adapter_state(model).items()}
    config = {
        **plain_config(model.peft_config[model.active_adapter]),
        "base_model_name_or_path": identity["base"]["source"],
        "revision": identity["base"]["revision"] if identity["base"]["kind"] == "hub" else None,
        "inference_mode": True,
    }
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    write_json(folder / ADAPTER_CONFIG, config)
    save_file({name: value.cpu().contiguous() for name, value in probe.items()}, folder / PROBE)
    adapter = {"method": config["peft_type"].lower(), "config": config, "new_modules": sorted(new_modules)}
    names, written = save_base_weights(model, folder), [ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBE]
    if names:
        adapter["unfrozen"] = names
        written.append(BASE_WEIGHTS)
    complete = {**identity, "adapter": adapter, "files": {name: digest_file(folder / name) for name in written}}
    write_json(folder / IDENTITY, complete)
    return complete


def adapter_state(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors by the names that PEFT gives them in a file."""
    from peft import get_peft_model_state_dict

    # The default asks the Hub whether the vocabulary was resized; embeddings of the base are never trained here.
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return dict(sorted(state.items()))


def plain_config(config: PeftConfig) -> dict[str, Any]:
    """Return a PEFT configuration as JSON values with a fixed order (PEFT itself writes sets in any order)."""
    return {str(name): _plain(value) for name, value in config.to_dict().items() if name != "runtime_config"}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=str)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def verified(folder: Path) -> dict[str, Any]:
    """Return the identity of the adapter in ``folder`` after checking the files that it names.

    Raises:
        IntegrityError: no identity, one of another format, or a file that differs from it.
    """
    identity = _read(folder / IDENTITY)
    if identity.get("format") != FORMAT:
        raise IntegrityError(
            f"{folder}/{IDENTITY}: format {shown(identity.get('format'))}, this Graft reads {FORMAT}; train again, or "
            f"use the version of Graft that wrote it"
        )
    missing = [name for name in REQUIRED if name not in identity]
    if missing or not {ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBE} <= set(identity.get("files", ())):
        raise IntegrityError(f"{folder}/{IDENTITY}: incomplete ({', '.join(missing) or 'files'} missing); train again")
    wrong = [name for name, digest in identity["files"].items() if _digest(folder / name) != digest]
    if wrong:
        raise IntegrityError(
            f"{folder}: {', '.join(wrong)} differ from {IDENTITY}, or are missing; restore the folder (`dvc checkout "
            f"--force`, or download it again), or train again"
        )
    if identity["base"]["digest"] != digest_json(identity["base"]["files"]):
        raise IntegrityError(f"{folder}/{IDENTITY}: the base's digest is not that of its files; train again")
    if _read(folder / ADAPTER_CONFIG) != identity["adapter"]["config"]:
        raise IntegrityError(f"{folder}: {ADAPTER_CONFIG} is not the configuration in {IDENTITY}; train again")
    return identity


def _digest(path: Path) -> str | None:
    return digest_file(path) if path.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IntegrityError(f"{path}: no such file: the folder holds no adapter that Graft wrote") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise IntegrityError(f"{path}: not valid JSON ({error}); restore the file, or train again") from None
    if not isinstance(found, dict):
        raise IntegrityError(f"{path}: must be a JSON object; restore the file, or train again")
    return found
