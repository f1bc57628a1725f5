"""Make the sample data set: docstrings of the standard library, labelled with their chapter of the library reference.

Run ``python infra/sample/make_sample.py FOLDER``. Every clone gets the *snapshot* that data.dvc names, made with
Python 3.11; this script documents where it came from and makes one like it on another version. Python sources are
parsed, never imported; only modules without source (written in C) are imported, from the list in ``chapters.py``.

Two things would make a score on the sample dishonest, and are avoided: methods of one class, and docstrings that are
nearly the same text, never lie in two splits; a text that occurs in two chapters has no right answer and is left out.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import inspect
import json
import re
import sys
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chapters import C_MODULES, chapter_of, documented

from graft.splitting import assign
from graft.workspace import SPLITS, replaced

MIN_CHARACTERS, MAX_CHARACTERS = 20, 600
MIN_ROWS_PER_CHAPTER = 100
SHARES = (80, 10, 10)
TRAIN_PARTS = 4
SEED = 7
NEAR_IDENTICAL = 0.6
"""Jaccard similarity of word triples from which two docstrings count as nearly the same text."""
SKIPPED_FOLDERS = {"test", "tests", "idlelib", "turtledemo", "__pycache__", "_bundled", "pgen2"}
SKIPPED_MODULES = {"encodings.mac_farsi", "distutils.command.bdist_msi"}


@dataclass(frozen=True)
class Docstring:
    """One row to be. ``group`` names the class it belongs to, or the thing itself."""

    id: str
    text: str
    label: str
    module: str
    group: str


def main() -> None:
    """Write the sample to the folder given on the command line and print what is in it."""
    parser = argparse.ArgumentParser(description="Make the sample data set of docstrings.")
    parser.add_argument("folder", type=Path, help="the data folder to write; an existing one is replaced")
    folder = parser.parse_args().folder
    found = distinct([*from_sources(), *from_c_modules()])
    kept = large_chapters(found)
    splits = assign([row.label for row in kept], grouped(kept), SHARES, SEED)
    write(folder, kept, splits)
    describe(found, kept, splits)


def from_sources() -> Iterator[Docstring]:
    """Yield the docstrings of all documented modules that have Python source."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in documented():
        package = library / name
        paths = sorted(package.rglob("*.py")) if package.is_dir() else [library / f"{name}.py"]
        for path in paths:
            if path.is_file() and not SKIPPED_FOLDERS & set(path.relative_to(library).parts):
                yield from from_source(path, library)


def from_source(path: Path, library: Path) -> Iterator[Docstring]:
    """Yield the docstrings of one source file: the module's own, its functions', classes' and methods'."""
    parts = path.relative_to(library).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    if module in SKIPPED_MODULES or parts[-1] == "__main__":
        return
    tree = ast.parse(path.read_bytes())
    yield from documented_at(module, module, module, ast.get_docstring(tree, clean=False))
    yield from inside(tree, module, module, None)


