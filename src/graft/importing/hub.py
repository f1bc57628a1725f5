"""Data sets of the ``datasets`` library: from the Hub, from a clone of a Hub repository, or saved to disk.

The library decides what the rows of its own formats are, and gives them types; here they become plain values: names of
labels in place of their numbers, languages of a translation as columns, the bytes of pictures. A name on the Hub is
resolved to a commit first, and what was loaded must be that commit: without a connection the library would take
whatever its cache holds.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import DataError, IntegrityError, ResourceMissing, shown
from graft.reading import Limits, Problem, RawRow, RowError
from graft.reading.columnar import BATCH_ROWS, numbered

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, DatasetDict

PREFIX = "hub:"
COMMIT = re.compile(r"[0-9a-f]{40}")
UNREADABLE = ("Audio", "Video", "Pdf", "Nifti", "Mesh", "BioSequence", "BioStructure")
"""Features whose values are files that no task reads."""
Convert = Callable[[Any], Any]


@dataclass(frozen=True)
class Collection:
    """A data set with its splits by name."""

    name: str
    splits: Mapping[str, Dataset]
    """Name in the data set -> rows; the name is empty where it has no splits."""
    facts: Mapping[str, str]
    """Where it comes from, to be recorded: source, revision and config."""
    folders: tuple[Path, ...] = ()
    """Where pictures that are named by a path may lie: what the library itself put there, or the folder of the rows."""


def is_saved(path: Path) -> bool:
    """Say whether a folder is one that ``save_to_disk`` wrote."""
    single = ("state.json", "dataset_info.json")
    return (path / "dataset_dict.json").is_file() or all((path / name).is_file() for name in single)


def saved(path: Path) -> Collection:
    """Load a folder that ``save_to_disk`` wrote.

    Raises:
        DataError: it is damaged.
    """
    with _translated(path.name):
        import datasets

        found = datasets.load_from_disk(str(path))
    return Collection(path.name, _splits(found), {"source": path.name}, (path.resolve(),))


def loaded(name: str, revision: str | None, config: str | None) -> Collection:
    """Load ``hub:org/name`` at ``revision`` (default: what ``main`` is now), or ``hub:./folder``, a clone of one.

    Raises:
        DataError: it cannot be read, or needs a ``config``.
        ResourceMissing: the Hub cannot be asked, or has no such data set.
        IntegrityError: something else than the commit was loaded.
    """
    place = name.removeprefix(PREFIX)
    chosen = {"config": config} if config else {}
    if place.startswith((".", "/")):
        return _from_clone(place, revision, config, chosen)
    commit = revision if revision and COMMIT.fullmatch(revision) else _commit(place, revision or "main")
    builder = _builder(place, config, commit)
    if builder.hash != commit:
        raise IntegrityError(
            f"{name}: the cache of the datasets library holds commit {builder.hash}, not {commit}; connect to the Hub "
            f"(HF_HUB_OFFLINE=0), or give --revision {builder.hash}"
        )
    facts = {"source": name, "revision": commit, **chosen}
    return Collection(place, _splits(_prepared(builder, place)), facts, _downloaded(place))


def _from_clone(place: str, revision: str | None, config: str | None, chosen: dict[str, str]) -> Collection:
    if revision:
        raise DataError(f"--revision: only for a data set on the Hub, and {PREFIX}{place} is a folder; leave it out")
    folder = Path(place)
    if not folder.is_dir():
        raise DataError(f"{PREFIX}{place}: no such folder")
    builder = _builder(str(folder.resolve()), config, None)
    facts = {"source": f"{PREFIX}{folder.resolve().name}", **chosen}
    return Collection(folder.resolve().name, _splits(_prepared(builder, place)), facts, (folder.resolve(),))


def _downloaded(name: str) -> tuple[Path, ...]:
    """Return where the libraries keep the files of a data set on the Hub, and what they unpack."""
    from datasets import config
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    return repository.resolve(), (Path(config.HF_DATASETS_CACHE) / "downloads").resolve()


def _commit(name: str, revision: str) -> str:
    """Return the commit that a revision of a data set on the Hub is now."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().dataset_info(name, revision=revision).sha)
    except HFValidationError as error:
        raise DataError(f"{PREFIX}{name}: must be {PREFIX}org/name or {PREFIX}./folder ({error})") from None
    except RevisionNotFoundError:
        raise ResourceMissing(f"--revision: {name} has no revision {shown(revision)} on the Hub") from None
    except RepositoryNotFoundError:
        raise ResourceMissing(
            f"{PREFIX}{name}: no such data set on the Hub, or it is private: `hf auth login`"
        ) from None
    except Exception as error:  # httpx has errors of its own, none in common with the library's
        raise _unreachable(name, f" ({type(error).__name__})") from None


def _unreachable(name: str, reason: str) -> ResourceMissing:
    return ResourceMissing(
        f"{PREFIX}{name}: the Hub cannot be reached{reason}; connect (HF_HUB_OFFLINE=0), give --revision as the full "
        "commit that the local cache holds, or, where it can be reached, "
        f"`datasets.load_dataset({name!r}).save_to_disk('folder')`, and import that folder"
    )


def _builder(place: str, config: str | None, commit: str | None) -> Any:
    with _translated(place):
        import datasets

        datasets.disable_progress_bars()
        return datasets.load_dataset_builder(place, name=config, revision=commit)


