"""Prediction tables: what one system says about each test row, and the only thing that metrics, tests and reports read.

A table is a dict of numpy columns of one length N: ``row`` (the row's ``file:line``) and ``id``, the task's reference
columns, its prediction columns. Base and adapter are scored on one loaded base, so a difference between them can only
come from the adapter. Rows go through the model some batches at a time, sorted by length among them: little padding,
and memory that does not grow with the split.
Stored as Parquet with fixed settings: equal tables, equal bytes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from graft.errors import DataError, shown

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from graft.artifact import LoadedAdapter
    from graft.privacy.section import PrivacyConfig

"""The columns that say which row it is."""
SORTED_BATCHES = 32
PROGRESS_SECONDS = 2.0


def score(loaded: LoadedAdapter, tokens: pa.Table, *, batch_rows: int, name: str = "score") -> dict[str, np.ndarray]:
    """Return the prediction table of an adapter over a token table, in its order.

    Args:
        loaded: model, task, label map and device.
        tokens: N rows as ``tokenize`` writes them.
        batch_rows: rows per forward pass.
        name: starts the progress lines.

    Raises:
        DataError: the token table is empty.
    """
    import numpy as np

    from graft.artifact import answer_columns, judged

    if not len(tokens):
        raise DataError(f"{name}: no rows to score; the test split needs at least one")
    task, tell = loaded.task, progress(name, len(tokens))
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(tokens), batch_rows * SORTED_BATCHES):
        rows = tokens.slice(start, batch_rows * SORTED_BATCHES).to_pylist()
        columns = answer_columns(
            loaded.model,
            task,
            loaded.config,
            loaded.state,
            rows,
            processor=loaded.processor,
            pad_token_id=loaded.pad_token_id,
            batch_rows=batch_rows,
            device=loaded.device,
        )
        parts.append(columns)
        tell(start + len(rows))
    table = {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}
    return {**places(tokens), **judged(task, loaded.config, loaded.state, table)}


def score_base(
    loaded: LoadedAdapter, tokens: pa.Table, *, batch_rows: int, name: str = "base"
) -> dict[str, np.ndarray]:
    """Score the same model with its adapter off.

    Modules that the adapter trains in full (``modules_to_save``: a new head) go back to their untrained copy too.
    """
    with loaded.model.disable_adapter():
        return score(loaded, tokens, batch_rows=batch_rows, name=name)


def places(tokens: pa.Table) -> dict[str, np.ndarray]:
    """Return the columns ``row`` and ``id`` (object [N]; an id may be None) of a token table."""
    found = {"row": tokens["row"].to_numpy()}
    if "id" in tokens.column_names:
        found["id"] = tokens["id"].to_numpy()
    return found


def progress(name: str, rows: int, *, every_seconds: float = PROGRESS_SECONDS) -> Callable[[int], None]:
    """Return a function that prints ``name: done/rows rows, rate, time left``, at most once per ``every_seconds``."""
    begin = last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < rows and now - last < every_seconds:
            return
        last = now
        rate = done / max(now - begin, 1e-9)
        rest = f"{(rows - done) / rate:.0f} s left" if done < rows else f"done in {now - begin:.1f} s"
        print(f"{name}: {done}/{rows} rows, {rate:.0f} rows/s, {rest}", flush=True)

    return tell


def without_private(
    table: Mapping[str, np.ndarray], privacy: PrivacyConfig, words: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Return a table whose texts have placeholders for what is private, the same value the same one within a row.

    ``row`` stays, and so do the row scores: metrics are of the texts as they were.

    Args:
        table: a prediction table.
        privacy: what is looked for.
        words: columns whose lists are the words of one text.
    """
    texts = [name for name, column in table.items() if column.dtype.kind in "OU" and name != "row"]
    new = {name: table[name].astype(object) for name in texts}
    for number in range(len(table["row"]) if privacy.kinds else 0):
        given = {name: table[name][number] for name in texts}
        given |= {name: " ".join(given[name]) for name in words if name in given}
        found = privacy.redaction(given)
        if found.replacements:
            for name in texts:
                whole = name not in words
                new[name][number] = found.applied(given[name]) if whole else found.of_words(table[name][number])
    return {**table, **new}


def write(path: Path, table: Mapping[str, np.ndarray]) -> None:
    """Write a prediction table as Parquet; a column [N, C] becomes a list column of length C."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: _arrow(column) for name, column in table.items()}
    pq.write_table(pa.table(columns), path, compression="zstd", version="2.6", store_schema=True)


def read(path: Path) -> dict[str, np.ndarray]:
    """Read a prediction table that :func:`write` wrote.

    Raises:
        DataError: the file is not there or is not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.ParquetFile(path).read().combine_chunks()
    except FileNotFoundError:
        raise DataError(f"{path}: no such prediction table; run `graft stage evaluate`") from None
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a prediction table ({shown(str(error))}); run `graft stage evaluate`") from None
    return {name: _numpy(found[name]) for name in found.column_names}


def _arrow(column: np.ndarray) -> pa.Array:
    import pyarrow as pa

    if column.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(column.ravel()), column.shape[1])
    if column.dtype.kind in "OU":
        with contextlib.suppress(pa.ArrowInvalid, pa.ArrowTypeError):
            return pa.array(column.tolist(), pa.string())
        return pa.array(column.tolist())
    return pa.array(column)


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(column.type):
        flat: np.ndarray = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), column.type.list_size)
    values: np.ndarray = column.to_numpy()
    return values