def inside(node: ast.AST, module: str, name: str, group: str | None) -> Iterator[Docstring]:
    """Yield the docstrings of definitions in ``node``; everything in an outermost class shares its group."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            here = f"{name}.{child.name}"
            yield from documented_at(here, module, group or here, ast.get_docstring(child, clean=False))
            if isinstance(child, ast.ClassDef):
                yield from inside(child, module, here, group or here)
        elif isinstance(child, ast.If | ast.Try):
            yield from inside(child, module, name, group)


def from_c_modules() -> Iterator[Docstring]:
    """Yield the docstrings of modules that have no Python source; one that this Python was built without is named."""
    for name, public in sorted(C_MODULES.items()):
        try:
            module = importlib.import_module(name)
        except ImportError:
            print(f"{name}: not in this Python, left out", file=sys.stderr)
            continue
        yield from documented_at(public, public, public, module.__doc__)
        for attribute, value in sorted(vars(module).items()):
            if getattr(value, "__module__", name) in (name, public, None) and not inspect.ismodule(value):
                yield from from_c_object(f"{public}.{attribute}", public, value)


def from_c_object(name: str, module: str, value: object) -> Iterator[Docstring]:
    """Yield the docstring of a C function, or of a C class and its members."""
    if inspect.isbuiltin(value):
        yield from documented_at(name, module, name, value.__doc__)
    elif inspect.isclass(value):
        yield from documented_at(name, module, name, value.__doc__)
        for attribute, member in sorted(vars(value).items()):
            if inspect.isroutine(member) or inspect.isdatadescriptor(member):
                yield from documented_at(f"{name}.{attribute}", module, name, member.__doc__)


def documented_at(name: str, module: str, group: str, raw: str | None) -> Iterator[Docstring]:
    """Yield one row for a public thing of a chapter whose docstring has the right length."""
    label = chapter_of(module)
    text = inspect.cleandoc(raw) if isinstance(raw, str) else ""
    private = any(part.startswith("_") and not part.endswith("__") for part in name.split("."))
    if label and not private and MIN_CHARACTERS <= len(text.strip()) <= MAX_CHARACTERS:
        yield Docstring(name, text.strip(), label, module, group)


def distinct(rows: list[Docstring]) -> list[Docstring]:
    """Return rows with distinct ids and texts; a text that occurs in two chapters is left out."""
    chapters: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        chapters[row.text].add(row.label)
    ids, texts, kept = set[str](), set[str](), list[Docstring]()
    for row in rows:
        if row.id not in ids and row.text not in texts and len(chapters[row.text]) == 1:
            kept.append(row)
            ids.add(row.id)
            texts.add(row.text)
    return kept


def large_chapters(rows: list[Docstring]) -> list[Docstring]:
    """Return the rows of chapters with enough of them to learn from and to score."""
    counts = Counter(row.label for row in rows)
    return [row for row in rows if counts[row.label] >= MIN_ROWS_PER_CHAPTER]


def grouped(rows: list[Docstring]) -> list[str]:
    """Return one group per row: rows of one class, and rows with nearly the same text, are connected."""
    parent = {row.group: row.group for row in rows}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for one, other in near_identical(rows):
        first, second = sorted((root(rows[one].group), root(rows[other].group)))
        parent[second] = first
    return [root(row.group) for row in rows]


def near_identical(rows: list[Docstring]) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows with nearly the same text (MinHash finds candidates, the similarity itself decides)."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=NEAR_IDENTICAL - 0.25, num_perm=128)
    shingles = [word_triples(row.text) for row in rows]
    for number, found in enumerate(shingles):
        sketch = MinHash(num_perm=128, seed=1)
        sketch.update_batch([" ".join(triple).encode() for triple in sorted(found)])
        for other in sorted(index.query(sketch)):
            if len(found & shingles[other]) >= NEAR_IDENTICAL * len(found | shingles[other]):
                yield number, other
        index.insert(number, sketch)


def word_triples(text: str) -> set[tuple[str, ...]]:
    """Return the runs of three words in ``text``, lower case, digits as one sign, with its ends marked."""
    words = ["^", *re.findall(r"[a-z_]+|0|[^\w\s]", re.sub(r"\d+", "0", text.lower())), "$"]
    return {tuple(words[start : start + 3]) for start in range(max(1, len(words) - 2))}


def write(folder: Path, rows: list[Docstring], splits: list[str]) -> None:
    """Write the part files, rows in an order that depends on their ids alone."""
    ordered = sorted(zip(rows, splits, strict=True), key=lambda pair: hashlib.sha256(pair[0].id.encode()).digest())
    with replaced(folder) as new:
        for split in SPLITS:
            lines = [as_line(row) for row, place in ordered if place == split]
            parts = TRAIN_PARTS if split == "train" else 1
            (new / split).mkdir()
            for part in range(parts):
                chosen = lines[part * len(lines) // parts : (part + 1) * len(lines) // parts]
                (new / split / f"part-{part:04}.jsonl").write_bytes("".join(chosen).encode())


def as_line(row: Docstring) -> str:
    """Return one JSONL line."""
    return (
        json.dumps({"id": row.id, "text": row.text, "label": row.label, "module": row.module}, ensure_ascii=False)
        + "\n"
    )


def describe(found: list[Docstring], kept: list[Docstring], splits: list[str]) -> None:
    """Print how many rows each chapter has in each split."""
    print(f"{len(found)} distinct docstrings, {len(kept)} in chapters with {MIN_ROWS_PER_CHAPTER} or more")
    counts = Counter(zip((row.label for row in kept), splits, strict=True))
    for label, total in Counter(row.label for row in kept).most_common():
        print(f"{total:6}  {'/'.join(str(counts[label, split]) for split in SPLITS):14}  {label}")
    print(f"{len(kept):6}  {'/'.join(str(Counter(splits)[split]) for split in SPLITS):14}  all")


if __name__ == "__main__":
    main()
