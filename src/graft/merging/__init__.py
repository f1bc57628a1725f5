"""Base and adapter as one plain transformers model, and the proof that nothing was lost on the way.

A merged folder needs neither PEFT nor Graft, and can be the base of the next adapter; the price is the size of the base
and that the adapter can no longer be taken off. PEFT merges in the weights' own type, so everything is made float32
first: a bfloat16 base keeps its rounded values and is written as float32. The proof is a process that knows nothing
of Graft: it loads the folder with transformers and must give the logits that base and adapter gave on the probe rows.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.artifact import PROBE, LoadedAdapter, load, reproducible, verified
from graft.base.contents import CHAT_TEMPLATE_FILES, CONFIG_FILES, TOKENIZER_FILES, fingerprint
from graft.errors import ConfigError, IntegrityError
from graft.identity import digest_folder
from graft.merging.card import card
from graft.tasks import family_of, quiet
from graft.workspace import TEMPORARY, make_readable, write_text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TOLERANCE = 1e-4
"""The largest difference of a logit, as a share of the largest logit (at least 1)."""
WRITTEN_ANEW = frozenset({"config.json", "generation_config.json"})
PROOF = Path(__file__).with_name("proof.py")


@dataclass(frozen=True)
class Merged:
    """A merged model and its proof."""

    folder: Path
    digest: str
    """Of the files, as ``sources.lock`` would pin them."""
    architecture: str
    parameters: int
    rows: int
    """Probe rows that were compared."""
    difference: float
    """The largest difference of a logit."""
    largest: float
    """The largest logit."""
    allowed: float
    notes: tuple[str, ...]


def merge(
    adapter: Path,
    project_root: Path,
    out: Path,
    *,
    tolerance: float = TOLERANCE,
    version: str | None = None,
    trust_remote_code: bool = False,
) -> Merged:
    """Write the base with the adapter in ``adapter`` to the new folder ``out`` and prove it.

    ``version`` is the model version's address, for the card.

    Raises:
        ConfigError: it cannot be merged (the reason is given), or ``out`` is there already.
        IntegrityError: the merged model gives other logits, or cannot be loaded; nothing is left at ``out`` then.
    """
    import torch

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: is there already and stays as it is; choose a new folder")
    identity = verified(adapter)
    _refuse(identity, trust_remote_code)
    out.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=TEMPORARY, dir=out.parent))
    try:
        new.chmod(0o755)
        with reproducible(int(identity["threads"])), torch.inference_mode():
            loaded = load(adapter, project_root)
            _refuse_head(loaded)
            inputs, logits = _expected(loaded, adapter)
            model = _merged(loaded)
            _write(new, model, loaded, project_root)
        found = _proved(new, type(model).__name__, inputs, logits, tolerance)
        merged = _result(out, new, loaded, found)
        write_text(new / "README.md", card(merged, identity, digest_folder(adapter), version))
        make_readable(new)
        if out.exists():
            out.rmdir()
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return merged


def _refuse(identity: Mapping[str, Any], trust_remote_code: bool) -> None:
    """Refuse what is known beforehand to have no plain form.

    Raises:
        ConfigError: with the reason.
    """
    from graft.adapters import register

    register()
    base, task = identity["base"], identity["task"]["config"]
    if base.get("quantization"):
        raise ConfigError(
            "base.quantization: merging would round the adapter to the base's few bits; train on the base without "
            "quantization, or keep base and adapter apart"
        )
    if trust_remote_code:
        raise ConfigError("base.trust_remote_code: the base's code would have to travel with it; keep them apart")
    if task.get("pooling") == "mean":
        raise ConfigError(
            "task.pooling: mean is a head that plain transformers does not have; use `model` and train again, or keep "
            "base and adapter apart"
        )
    if task.get("pair") == "bi":
        raise ConfigError(
            "task.pair: bi compares two texts by a head that plain transformers does not have; use `cross` and train "
            "again, or keep base and adapter apart"
        )
    if _learns_a_prompt(identity["adapter"]["config"]):
        method = identity["adapter"]["method"]
        raise ConfigError(f"adapter.method: {method} puts learnt vectors before the input; no weight can hold them")


def _refuse_head(loaded: LoadedAdapter) -> None:
    """Refuse an encoder's head on the last token: plain transformers reads the first one.

    Raises:
        ConfigError: with what to use in its place.
    """
    if getattr(loaded.config, "pooling", "") == "last" and family_of(loaded.model.config) == "encoder":
        raise ConfigError(
            "task.pooling: last is a head that plain transformers does not have for an encoder; use `model` and train "
            "again, or keep base and adapter apart"
        )


def _learns_a_prompt(config: Mapping[str, Any]) -> bool:
    from peft import PeftConfig

    return bool(PeftConfig.from_peft_type(**{**config, "base_model_name_or_path": None}).is_prompt_learning)


def _expected(loaded: LoadedAdapter, adapter: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return what the model reads of the probe rows, and the logits that base and adapter give, in float32."""
    from safetensors.torch import load_file

    loaded.model.float()
    model = loaded.model.get_base_model()
    known = set(inspect.signature(type(model).forward).parameters)
    # A sequence-to-sequence model makes the decoder's input of the labels; for others they only give a loss.
    unread = set() if model.config.is_encoder_decoder else {"labels"}
    inputs = {name: value for name, value in load_file(adapter / PROBE).items() if name in known - unread}
    return inputs, logits_of(model(**inputs))


