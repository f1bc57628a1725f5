"""Find, pin, fingerprint and load a base model.

A name like ``org/model`` or a folder says where a base is, not which bytes it holds. ``graft lock`` resolves the name
once and writes the sha256 of every file that transformers would read to ``sources.lock``; every later stage finds the
folder again by what it holds, and refuses other bytes. The price is one hash of the weights per process: large files
are remembered by size and time stamps, as git does for its index.

Only safetensors weights are taken: a pickle file can run code when it is read.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from graft.config import Section
from graft.errors import ConfigError, IntegrityError, ResourceMissing, shown
from graft.identity import digest_file, digest_json
from graft.workspace import Workspace, read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Kind = Literal["package", "folder", "hub"]

BASES_VARIABLE = "GRAFT_BASES"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
REMEMBERED_BYTES = 256 << 20
"""Files from this size on are not hashed again while their size and time stamps stay."""
SETTLED_SECONDS = 2.0
"""A file changed more recently could change again within one tick of its time stamp: it is not remembered."""

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
CONFIG_FILES = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "*.py")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.tiktoken",
)
CHAT_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "mpnet"})
"""Model types whose positions start after the padding id: so many fewer tokens fit."""
DIRECT_TOKENIZERS = {"bert": "BertTokenizer", "roberta": "RobertaTokenizer", "gpt2": "GPT2Tokenizer"}
"""Model type -> class that AutoTokenizer ends at when tokenizer_config.json names it; importing it needs no torch."""


class BaseConfig(Section):
    """The pretrained model that is adapted. It is never changed."""

    source: str
    """``package:<module>/<folder>`` (a folder inside an installed Python package), a local folder (absolute, or relative to params.yaml, starting with ``.`` or ``/``), or a Hub id (``org/name``)."""  # noqa: E501

    revision: str | None = None
    """Branch, tag or commit of a Hub id; ``graft lock`` pins the commit. Only for Hub ids."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type of the frozen weights. ``bfloat16`` is faster where the processor has it; adapter weights stay float32."""

    trust_remote_code: bool = False
    """Whether Python code that comes with a Hub model may run here."""

    @property
    def kind(self) -> Kind:
        """Where the base comes from, as the form of ``source`` says."""
        if self.source.startswith("package:"):
            return "package"
        return "folder" if self.source.startswith((".", "/")) else "hub"

    @model_validator(mode="after")
    def _check_source(self) -> BaseConfig:
        if self.kind == "package" and not re.fullmatch(r"package:[A-Za-z_][\w.]*(/[^/].*)?", self.source):
            raise ValueError("source must be package:<module>/<folder>")
        if self.kind == "hub" and not HUB_ID.fullmatch(self.source):
            raise ValueError("source must be a Hub id (org/name), a folder that starts with ./ or /, or package:...")
        if self.revision is not None and self.kind != "hub":
            raise ValueError("revision is only for Hub ids; leave it out")
        return self


@dataclass(frozen=True)
class LockedBase:
    """A base as ``sources.lock`` pins it."""

    source: str
    kind: Kind
    requested: str | None
    """The revision that params asked for."""
    revision: str | None
    """The commit it was resolved to; null for packages and folders."""
    digest: str
    """sha256 over ``files``: the base's name by content."""
    files: Mapping[str, str]
    model_type: str
    tokenizer: str
    """sha256 over the tokenizer's files."""
    chat_template: str | None
    parameters: int
    positions: int | None
    """The longest input in tokens; null where the model sets no limit."""

    def folder(self, root: Path, *, weights: bool = True) -> Path:
        """Return the folder that holds this base here, its files verified against their sha256.

        Looked for at ``source`` (relative to the project ``root``), then by digest below the folders that the
        environment variable ``GRAFT_BASES`` lists, then, for a Hub id, on the Hub. ``weights=False`` verifies only
        the small files, for a stage that reads no weights.

        Raises:
            IntegrityError: the folder at ``source`` holds other bytes, and no other folder holds the right ones.
            ResourceMissing: it is nowhere.
        """
        names = [name for name in self.files if weights or not name.endswith(".safetensors")]
        named = self._named_folder(root)
        wrong = self._differing(named, names, root) if named else []
        if named and not wrong:
            return named
        for candidate in _candidates():
            if not self._differing(candidate, names, root, first=True):
                return candidate
        if named:
            raise IntegrityError(
                f"base.source: {shown(self.source)} is not what sources.lock pins: {', '.join(wrong)} changed or "
                f"missing; put the files back, or run `graft lock` if the new ones are meant"
            )
        if self.kind == "hub":
            return self._downloaded(names, root)
        raise ResourceMissing(self._missing())

    def _named_folder(self, root: Path) -> Path | None:
        if self.kind == "package":
            return _package_folder(self.source)
        if self.kind == "folder":
            folder = root / self.source
            return folder if folder.is_dir() else None
        return _hub_folder(self.source, str(self.revision), list(self.files), local=True)

    def _downloaded(self, names: list[str], root: Path) -> Path:
        folder = _hub_folder(self.source, str(self.revision), list(self.files), local=False)
        if folder is None:
            raise ResourceMissing(self._missing())
        wrong = self._differing(folder, names, root)
        if wrong:
            raise IntegrityError(f"base.source: {self.source} at {self.revision} on the Hub differs: {', '.join(wrong)}")
        return folder

    def _differing(self, folder: Path, names: list[str], root: Path, *, first: bool = False) -> list[str]:
        """Return the files that are missing or differ, small files first; only the first one if ``first``."""
        present = {name: size for name in names if (size := _size(folder / name)) is not None}
        wrong = sorted(set(names) - set(present))
        for name in sorted(present, key=lambda name: (present[name], name)):
            if wrong and first:
                return wrong
            if _digest(folder / name, root) != self.files[name]:
                wrong.append(name)
        return wrong

    def _missing(self) -> str:
        where = {
            "package": "install the package that has it (the demo's: `pip install 'graft[demo]'`)",
            "folder": "put the folder back",
            "hub": "connect to the Hub (HF_HUB_OFFLINE is set, or it cannot be reached)",
        }[self.kind]
        return (
            f"base.source: {shown(self.source)} is not here; {where}, or name a folder above a copy of it in "
            f"{BASES_VARIABLE} (base digest {self.digest})"
        )


