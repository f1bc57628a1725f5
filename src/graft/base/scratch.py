"""A base from nothing: random weights by transformers' own configuration, a tokenizer from the project's training rows.

``graft lock`` makes the folder below the clone's ``bases/`` (outside git) and pins it like any other base. The same
settings, rows and library versions give the same bytes, so whoever has the data can make it again; what comes out is
compared with ``sources.lock``, and other bytes are refused.
"""

from __future__ import annotations

import contextlib
import difflib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from graft import tasks
from graft.base.contents import fingerprint, positions_of
from graft.base.section import BaseConfig
from graft.base.vocabulary import train_tokenizer
from graft.cleaning import Cleaning
from graft.config import read_yaml
from graft.data import DataConfig, Record, parts, read_part
from graft.errors import ConfigError, DataError, shown
from graft.tasks import TaskConfig
from graft.workspace import TEMPORARY, Workspace, make_readable, write_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

FILLED_IN = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")
"""Special tokens whose ids a configuration may hold."""
OF_SEQUENCES = {"decoder_start_token_id": "pad", "forced_eos_token_id": "eos"}
"""What a decoder starts from (as T5 does), and what BART ends with."""
IMAGE_DEFAULT = 224
AUTO_CLASSES = {"decoder": "AutoModelForCausalLM", "encoder-decoder": "AutoModelForSeq2SeqLM"}
"""Family -> the class whose head belongs to the base; others are saved without a head."""


def make(workspace: Workspace, config: BaseConfig) -> Path:
    """Make the base that ``config`` describes; return its folder, named by its digest.

    Raises:
        ConfigError: transformers refuses the configuration, or there is no text for a tokenizer.
        DataError: a training row cannot be read.
    """
    place = workspace.bases
    place.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".scratch-", suffix=TEMPORARY, dir=place))
    try:
        new.chmod(0o755)
        _write(new, workspace, config)
        make_readable(new)
        digest = fingerprint(new, config.name).digest
        folder = place / f"{config.name.removeprefix('scratch:')}-{digest[:16]}"
        if folder.exists() and _digest(folder, config) != digest:
            shutil.rmtree(folder)
        # Another process may make the same bytes at the same time: either folder will do.
        with contextlib.suppress(OSError):
            new.rename(folder)
        return folder
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _digest(folder: Path, config: BaseConfig) -> str | None:
    """Return the digest of a base that is there; None where it is damaged beyond that."""
    try:
        return fingerprint(folder, config.name).digest
    except ConfigError:
        return None


def made_again(root: Path, recipe: str) -> Path | None:
    """Make the base of the project at ``root`` again; None where its params describe another one, or data is missing.

    Raises:
        GraftError: as :func:`make`.
    """
    workspace = Workspace(root)
    if not workspace.params.is_file():
        return None
    section = read_yaml(workspace.params)[0].get("base")
    try:
        config = BaseConfig.model_validate(section)
    except ValidationError:
        return None
    if config.recipe != recipe or (_reads_text(config) and not workspace.data.is_dir()):
        return None
    print(f"base: {config.name} is not here; it is made again from params.yaml and data/", flush=True)
    return make(workspace, config)


def places(root: Path) -> Iterator[Path]:
    """Yield the folders of bases from scratch that the clone or the project at ``root`` has."""
    for place in dict.fromkeys((Workspace(root).bases, root / "bases")):
        yield from (path.parent for path in sorted(place.glob("*/config.json")))


def described(config: BaseConfig) -> PretrainedConfig:
    """Return transformers' configuration object of ``config``, checked by its own class and by making the model.

    Raises:
        ConfigError: an unknown model type or key, or a value that transformers refuses; each by its dotted path.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    given = dict(config.config or {})
    kind = str(given.pop("model_type"))
    if kind not in CONFIG_MAPPING_NAMES:
        near = difflib.get_close_matches(kind, CONFIG_MAPPING_NAMES, n=1)
        advice = f"did you mean `{near[0]}`?" if near else "bert, gpt2, llama, t5 and vit are usual ones"
        raise ConfigError(f"base.config.model_type: transformers has no {shown(kind)}; {advice}")
    plain = AutoConfig.for_model(kind)
    problems = list(_unknown_keys(given, plain, kind))
    if problems:
        raise ConfigError.from_problems("base.config: not a configuration of that model", problems)
    try:
        return AutoConfig.for_model(kind, **given)
    except (StrictDataclassError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(_refusal(error)) from None


def _unknown_keys(given: dict[str, Any], plain: PretrainedConfig, kind: str) -> Iterator[str]:
    """Yield the keys that the class does not have: it would keep them without a word, and use its defaults."""
    known = {*plain.to_dict(), *plain.attribute_map}
    for name in given:
        if name == "vocab_size" or name.endswith("_token_id"):
            yield f"base.config.{name}: the tokenizer decides it; leave it out (base.tokenizer.vocabulary is the size)"
        elif name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            advice = f"did you mean `{near[0]}`?" if near else f"transformers documents the keys of `{kind}`"
            yield f"base.config.{name}: unknown key; {advice}"


def _refusal(error: Exception) -> str:
    """Return transformers' refusal of a value, with the dotted path where it names the field."""
    text = " ".join(str(error).split())
    _, field, rest = text.partition("Validation error for field '")
    if field:
        name, _, why = rest.partition("':")
        return f"base.config.{name}: {why.strip().removeprefix('TypeError: ').removeprefix('ValueError: ')}"
    return f"base.config: {text.partition('ValueError: ')[2] or text}"


