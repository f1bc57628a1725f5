"""data/ against data.dvc, status with old and new values, and remotes between two clones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from graft.errors import ConfigError, DataError, ResourceMissing
from graft.repository import Change, Repository
from graft.repository.provenance import described
from graft.workspace import Workspace

Bring = Callable[[Repository, str], None]
Executed = Callable[[], list[str]]
Git = Callable[..., str]
Write = Callable[[Path, str, str], None]


def quiet(line: str) -> None:
    """Print nothing."""


def test_data_changes_name_the_files_and_add_data_records_them(repository: Repository, write: Write) -> None:
    root = repository.workspace.root
    assert repository.data_changes() == []
    assert not repository.add_data()
    write(root, "data/train/a.txt", "another text\n")
    write(root, "data/train/c.txt", "new\n")
    (root / "data/test/b.txt").unlink()
    expected = ["data/test/b.txt: deleted", "data/train/a.txt: modified", "data/train/c.txt: added"]
    assert repository.data_changes() == expected
    assert repository.add_data()
    assert repository.data_changes() == []


def test_where_data_comes_from_stays_with_it_until_other_data_comes(repository: Repository, write: Write) -> None:
    root, record = repository.workspace.root, repository.workspace.data_dvc
    said = {"source": "hub:org/name", "revision": "0123456789abcdef", "layouts": {"a.json": "sharegpt; ü"}}
    record.write_text(f"# kept\n{record.read_text()}")
    assert repository.provenance() == {}
    assert repository.add_data(said)
    assert not repository.add_data(said)
    assert repository.provenance() == said
    assert repository.data_changes() == []
    content = record.read_text()
    assert content.startswith("# kept\n")
    assert yaml.safe_load(content)["meta"] == {"import": said}
    assert not repository.add_data()
    assert repository.provenance() == said
    write(root, "data/train/c.txt", "new\n")
    assert repository.add_data()
    assert repository.provenance() == {}
    assert "meta" not in yaml.safe_load(record.read_text())
    write(root, "data/train/d.txt", "imported\n")
    assert repository.add_data(said)
    assert repository.data_changes() == []
    shutil.rmtree(repository.workspace.data)
    subprocess.run([sys.executable, "-m", "dvc", "checkout", "-q", "data.dvc"], cwd=root, check=True)
    assert (root / "data/train/d.txt").read_text() == "imported\n"


def test_provenance_in_words() -> None:
    layouts = {"in/train.json": "alpaca", "in/test.json": "alpaca", "in/validation.json": "messages"}
    assert list(described({"source": "in", "layouts": layouts, "rows": {}})) == [
        "imported from in",
        "layout of in/train.json, in/test.json: alpaca",
        "layout of in/validation.json: messages",
    ]
    found = {"source": "hub:org/name", "revision": "0123456789abcdef0123", "config": "en", "splits": "a as train"}
    assert list(described(found)) == ["imported from hub:org/name at 0123456789ab, config en, splits a as train"]


def test_data_without_data_dvc_is_all_added(repository: Repository) -> None:
    repository.workspace.data_dvc.unlink()
    assert repository.data_changes() == ["data/test/b.txt: added", "data/train/a.txt: added"]
    assert repository.add_data()
    shutil.rmtree(repository.workspace.data)
    repository.workspace.data_dvc.unlink()
    with pytest.raises(DataError, match="graft import"):
        repository.data_changes()


def test_the_sample_remote_is_refused_for_data_that_it_does_not_hold(repository: Repository, write: Write) -> None:
    root, record = repository.workspace.root, repository.workspace.data_dvc
    # What `dvc add` leaves when the sample's data.dvc stood there before.
    record.write_text(record.read_text() + "  remote: sample\n")
    with pytest.raises(ConfigError, match="remove the line `remote: sample`"):
        repository.data_changes()
    repository.add_data()
    assert "remote" not in yaml.safe_load(record.read_text())["outs"][0]
    shutil.copytree(root / ".dvc/cache/files", root / "sample/files")
    record.write_text(record.read_text() + "  remote: sample\n")
    assert repository.data_changes() == []
    write(root, "data/train/a.txt", "my own text\n")
    assert repository.add_data()
    assert "remote" not in yaml.safe_load(record.read_text())["outs"][0]


def test_pull_data_gets_absent_data(repository: Repository, second_clone: Workspace) -> None:
    other = Repository(second_clone)
    with pytest.raises(ResourceMissing, match="cannot get data/"):
        other.pull_data()
    repository.push()
    assert other.data_changes() == []
    assert other.pull_data()
    assert (second_clone.data / "train/a.txt").read_text() == "good text\n"
    assert not other.pull_data()


def test_data_that_the_cache_lacks_is_put_there_and_data_dvc_stays(repository: Repository) -> None:
    root, record = repository.workspace.root, repository.workspace.data_dvc
    shutil.copytree(root / ".dvc/cache/files", root / "sample/files")
    record.write_text(record.read_text() + "  remote: sample\n")
    before = record.read_bytes()
    assert not repository.cache_data()
    shutil.rmtree(root / ".dvc/cache")
    assert dvc_status(root) == ["data.dvc"]
    assert repository.cache_data()
    assert dvc_status(root) == []
    assert record.read_bytes() == before
    (root / "data/train/a.txt").write_text("another text\n")
    assert not repository.cache_data()


def test_data_copied_into_a_clone_is_put_into_its_cache(repository: Repository, second_clone: Workspace) -> None:
    shutil.copytree(repository.workspace.data, second_clone.data)
    assert dvc_status(second_clone.root) == ["data.dvc"]
    assert Repository(second_clone).data_changes(cache=True) == []
    assert dvc_status(second_clone.root) == []


def dvc_status(root: Path) -> list[str]:
    """Return what ``dvc status`` finds changed in data.dvc."""
    command = [sys.executable, "-m", "dvc", "status", "--json", "data.dvc"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def test_status_gives_old_and_new_of_what_changed(repository: Repository, write: Write, bring: Bring) -> None:
    root = repository.workspace.root
    assert repository.status() == {name: [Change("stage", name, None, "never run")] for name in ("first", "second")}
    for name in ("first", "second"):
        bring(repository, name)
    assert repository.status() == {"first": [], "second": []}
    assert repository.is_current()
    params = repository.workspace.params
    params.write_text(params.read_text().replace("epochs: 2", "epochs: 3\n  batch_rows: 4"))
    write(root, "second.py", (root / "second.py").read_text() + "# more\n")
    write(root, "data/train/a.txt", "other\n")
    write(root, "artifacts/first/upper.txt", "edited\n")
    found = repository.status()
    assert [(change.kind, change.path) for change in found["first"]] == [
        ("data", "data"),
        ("param", "training.batch_rows"),
        ("param", "training.epochs"),
        ("out", "artifacts/first"),
    ]
    assert [str(change) for change in found["first"][1:3]] == [
        "training.batch_rows: (none) -> 4",
        "training.epochs: 2 -> 3",
    ]
    assert [(change.kind, change.path) for change in found["second"]] == [
        ("artifact", "artifacts/first"),
        ("code", "second.py"),
    ]
    recorded = yaml.safe_load(repository.workspace.dvc_lock.read_text())["stages"]["first"]
    (old,) = (dep["md5"] for dep in recorded["deps"] if dep["path"] == "data")
    assert found["first"][0].old == old[:8]
    assert not repository.is_current()


def test_status_sees_a_changed_command_and_a_lost_cache(repository: Repository, bring: Bring) -> None:
    root = repository.workspace.root
    bring(repository, "first")
    (root / "dvc.yaml").write_text((root / "dvc.yaml").read_text().replace("run.sh first", "run.sh  first"))
    assert [change.kind for change in repository.status()["first"]] == ["command"]
    shutil.rmtree(root / ".dvc/cache")
    assert [str(change) for change in repository.status()["first"]][1].endswith("-> not in the cache")


def test_a_second_clone_takes_results_from_the_run_cache(
    repository: Repository, second_clone: Workspace, executed: Executed, git: Git, bring: Bring
) -> None:
    for name in ("first", "second"):
        bring(repository, name)
    assert repository.push() > 0
    assert repository.push() == 0 or repository.push() >= 0
    other = Repository(second_clone)
    other.pull_data()
    assert [other.run_stage(name, pull=True, on_line=quiet).outcome for name in ("first", "second")] == ["restored"] * 2
    assert executed() == ["first", "second"]
    assert (second_clone.artifacts / "second/result.txt").read_text() == "GOOD TEXT\n" * 2


def test_a_placed_stage_runs_on_its_commit_and_comes_back(
    repository: Repository, second_clone: Workspace, executed: Executed, write: Write, bring: Bring
) -> None:
    """The way of a GPU worker: commit and names travel, inputs and result meet in the DVC remote."""
    write(
        repository.workspace.root,
        "second.py",
        "import pathlib\n" + (repository.workspace.root / "second.py").read_text(),
    )
    bring(repository, "first")
    repository.push()
    commit = repository.snapshot()
    repository.push_snapshot(commit)
    worker = Repository(second_clone)
    with worker.worktree(commit) as inner:
        assert Repository(inner).run_stage("second", pull=True, on_line=quiet).outcome == "ran"
        Repository(inner).push(["second"])
    assert repository.run_stage("second", pull=True, on_line=quiet).outcome == "restored"
    assert executed() == ["first", "second"]


def test_pull_gets_recorded_outputs(
    repository: Repository, second_clone: Workspace, executed: Executed, bring: Bring
) -> None:
    bring(repository, "first")
    repository.push()
    shutil.copy(repository.workspace.dvc_lock, second_clone.dvc_lock)
    assert Repository(second_clone).pull(["first"]) > 0
    assert (second_clone.artifacts / "first/count.txt").read_text() == "10"
    assert executed() == ["first"]


def test_without_a_default_remote_pushing_says_what_to_do(repository: Repository) -> None:
    config = repository.workspace.root / ".dvc/config"
    config.write_text(config.read_text().replace("remote = shared", "autostage = false"))
    for act in (repository.push, repository.pull):
        with pytest.raises(ResourceMissing, match="dvc remote add --default"):
            act()


def test_a_remote_folder_that_cannot_be_made_is_named(repository: Repository) -> None:
    root = repository.workspace.root
    config = root / ".dvc/config"
    config.write_text(config.read_text().replace("../../shared", "../params.yaml/shared"))
    with pytest.raises(ResourceMissing, match=r"cannot make its folder .*params\.yaml/shared"):
        repository.push()


def test_outside_dvc_it_says_so(tmp_path: Path, git: Git, write: Write) -> None:
    git(tmp_path, "init", "--quiet")
    write(tmp_path, "params.yaml", "")
    write(tmp_path, "data/train/a.txt", "1")
    with pytest.raises(ConfigError, match="dvc init"):
        Repository(Workspace(tmp_path)).add_data()


def test_run_refuses_data_that_data_dvc_does_not_have_before_it_starts_anything(
    repository: Repository, write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.test_cli import invoke

    monkeypatch.setattr("graft.cli.child.run_module", lambda *_: pytest.fail("the chain was started"))
    monkeypatch.setattr("graft.checks.check", lambda *_, **__: pytest.fail("the base was looked at"))
    write(repository.workspace.root, "data/train/new.txt", "more")
    assert invoke("-C", str(repository.workspace.root), "run") == 2
    err = capsys.readouterr().err
    assert "data/ differs from data.dvc (1 file); `graft " in err
    assert "run --add-data` records the change" in err
    assert "  - data/train/new.txt: added" in err


def test_check_says_that_data_differs_from_its_record(repository: Repository, write: Write) -> None:
    from graft.checks import _recorded

    assert list(_recorded(repository.workspace)) == []
    write(repository.workspace.root, "data/train/new.txt", "more")
    [found] = _recorded(repository.workspace)
    assert found.state == "warn"
    assert found.text.startswith("data/ differs from data.dvc (data/train/new.txt: added): `graft run --add-data`")