# -- sources.lock


def lock(workspace: Workspace, config: BaseConfig) -> LockedBase:
    """Resolve the base that ``config`` names, fingerprint its files, and write it to ``sources.lock``.

    Raises:
        ConfigError: ``base.source`` leads to no usable base.
        ResourceMissing: the package or the Hub is not there.
    """
    revision = None
    if config.kind == "package":
        folder = _package_folder(config.source)
        if folder is None:
            module = config.source.removeprefix("package:").partition("/")[0]
            raise ResourceMissing(
                f"base.source: {shown(config.source)}: module {module} is not installed or has no such folder; install "
                f"the package (the demo's: `pip install 'graft[demo]'`) or correct base.source"
            )
    elif config.kind == "folder":
        folder = workspace.root / config.source
        if not folder.is_dir():
            raise ConfigError(f"base.source: no folder {shown(config.source)} (looked at {folder}); correct the path")
    else:
        folder, revision = _resolve_hub(config, workspace)
    locked = _fingerprint(folder, config, revision)
    known = read_json(workspace.sources_lock) if workspace.sources_lock.is_file() else {}
    write_json(workspace.sources_lock, {**known, "format": 1, "base": dataclasses.asdict(locked)})
    return locked


def locked(workspace: Workspace, config: BaseConfig) -> LockedBase:
    """Return the base as ``sources.lock`` pins it.

    Raises:
        ConfigError: there is no lock, or it pins another base than ``config`` names.
    """
    if not workspace.sources_lock.is_file():
        raise ConfigError(f"{workspace.sources_lock.name}: not there; run `graft lock`")
    try:
        found = LockedBase(**read_json(workspace.sources_lock)["base"])
    except (KeyError, TypeError):
        raise ConfigError(f"{workspace.sources_lock.name}: pins no base in a form known here; run `graft lock`") from None
    for name, wanted, pinned in (
        ("source", config.source, found.source),
        ("revision", config.revision, found.requested),
    ):
        if wanted != pinned:
            raise ConfigError(
                f"base.{name}: params.yaml has {shown(wanted)}, sources.lock pins {shown(pinned)}; run `graft lock`"
            )
    return found


def _fingerprint(folder: Path, config: BaseConfig, revision: str | None) -> LockedBase:
    described = _config_of(folder, config)
    weights = _weight_files(folder)
    parameters = sum(_parameters(path) for path in weights)
    tokenizer = _digests(folder, _matching(folder, TOKENIZER_FILES))
    if not tokenizer and not (folder / "preprocessor_config.json").is_file():
        raise ConfigError(f"base.source: {shown(config.source)} has no tokenizer files; save the tokenizer beside the model")
    others = [*_matching(folder, CONFIG_FILES), *_matching(folder, CHAT_TEMPLATE_FILES), *_index_of(folder)]
    files = {**tokenizer, **_digests(folder, [*weights, *others])}
    files = {name: files[name] for name in sorted(files)}
    return LockedBase(
        source=config.source,
        kind=config.kind,
        requested=config.revision,
        revision=revision,
        digest=digest_json(files),
        files=files,
        model_type=described["model_type"],
        tokenizer=digest_json(tokenizer),
        chat_template=_chat_template(folder),
        parameters=parameters,
        positions=_positions(described),
    )


def _config_of(folder: Path, config: BaseConfig) -> dict[str, Any]:
    """Return config.json, refused where it is no base model's."""
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(f"base.source: {shown(config.source)} holds an adapter, not a base model; name its base")
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"base.source: no config.json in {shown(config.source)}; name the folder that save_pretrained wrote")
    described: dict[str, Any] = read_json(path)
    if not isinstance(described, dict) or not isinstance(described.get("model_type"), str):
        raise ConfigError(f"base.source: {shown(config.source)}: config.json has no model_type; transformers cannot load it")
    elsewhere = [code for code in dict(described.get("auto_map") or {}).values() if "--" in str(code)]
    if config.trust_remote_code and elsewhere:
        raise ConfigError(
            f"base.trust_remote_code: {shown(config.source)} runs code of another repository ({elsewhere[0]}), which "
            f"sources.lock cannot pin; copy that code into a local folder of the base"
        )
    return described


