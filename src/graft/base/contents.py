"""What a model folder holds: the files that transformers reads, their sha256, and what config.json says.

Only safetensors weights are taken: a pickle file can run code when it is read. Files that transformers does not read
(ONNX or OpenVINO copies, a README) are left out, so that they can change without a new base.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.errors import ConfigError, shown
from graft.identity import digest_file, digest_json
from graft.workspace import Workspace, read_json, write_json

REMEMBERED_BYTES = 256 << 20
"""Files from this size on are not hashed again while their size and time stamps stay."""
SETTLED_SECONDS = 2.0
"""A file changed more recently could change again within one tick of its time stamp: it is not remembered."""
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
CONFIG_FILES = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "*.py")
VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken")
"""Without one of these transformers builds an empty tokenizer and says nothing."""
TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
)
CHAT_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "mpnet"})
"""Model types whose positions start after the padding id: so many fewer tokens fit."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a base is, by content."""

    digest: str
    """sha256 over ``files``: the base's name by content."""
    files: Mapping[str, str]
    """Path in the folder -> sha256, of all files that transformers reads."""
    model_type: str
    """transformers' name of the architecture (``bert``)."""
    tokenizer: str
    """sha256 over the tokenizer's files."""
    chat_template: str | None
    """sha256 over the chat templates; null without one."""
    parameters: int
    """How many weights the files hold."""
    positions: int | None
    """The longest input in tokens; null where the model sets no limit."""


def fingerprint(folder: Path, source: str, *, trust_remote_code: bool = False) -> Fingerprint:
    """Read and hash the model in ``folder``; ``source`` is its name in messages.

    Raises:
        ConfigError: it is no base model that can be loaded from safetensors.
    """
    described = _config_of(folder, source, trust_remote_code)
    weights = _weight_files(folder)
    parameters = sum(_parameters(path) for path in weights)
    if not _matching(folder, VOCABULARY_FILES) and not (folder / "preprocessor_config.json").is_file():
        raise ConfigError(f"base.source: {shown(source)} has no tokenizer; save it beside the model (tokenizer.json)")
    tokenizer = _digests(folder, _matching(folder, TOKENIZER_FILES))
    others = [*_matching(folder, CONFIG_FILES), *_matching(folder, CHAT_TEMPLATE_FILES), *_index_of(folder)]
    files = dict(sorted({**tokenizer, **_digests(folder, [*weights, *others])}.items()))
    return Fingerprint(
        digest=digest_json(files),
        files=files,
        model_type=described["model_type"],
        tokenizer=digest_json(tokenizer),
        chat_template=_chat_template(folder),
        parameters=parameters,
        positions=positions_of(described),
    )


def _config_of(folder: Path, source: str, trust_remote_code: bool) -> dict[str, Any]:
    """Return config.json, refused where it is no base model's."""
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(f"base.source: {shown(source)} holds an adapter, not a base model; name its base")
    if not (folder / "config.json").is_file():
        raise ConfigError(f"base.source: no config.json in {shown(source)}; name a folder that save_pretrained wrote")
    described: dict[str, Any] = read_json(folder / "config.json")
    if not isinstance(described, dict) or not isinstance(described.get("model_type"), str):
        raise ConfigError(f"base.source: config.json in {shown(source)} has no model_type; transformers cannot load it")
    elsewhere = [code for code in dict(described.get("auto_map") or {}).values() if "--" in str(code)]
    if trust_remote_code and elsewhere:
        raise ConfigError(
            f"base.trust_remote_code: {shown(source)} runs code of another repository ({elsewhere[0]}), which "
            f"sources.lock cannot pin; copy that code into a local folder of the base"
        )
    return described


def positions_of(described: Mapping[str, Any]) -> int | None:
    """Return the longest input in tokens of a model with that configuration; None where it sets no limit."""
    text = described.get("text_config") or described
    limit = text.get("max_position_embeddings") or text.get("n_positions")
    if not isinstance(limit, int) or text.get("model_type") == "t5":
        return None
    return limit - int(text.get("pad_token_id", 1)) - 1 if text.get("model_type") in OFFSET_POSITIONS else limit


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]


