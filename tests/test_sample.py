"""The sample: the script finds what it should, and the snapshot in the repo is whole, distinct and honestly split."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from graft.data import DataConfig, Record, parts, read_part
from graft.tasks.text_classification import TASK

ROOT = Path(__file__).parent.parent
REMOTE = ROOT / "infra" / "sample-remote" / "files" / "md5"
Row = dict[str, Any]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Return make_sample.py as a module; it is a script beside its table, not part of the package."""
    folder = ROOT / "infra" / "sample"
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("make_sample", folder / "make_sample.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["make_sample"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


def recorded() -> str:
    (out,) = yaml.safe_load((ROOT / "data.dvc").read_text())["outs"]
    assert out["remote"] == "sample"
    return str(out["md5"])


def objects() -> dict[str, Path]:
    """Return path below data -> object in the remote, as the recorded folder lists them."""
    digest = recorded()
    listing = json.loads((REMOTE / digest[:2] / digest[2:]).read_text())
    return {one["relpath"]: REMOTE / one["md5"][:2] / one["md5"][2:] for one in listing}


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data folder as `dvc pull` makes it, put together from the objects."""
    folder = tmp_path_factory.mktemp("sample") / "data"
    for name, path in objects().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(path.read_bytes())
    return folder


def rows_of(folder: Path) -> dict[str, list[Row]]:
    return {
        split: [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
        for split, files in parts(folder).items()
    }


def test_remote_holds_every_object_with_the_content_its_name_says() -> None:
    for path in (path for path in REMOTE.rglob("*") if path.is_file()):
        name = (path.parent.name + path.name).removesuffix(".dir")
        assert hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == name
    assert all(path.is_file() for path in objects().values())


def test_snapshot_is_small_and_has_four_train_parts(snapshot: Path) -> None:
    found = parts(snapshot)
    assert {split: len(files) for split, files in found.items()} == {"train": 4, "validation": 1, "test": 1}
    assert all(path.stat().st_size < 1_500_000 for files in found.values() for path in files)


def test_snapshot_is_read_without_a_problem(snapshot: Path) -> None:
    for files in parts(snapshot).values():
        for path in files:
            assert all(isinstance(one, Record) for one in read_part(path, snapshot.parent, TASK.fields, DataConfig()))


def test_snapshot_has_distinct_texts_and_every_chapter_in_every_split(snapshot: Path) -> None:
    rows = rows_of(snapshot)
    every = [row for table in rows.values() for row in table]
    assert len({row["id"] for row in every}) == len({row["text"] for row in every}) == len(every) > 6_000
    assert all(20 <= len(row["text"]) <= 600 for row in every)
    counts = {split: Counter(row["label"] for row in table) for split, table in rows.items()}
    totals = counts["train"] + counts["validation"] + counts["test"]
    assert min(totals.values()) >= 100
    for label, total in totals.items():
        for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
            assert counts[split][label] / total == pytest.approx(share, abs=0.05)


def test_classes_do_not_straddle_splits(snapshot: Path) -> None:
    splits: dict[str, set[str]] = {}
    for split, table in rows_of(snapshot).items():
        for row in table:
            name = row["id"].removeprefix(row["module"]).strip(".")
            owner, dot, _ = name.partition(".")
            if dot:
                splits.setdefault(f"{row['module']}.{owner}", set()).add(split)
    assert len(splits) > 300
    assert all(len(found) == 1 for found in splits.values())


def test_nearly_identical_texts_do_not_straddle_splits(snapshot: Path, script: ModuleType) -> None:
    rows = rows_of(snapshot)
    train: dict[tuple[str, ...], list[int]] = {}
    shingles = [script.word_triples(row["text"]) for row in rows["train"]]
    for number, found in enumerate(shingles):
        for triple in found:
            train.setdefault(triple, []).append(number)
    for row in rows["test"] + rows["validation"]:
        here = script.word_triples(row["text"])
        shared = Counter(number for triple in here for number in train.get(triple, ()))
        for number, count in shared.most_common(20):
            similarity = count / (len(here) + len(shingles[number]) - count)
            # MinHash finds candidates: a pair just at the limit may slip through.
            assert similarity <= script.NEAR_IDENTICAL + 0.01, (row["id"], rows["train"][number]["id"])


def test_a_source_file_gives_its_public_docstrings_by_class(script: ModuleType, tmp_path: Path) -> None:
    source = '''"""The docstring of the module itself."""
class Shelf:
    """A class with a docstring that is long enough."""
    def open(self):
        """Open it, in a way that takes three lines

            and keeps its inner
              indentation.
        """
    def _private(self):
        """Nobody sees this one, though it is long enough."""
def free():
    "Too short."
if True:
    async def later():
        """A function that is defined under a condition."""
'''
    (tmp_path / "shelve.py").write_text(source)
    found = list(script.from_source(tmp_path / "shelve.py", tmp_path))
    assert [(one.id, one.group) for one in found] == [
        ("shelve", "shelve"),
        ("shelve.Shelf", "shelve.Shelf"),
        ("shelve.Shelf.open", "shelve.Shelf"),
        ("shelve.later", "shelve.later"),
    ]
    assert {one.label for one in found} == {"Data persistence"}
    assert found[2].text == "Open it, in a way that takes three lines\n\nand keeps its inner\n  indentation."


def test_text_in_two_chapters_is_left_out_and_near_copies_share_a_group(script: ModuleType) -> None:
    def row(name: str, text: str, label: str = "x") -> Any:
        return script.Docstring(name, text, label, "module", name)

    words = "the quick brown fox jumps over the lazy dog and runs away into the dark green wood"
    rows = [
        row("a", words),
        row("b", words + " again"),
        row("c", "something else, entirely unlike the others"),
        row("d", words),
    ]
    rows += [row("e", "in both chapters"), row("f", "in both chapters", "y")]
    kept = script.distinct(rows)
    assert [one.id for one in kept] == ["a", "b", "c"]
    assert script.grouped(kept) == ["a", "a", "c"]


def test_every_module_has_one_chapter(script: ModuleType) -> None:
    import chapters

    names = [name for text in chapters.CHAPTERS.values() for name in text.split()]
    assert len(names) == len(set(names))
    assert set(chapters.C_MODULES.values()) <= set(names)
    assert chapters.chapter_of("os") == "Operating system services"
    assert chapters.chapter_of("asyncio.tasks") == "Networking and interprocess communication"
    assert chapters.chapter_of("idlelib.run") is None


@pytest.mark.slow
def test_script_makes_the_same_bytes_twice(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        command = [sys.executable, str(ROOT / "infra" / "sample" / "make_sample.py"), str(tmp_path / name)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert "docstrings" in output
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]
    assert len(digests[0]) == 6


@pytest.mark.slow
def test_fresh_clone_pulls_the_snapshot(snapshot: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "pull", "-q", "data.dvc"], check=True, cwd=clone)
    assert {path.relative_to(snapshot): path.read_bytes() for path in snapshot.rglob("*.jsonl")} == {
        path.relative_to(clone / "data"): path.read_bytes() for path in (clone / "data").rglob("*.jsonl")
    }