def _positions(described: Mapping[str, Any]) -> int | None:
    text = described.get("text_config") or described
    limit = text.get("max_position_embeddings") or text.get("n_positions")
    if not isinstance(limit, int) or text.get("model_type") == "t5":
        return None
    return limit - int(text.get("pad_token_id", 1)) - 1 if text.get("model_type") in OFFSET_POSITIONS else limit


# -- files


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
            f"base.source: the weights are only in {pickled[0].name}, a format that can run code when it is read; convert "
            f"them where you trust the file: AutoModel.from_pretrained(folder).save_pretrained(new_folder), "
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


def _digests(folder: Path, files: list[Path]) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in files}


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _digest(path: Path, root: Path) -> str:
    """Return the sha256 of a file; a large one's is remembered in the project's store while its time stamps stay."""
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


# -- places


def _package_folder(source: str) -> Path | None:
    """Return the folder in an installed package, without importing the package."""
    module, _, below = source.removeprefix("package:").partition("/")
    top, *inner = module.split(".")
    found = importlib.util.find_spec(top)
    for place in (found.submodule_search_locations or []) if found else []:
        folder = Path(place).joinpath(*inner, below)
        if folder.is_dir():
            return folder
    return None


def _candidates() -> Iterator[Path]:
    """Yield the model folders at, one and two levels below the folders that GRAFT_BASES lists."""
    for place in filter(None, os.environ.get(BASES_VARIABLE, "").split(os.pathsep)):
        for pattern in ("config.json", "*/config.json", "*/*/config.json"):
            yield from (path.parent for path in sorted(Path(place).glob(pattern)))


def _hub_folder(name: str, commit: str, files: list[str], *, local: bool) -> Path | None:
    """Return the Hub's snapshot of ``commit``, from the local cache if ``local``; None where it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=files, local_files_only=local))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return None


def _resolve_hub(config: BaseConfig, workspace: Workspace) -> tuple[Path, str]:
    """Return the snapshot folder of a Hub id and the commit that its revision names now."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    name, revision = config.source, config.revision or "main"
    patterns = [*CONFIG_FILES, *TOKENIZER_FILES, *CHAT_TEMPLATE_FILES, "model*.safetensors", WEIGHTS_INDEX]
    hint = f"; a folder {name} lies in the project: write ./{name}" if (workspace.root / name).is_dir() else ""
    try:
        commit = revision if COMMIT.fullmatch(revision) else str(HfApi().model_info(name, revision=revision).sha)
    except RevisionNotFoundError:
        raise ConfigError(f"base.revision: {name} has no revision {shown(revision)} on the Hub") from None
    except RepositoryNotFoundError:
        raise ConfigError(
            f"base.source: no model {shown(name)} on the Hub, or it is private: `hf auth login`; a local folder starts "
            f"with ./ or /{hint}"
        ) from None
    except Exception as error:
        raise _unreachable(name, revision, hint, error) from None
    folder = _hub_folder(name, commit, patterns, local=True)
    if folder is None or not list(folder.glob("*.safetensors")):
        folder = _hub_folder(name, commit, patterns, local=False)
    if folder is None:
        raise _unreachable(name, commit, hint, None)
    return folder, commit


def _unreachable(name: str, revision: str, hint: str, error: Exception | None) -> ResourceMissing:
    reason = f" ({type(error).__name__})" if error else ""
    return ResourceMissing(
        f"base.source: {name} at {shown(revision)} cannot be looked up on the Hub{reason}: set HF_HUB_OFFLINE=0 and connect, "
        f"give base.revision as a commit that the local cache holds, or name a local folder (./...) or package:...{hint}"
    )


# -- tokenizer


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer in ``folder``: what ``AutoTokenizer`` loads.

    AutoTokenizer imports torch (about 1 CPU second); where the class it ends at is known, it is taken directly.

    Raises:
        ConfigError: the folder holds no fast tokenizer that transformers can read.
    """
    name = _direct_class(folder)
    try:
        if name:
            import transformers

            tokenizer = getattr(transformers, name).from_pretrained(folder)
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"base.source: the tokenizer in {folder.name} cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise ConfigError(f"base.source: {type(tokenizer).__name__} is not a fast tokenizer; save it with a tokenizer.json")
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def _direct_class(folder: Path) -> str | None:
    """Return the class that AutoTokenizer would end at, for the plain cases; None where only it can tell."""
    paths = folder / "config.json", folder / "tokenizer_config.json", folder / "tokenizer.json"
    if not all(path.is_file() for path in paths):
        return None
    model, settings = read_json(paths[0]), read_json(paths[1])
    direct, declared = DIRECT_TOKENIZERS.get(model["model_type"]), str(settings.get("tokenizer_class"))
    if direct is None or "auto_map" in settings:
        return None
    if declared in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        return "PreTrainedTokenizerFast"
    return direct if declared.removesuffix("Fast") == direct else None