def _index_of(folder: Path) -> list[Path]:
    return [folder / WEIGHTS_INDEX] if (folder / WEIGHTS_INDEX).is_file() else []


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers loads."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if _index_of(folder):
        names = sorted(set(read_json(folder / WEIGHTS_INDEX)["weight_map"].values()))
        missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if missing:
            raise ConfigError(f"base.source: {WEIGHTS_INDEX} names {', '.join(missing)}, which is not in the folder")
        return [folder / name for name in names]
    pickled = _matching(folder, PICKLED)
    if pickled:
        raise ConfigError(
            f"base.source: the weights are only in {pickled[0].name}, a format that can run code when it is read; "
            f"where you trust the file, convert it: AutoModel.from_pretrained(folder).save_pretrained(new_folder), "
            f"and the tokenizer likewise"
        )
    raise ConfigError(f"base.source: no {WEIGHTS} in {folder.name}; save the model with save_pretrained")


def _parameters(path: Path) -> int:
    """Return how many weights a safetensors file holds, from its header; refuse a file that is cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start.startswith(b"version "):
            raise ConfigError(f"base.source: {path.name} is a Git LFS pointer, not the file; run `git lfs pull`")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        try:
            header = json.loads(file.read(length)) if 8 + length <= size else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise ConfigError(f"base.source: {path.name} is not a safetensors file; fetch it again")
    tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
    if 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0) != size:
        raise ConfigError(f"base.source: {path.name} is cut off ({size} bytes); fetch it again")
    return sum(_product(tensor["shape"]) for tensor in tensors if "F" in tensor["dtype"])


def _product(shape: list[int]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def _chat_template(folder: Path) -> str | None:
    """Return the digest of the chat templates, wherever the folder keeps them; None without one."""
    files = _matching(folder, CHAT_TEMPLATE_FILES)
    if files:
        return digest_json({path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files})
    settings = folder / "tokenizer_config.json"
    template = read_json(settings).get("chat_template") if settings.is_file() else None
    return digest_json(template) if template else None


def chat_template_digest(folder: Path, loaded: Any) -> str | None:
    """Return the digest of the chat templates that a tokenizer has ``loaded``, in the form of ``Fingerprint``.

    It differs from the fingerprint's where the tokenizer read other templates than the ``folder`` keeps, or none of
    them: ``chat_template.json``, for one, is for processors of several kinds of input.

    Args:
        folder: where the tokenizer was loaded from.
        loaded: its ``chat_template``: one, several by name, or None.
    """
    if not loaded:
        return None
    named = dict(loaded) if isinstance(loaded, Mapping) else {"default": loaded}
    files = _matching(folder, CHAT_TEMPLATE_FILES)
    if files:
        names = {path: "default" if path.name == "chat_template.jinja" else path.stem for path in files}
        return digest_json({path.relative_to(folder).as_posix(): named.get(names[path]) for path in files})
    kept = read_json(folder / "tokenizer_config.json").get("chat_template")
    in_a_list = [{"name": name, "template": text} for name, text in named.items()]
    return digest_json(in_a_list if isinstance(kept, list) else loaded)


def _digests(folder: Path, files: list[Path]) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in files}


def differing(folder: Path, wanted: Mapping[str, str], root: Path, *, first: bool = False) -> list[str]:
    """Return the files of ``folder`` that are missing or have another sha256 than ``wanted`` says.

    Small files are read first; with ``first``, no more is read once one differs. The project at ``root`` remembers the
    digests of large files.
    """
    present = {name: (folder / name).stat().st_size for name in wanted if (folder / name).is_file()}
    wrong = sorted(set(wanted) - set(present))
    for name in sorted(present, key=lambda name: (present[name], name)):
        if wrong and first:
            return wrong
        if _digest(folder / name, root) != wanted[name]:
            wrong.append(name)
    return wrong


def _digest(path: Path, root: Path) -> str:
    """Return a file's sha256; a large one's is remembered in the project's store while its time stamps stay."""
    path = path.resolve()
    stat = path.stat()
    if stat.st_size < REMEMBERED_BYTES or not (root / "params.yaml").is_file():
        return digest_file(path)
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    record = Workspace(root).store / "base-digests" / f"{digest_json(str(path))[:32]}.json"
    known = read_json(record) if record.is_file() else {}
    if known.get("stamp") == stamp:
        return str(known["digest"])
    digest = digest_file(path)
    if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED_SECONDS:
        write_json(record, {"stamp": stamp, "digest": digest})
    return digest