def _reads_text(config: BaseConfig) -> bool:
    return tasks.family_of(described(config)) != "vision"


def _write(folder: Path, workspace: Workspace, config: BaseConfig) -> None:
    """Write the model and what turns rows into its inputs."""
    model_config = described(config)
    family = tasks.family_of(model_config)
    if family == "vision":
        _write_preprocessor(folder, config, model_config)
    else:
        positions = positions_of(model_config.to_dict())
        tokenizer = train_tokenizer(config.tokenizer, family, _texts(workspace), positions)
        tokenizer.save_pretrained(folder)
        _fill_in(model_config, tokenizer)
    _write_model(folder, config, model_config, AUTO_CLASSES.get(family, "AutoModel"))


def _fill_in(model_config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    """Set the size of the vocabulary and the ids of special tokens; an id that the tokenizer lacks becomes None."""
    model_config.vocab_size = len(tokenizer)
    for name in FILLED_IN:
        if hasattr(model_config, f"{name}_token_id"):
            setattr(model_config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    if model_config.is_encoder_decoder:
        for name, token in OF_SEQUENCES.items():
            if name == "decoder_start_token_id" or getattr(model_config, name, None) is not None:
                setattr(model_config, name, getattr(tokenizer, f"{token}_token_id"))


def _write_model(folder: Path, config: BaseConfig, model_config: PretrainedConfig, auto_class: str) -> None:
    """Draw the weights from the seed and save them.

    Raises:
        ConfigError: transformers cannot build the model (an activation that it does not have, sizes that do not fit).
    """
    import torch
    import transformers

    with torch.random.fork_rng(devices=[]), tasks.quiet():
        torch.manual_seed(config.seed)
        try:
            model = getattr(transformers, auto_class).from_config(model_config, dtype=torch.float32)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
            text = " ".join(str(error).split())[:300]
            raise ConfigError(f"base.config: transformers cannot build the model: {text}; correct the keys") from None
        model.save_pretrained(folder)


def _write_preprocessor(folder: Path, config: BaseConfig, model_config: PretrainedConfig) -> None:
    """Write ``preprocessor_config.json``: resize to the model's size, scale to 0..1, then mean and deviation."""
    size = getattr(model_config, "image_size", IMAGE_DEFAULT)
    height, width = (size, size) if isinstance(size, int) else size
    channels = int(getattr(model_config, "num_channels", 3))
    facts = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [config.image.image_mean] * channels,
        "image_std": [config.image.image_std] * channels,
        "do_convert_rgb": channels == 3,
    }
    write_json(folder / "preprocessor_config.json", facts)


# -- texts


def _texts(workspace: Workspace) -> Iterator[str]:
    """Yield the texts of the training rows, cleaned, in their order: what the tokenizer is trained on.

    Raises:
        DataError: with every row that cannot be read.
    """
    task, data = _sections(workspace)
    fields = tasks.get(task.name).fields_of(task)
    textual = [one.name for one in fields if one.text]
    cleaning, problems = Cleaning(data.clean, data.privacy), list[str]()
    for path in parts(workspace.data)["train"]:
        for found in read_part(path, workspace.root, fields, data, cleaning):
            if isinstance(found, Record):
                for name in textual:
                    yield from _texts_in(found.row.get(name))
            else:
                problems.append(str(found))
    if problems:
        raise DataError.from_problems("base.tokenizer: training rows that cannot be read", problems)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts_in(value.get("content"))
    elif isinstance(value, list):
        for one in value:
            yield from _texts_in(one)


def _sections(workspace: Workspace) -> tuple[TaskConfig, DataConfig]:
    """Return the project's task and data sections, which decide what its texts are."""
    raw = read_yaml(workspace.params)[0]
    name = (raw.get("task") or {}).get("name")
    try:
        task = tasks.config_class(str(name)).model_validate(raw.get("task"))
        return task, DataConfig.model_validate(raw.get("data") or {})
    except ValidationError as error:
        raise ConfigError(f"params.yaml: {error}; `graft check` says more") from None
