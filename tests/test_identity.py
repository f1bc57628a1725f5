"""Digests, the run key, and the list of code that a stage depends on."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from graft import identity

SOURCE = Path(identity.__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    (root / "inner").mkdir(parents=True)
    (root / "a.txt").write_bytes(b"one")
    (root / "inner" / "b.txt").write_bytes(b"two")
    (root / ".hidden").write_bytes(b"three")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "a.pyc").write_bytes(b"four")
    return root


def test_digest_file_equals_sha256sum(folder: Path) -> None:
    printed = subprocess.run(["sha256sum", folder / "a.txt"], capture_output=True, text=True, check=True).stdout
    assert identity.digest_file(folder / "a.txt") == printed.split()[0] == identity.digest_bytes(b"one")


def test_digest_files_leaves_out_hidden_and_compiled_files(folder: Path) -> None:
    assert identity.digest_files(folder) == {
        "a.txt": hashlib.sha256(b"one").hexdigest(),
        "inner/b.txt": hashlib.sha256(b"two").hexdigest(),
    }


def test_digest_folder_sees_contents_and_names_only(folder: Path) -> None:
    before = identity.digest_folder(folder)
    (folder / "a.txt").touch()
    assert identity.digest_folder(folder) == before
    (folder / "a.txt").rename(folder / "c.txt")
    renamed = identity.digest_folder(folder)
    (folder / "c.txt").write_bytes(b"One")
    assert len({before, renamed, identity.digest_folder(folder)}) == 3


def test_digest_json_does_not_depend_on_the_order_of_keys() -> None:
    one, two = {"a": 1, "b": [1.5, "é"]}, {"b": [1.5, "é"], "a": 1}
    text = '{"a":1,"b":[1.5,"é"]}'
    assert identity.digest_json(one) == identity.digest_json(two) == hashlib.sha256(text.encode()).hexdigest()


def test_digest_json_refuses_what_is_not_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        identity.digest_json(float("inf"))


def test_run_key_sees_what_training_is_made_of_and_not_the_device() -> None:
    made = {name: name for name in ("data", "params", "base", "code", "environment", "task")}
    key = identity.run_key({**made, "device": "cpu", "threads": 2, "seed": 1})
    assert key == identity.run_key({**made, "device": "cuda", "threads": 64, "seed": 1})
    assert len(key) == 16
    assert int(key, 16) >= 0
    others = {identity.run_key({**made, name: "changed"}) for name in made}
    assert len(others) == len(made)
    assert key not in others


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package `graft` whose modules import one another in every way that Python has."""
    files = {
        "graft/__init__.py": "",
        "graft/stage.py": "import graft.plain\nfrom graft import attribute\nfrom graft.folder import name\n",
        "graft/plain.py": "import json\ndef f():\n    from graft.lazy import x\n",
        "graft/attribute.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from graft.typed import T\n",
        "graft/lazy.py": "from graft import plain\nx = 1\n",
        "graft/typed.py": "T = int\n",
        "graft/folder/__init__.py": "name = 1\n",
        "graft/folder/unused.py": "",
        "graft/folder/templates/report.html.j2": "",
        "graft/folder/templates/style.css": "",
        "graft/folder/__pycache__/unused.pyc": "",
        "graft/folder/package/__init__.py": "",
        "graft/folder/package/not_reached.css": "",
        "graft/other.py": "",
        "graft/params.py": "import graft.other\n",
        "graft/tasks/__init__.py": "",
        "graft/tasks/one.py": "import graft.pooled\n",
        "graft/pooled.py": "",
        "graft/adapters/__init__.py": "",
        "graft/adapters/found.py": "import graft.by_place\n",
        "graft/adapters/several/__init__.py": "",
        "graft/adapters/several/layer.py": "",
        "graft/by_place.py": "",
        "graft/adapted.py": "import graft.adapters\n",
        "graft/deep.py": "import graft.folder.unused\nfrom graft import params\nfrom graft.tasks import one\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def names(paths: list[Path], source: Path) -> list[str]:
    return [path.relative_to(source).as_posix() for path in paths]


def test_code_of_follows_every_kind_of_import(package: Path) -> None:
    assert names(identity.code_of("graft.stage", package), package) == [
        "graft/__init__.py",
        "graft/attribute.py",
        "graft/folder/__init__.py",
        "graft/folder/templates/report.html.j2",
        "graft/folder/templates/style.css",
        "graft/lazy.py",
        "graft/plain.py",
        "graft/stage.py",
        "graft/typed.py",
    ]


def test_code_of_leaves_out_dispatchers_and_task_files_but_not_what_tasks_import(package: Path) -> None:
    assert names(identity.code_of("graft.deep", package), package) == [
        "graft/__init__.py",
        "graft/deep.py",
        "graft/folder/__init__.py",
        "graft/folder/templates/report.html.j2",
        "graft/folder/templates/style.css",
        "graft/folder/unused.py",
        "graft/pooled.py",
        "graft/tasks/__init__.py",
    ]


def test_code_of_holds_every_adapter_method_since_they_are_found_by_their_place(package: Path) -> None:
    assert names(identity.code_of("graft.adapted", package), package) == [
        "graft/__init__.py",
        "graft/adapted.py",
        "graft/adapters/__init__.py",
        "graft/adapters/found.py",
        "graft/adapters/several/__init__.py",
        "graft/adapters/several/layer.py",
        "graft/by_place.py",
    ]


def test_code_digest_is_that_of_the_files_by_name(tmp_path: Path) -> None:
    files = [*identity.code_of("graft.training", SOURCE), SOURCE / "graft" / "tasks" / "text_classification.py"]
    expected = {path.relative_to(SOURCE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    text = json.dumps(expected, sort_keys=True, separators=(",", ":"))
    assert identity.code_digest("graft.training", "text_classification") == hashlib.sha256(text.encode()).hexdigest()