def logits_of(outputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the scores that a model gives: ``logits``, or ``start_logits`` and ``end_logits``."""
    return {name: value.contiguous() for name, value in outputs.items() if name.endswith("logits")}


def _merged(loaded: LoadedAdapter) -> PreTrainedModel:
    """Return the base with everything that was trained in its own weights.

    Raises:
        ConfigError: PEFT cannot merge the method.
    """
    method = loaded.identity["adapter"]["method"]
    merge_weights = getattr(loaded.model, "merge_and_unload", None)
    try:
        if merge_weights is None:
            raise ValueError("PEFT has no way to merge it")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: PreTrainedModel = merge_weights(safe_merge=True)
            _unwrap(model)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ConfigError(
            f"adapter.method: {method} cannot become weights of the base ({text}); keep base and adapter apart"
        ) from None
    if not type(model).__module__.startswith("transformers."):
        raise ConfigError(
            f"base: {type(model).__name__} is no model of transformers itself; keep base and adapter apart"
        )
    return model


def _unwrap(model: PreTrainedModel) -> None:
    """Put each module that was trained as a copy in its place, where PEFT's merge left it wrapped (LN tuning)."""
    from peft.utils.other import ModulesToSaveWrapper

    left = [(name, part) for name, part in model.named_modules() if isinstance(part, ModulesToSaveWrapper)]
    for name, part in left:
        model.set_submodule(name, part.modules_to_save["default"])


def _write(folder: Path, model: PreTrainedModel, loaded: LoadedAdapter, project_root: Path) -> None:
    """Save the model; what turns rows into its inputs is copied, byte by byte.

    A decoder that classifies finds a row's last token by its padding token: transformers refuses batches without one.
    """
    if type(model).__name__.endswith("SequenceClassification") and model.config.pad_token_id is None:
        model.config.pad_token_id = loaded.pad_token_id
    with quiet():
        model.save_pretrained(folder)
    source = loaded.base.folder(project_root)
    for pattern in (*TOKENIZER_FILES, *CHAT_TEMPLATE_FILES, *CONFIG_FILES):
        for path in source.glob(pattern):
            target = folder / path.relative_to(source)
            if path.name not in WRITTEN_ANEW and path.suffix != ".py":
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)


def _proved(
    folder: Path,
    architecture: str,
    inputs: Mapping[str, torch.Tensor],
    logits: Mapping[str, torch.Tensor],
    tolerance: float,
) -> dict[str, Any]:
    """Let a new process compare; return the largest difference, the largest logit, what is allowed, and the rows.

    Raises:
        IntegrityError: they differ by more, or the folder cannot be loaded.
    """
    from safetensors.torch import save_file

    tensors = {f"input.{name}": value.contiguous() for name, value in inputs.items()}
    tensors |= {f"expected.{name}": value for name, value in logits.items()}
    with tempfile.TemporaryDirectory(prefix="graft-merge-") as place:
        probe = Path(place) / "probe.safetensors"
        save_file(tensors, probe)
        command = [sys.executable, "-I", str(PROOF), str(folder), architecture, str(probe)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise IntegrityError(f"merge: plain transformers cannot load the merged model: {last}; nothing was written")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    allowed = tolerance * max(1.0, found["largest"])
    if not found["difference"] <= allowed:  # also where it is NaN
        raise IntegrityError(
            f"merge: the merged model's logits differ by {found['difference']:.2e} from those of base and adapter on "
            f"{found['rows']} rows (allowed {allowed:.2e}); nothing was written"
        )
    return {**found, "allowed": allowed}


def _result(out: Path, new: Path, loaded: LoadedAdapter, found: Mapping[str, Any]) -> Merged:
    notes = []
    if loaded.identity["base"]["dtype"] == "bfloat16":
        notes.append("float32; the base's weights have the bfloat16 values that the adapter was trained on")
    changed = len(loaded.identity["adapter"].get("unfrozen", []))
    if changed:
        notes.append(f"with {changed} tensors of the base that were trained beside the adapter")
    seen = fingerprint(new, str(out))
    return Merged(
        folder=out,
        digest=seen.digest,
        architecture=found["architecture"],
        parameters=seen.parameters,
        rows=found["rows"],
        difference=found["difference"],
        largest=found["largest"],
        allowed=found["allowed"],
        notes=tuple(notes),
    )