def _prepared(builder: Any, place: str) -> Dataset | DatasetDict:
    """Do what ``load_dataset`` does with its builder: all splits, on disk, mapped into memory."""
    with _translated(place):
        builder.download_and_prepare()
        return builder.as_dataset()


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn errors of the datasets library, which are of many kinds, into Graft's, with what to do."""
    try:
        yield
    except ConnectionError as error:
        raise _unreachable(name, f" ({type(error).__name__})") from None
    except Exception as error:
        reason = str(error.__cause__ or error).split("Example of usage")[0]
        advice = "; name one by --config" if "onfig" in reason else ""
        raise DataError(
            f"{name}: cannot be loaded by the datasets library: {' '.join(reason.split())}{advice}"
        ) from None


def _splits(found: Any) -> dict[str, Dataset]:
    return {str(name): rows for name, rows in found.items()} if isinstance(found, dict) else {"": found}


# -- rows


def rows_of(collection: Collection, split: str, limits: Limits, images: frozenset[str]) -> Iterator[RawRow | Problem]:
    """Yield the rows of a split with their place, ``name/split:7``; columns ``images`` hold the bytes of pictures.

    Raises:
        DataError: a column is of a kind that rows cannot hold.
    """
    rows = collection.splits[split]
    name = f"{collection.name}/{split}" if split else collection.name
    columns = {column: _converter(feature, collection.folders) for column, feature in rows.features.items()}
    for column, feature in rows.features.items():
        kind = type(feature).__name__
        if kind in UNREADABLE or (kind == "Image" and column not in images):
            raise DataError(
                f"{name}: {column}: is of type {kind}, which the task does not read; remove the column "
                f"(`remove_columns({column!r})`, then `save_to_disk`) and import the folder"
            )
    languages = [column for column, feature in rows.features.items() if type(feature).__name__ == "Translation"]
    empty = True
    try:
        for number, found in numbered(_batches(rows), "rows of the datasets library", limits, images):
            empty = False
            try:
                if isinstance(found, RowError):
                    raise found
                yield f"{name}:{number}", _plain(found, columns, languages)
            except RowError as error:
                yield Problem(f"{name}:{number}", error.field, error.expected, error.found)
    except RowError as error:
        yield Problem(f"{name}:{error.line}" if error.line else name, error.field, error.expected, error.found)
        return
    if empty:
        yield Problem(name, "", "at least one row", "no rows")


def _batches(rows: Dataset) -> Iterator[pa.RecordBatch]:
    for table in rows.with_format("arrow").iter(BATCH_ROWS):
        yield from table.to_batches()


def _plain(values: dict[str, Any], columns: Mapping[str, Convert | None], languages: list[str]) -> dict[str, Any]:
    """Return a row with plain values; a translation gives a column for each language."""
    row: dict[str, Any] = {}
    for column, value in values.items():
        convert = columns[column]
        try:
            value = convert(value) if convert and value is not None else value
        except RowError as error:
            raise RowError(error.expected, error.found, field=column) from None
        if column not in languages:
            row[column] = value
            continue
        for language, text in (value or {}).items():
            row[f"{column}.{language}" if language in values else language] = text
    return row


def _converter(feature: Any, folders: tuple[Path, ...]) -> Convert | None:
    """Return what makes the stored value of a feature a plain one; None where it is plain."""
    kind = type(feature).__name__
    if kind == "ClassLabel":
        return lambda value: _label(value, feature.names)
    if kind == "Image":
        return lambda value: _picture(value, folders)
    if kind == "Json":
        return lambda value: json.loads(value) if isinstance(value, str | bytes) else value
    if kind in ("List", "LargeList"):
        return _each(_converter(feature.feature, folders))
    if isinstance(feature, dict):
        inner = {name: _converter(one, folders) for name, one in feature.items()}
        return _members(inner) if any(inner.values()) else None
    return None


def _each(convert: Convert | None) -> Convert | None:
    if convert is None:
        return None
    return lambda values: [None if value is None else convert(value) for value in values]


def _members(inner: Mapping[str, Convert | None]) -> Convert:
    def convert(value: dict[str, Any]) -> dict[str, Any]:
        found = dict(value)
        for name, one in inner.items():
            if one and found.get(name) is not None:
                found[name] = one(found[name])
        return found

    return convert


def _label(value: int, names: list[str]) -> str | None:
    """Return the name of a label; the library writes -1 where there is none."""
    if value == -1:
        return None
    if not 0 <= value < len(names):
        raise RowError(f"the number of a label, 0 to {len(names) - 1}", str(value))
    return names[value]


def _picture(value: Mapping[str, Any], folders: tuple[Path, ...]) -> Mapping[str, Any]:
    """Return a picture as its bytes; one that is named by a path is read where the data set's files lie."""
    if value.get("bytes") is not None or value.get("path") is None:
        return value
    path = Path(value["path"])
    real = path.resolve()
    if not any(real.is_relative_to(folder) for folder in folders) or not real.is_file():
        raise RowError(
            "a picture in the data set", f"the path {shown(str(path))}, which lies elsewhere or is not there"
        )
    return {"bytes": path.read_bytes(), "path": None}
