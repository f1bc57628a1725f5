"""A project for each group: which ones there are, what they get from their template, and the chain with a bad one."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft import groups, params
from graft.base import locked
from graft.errors import ConfigError, DataError, Interrupted
from graft.groups import Group, Outcome, _pinned
from graft.stages import render
from graft.workspace import Workspace, read_json, write_json
from tests.conftest import toy_rows, write_rows

ROOT = Path(__file__).parent.parent
SECTIONS: dict[str, Any] = {"data": {}, "validation": {}, "promotion": {}}


@pytest.fixture
def template(tmp_path: Path, make_project: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A clone whose default project is the tiny one, with two groups in ``groups/``."""
    for name in ("HOME", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "settings"))
    clone = make_project(tmp_path / "clone", training={"max_steps": 2}, **SECTIONS)
    (clone.root / "dvc.yaml").write_text(render(clone.root, ROOT))
    for name in ("src", "pipelines", "infra"):
        (clone.root / name).symlink_to(ROOT / name)
    write_rows(clone.root / "groups" / "Shop DE.jsonl", toy_rows(60, 11))
    write_rows(clone.root / "groups" / "shop-en" / "rows.jsonl", toy_rows(60, 12))
    (clone.root / "groups" / "README.md").write_text("not rows")
    settings = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    (clone.root / ".gitignore").write_text("/data\n/artifacts\n/.graft\n/src\n/pipelines\n/infra\n")
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], [*settings, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=clone.root, check=True, capture_output=True)
    from dvc.repo import Repo

    Repo.init(str(clone.root)).close()
    return clone


def named(template: Workspace) -> dict[str, Group]:
    return {one.name: one for one in groups.found(template, "groups/*", template.root)}


def test_groups_are_files_and_folders_by_name(template: Workspace) -> None:
    found = named(template)
    assert list(found) == ["shop-de", "shop-en"]
    assert found["shop-de"].workspace.root == template.root / "projects" / "shop-de"
    absolute = groups.found(template, str(template.root / "groups" / "*.jsonl"), Path("/"))
    assert [one.name for one in absolute] == ["shop-de"]


def test_pattern_starts_in_a_folder_of_any_name(tmp_path: Path) -> None:
    start = tmp_path / "clients [2]"
    write_rows(start / "groups" / "a.jsonl", toy_rows(2, 1))
    found = groups.found(Workspace(tmp_path), "groups/*", start)
    assert [one.source for one in found] == [start / "groups" / "a.jsonl"]


def test_groups_of_another_project_carry_its_name(template: Workspace) -> None:
    reviews = Workspace(template.root / "projects" / "reviews")
    assert groups.found(reviews, "groups/shop-en", template.root)[0].workspace.name == "projects/reviews-shop-en"


def test_no_group_and_two_of_one_name_are_refused(template: Workspace) -> None:
    with pytest.raises(ConfigError, match=r"--each 'nothing/\*': matches no folder and no .jsonl"):
        groups.found(template, "nothing/*", template.root)
    write_rows(template.root / "groups" / "shop_de.jsonl", [])
    write_rows(template.root / "groups" / "shop de.csv", [])
    with pytest.raises(ConfigError, match=r"more than one group is called shop-de; rename"):
        groups.found(template, "groups/*", template.root)


def test_every_name_gives_a_project_of_its_own(template: Workspace) -> None:
    for name in ("Café", "Cafe", "東京", "大阪", "!!"):
        write_rows(template.root / "towns" / f"{name}.jsonl", toy_rows(3, 1))
    found = groups.found(template, "towns/*", template.root)
    names = {one.source.stem: one.name for one in found}
    assert names["Cafe"] == "cafe"
    assert re.fullmatch(r"cafe-[0-9a-f]{8}", names["Café"])
    assert all(re.fullmatch(r"group-[0-9a-f]{8}", names[name]) for name in ("東京", "大阪", "!!"))
    assert len(set(names.values())) == 5
    # A file system that takes names apart (macOS) gives the same project.
    (template.root / "apart").mkdir()
    write_rows(template.root / "apart" / f"{unicodedata.normalize('NFD', 'Café')}.jsonl", [])
    assert groups.found(template, "apart/*", template.root)[0].name == names["Café"]


def test_a_killed_group_fails_alone_and_a_signal_to_us_stops_all(
    template: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from graft.cli import child
    from graft.cli.each import run_each

    def killed(place: Workspace, _module: str, _arguments: list[str], passed_on: list[int]) -> int:
        passed_on += to_us
        if place.name.endswith("de"):
            raise Interrupted("the run was ended by SIGKILL; the same command resumes")
        return 75

    to_us: list[int] = []
    monkeypatch.setattr(child, "run_module", killed)
    assert run_each(template, "groups/*", [], template.root) == 75
    *_, one, other, summary = capsys.readouterr().out.splitlines()
    assert "failed (75): the run was ended by SIGKILL" in one
    assert other.startswith("shop-en")
    assert "failed (75)" in other
    assert summary == "0 of 2 groups have their adapter, 2 failed"
    to_us.append(signal.SIGINT)
    with pytest.raises(Interrupted, match="ended by SIGKILL"):
        run_each(template, "groups/*", [], template.root)
    assert "shop-en" not in capsys.readouterr().out


def test_commands_that_a_group_s_error_suggests_name_its_project(
    template: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from graft.cli import child
    from graft.cli.each import run_each
    from graft.workspace import TYPED_VARIABLE

    def fails(_place: Workspace, *_rest: object) -> int:
        raise ConfigError("not ready; run `graft check`")

    monkeypatch.setattr(child, "run_module", fails)
    monkeypatch.setenv(TYPED_VARIABLE, "projects/template")
    run_each(template, "groups/*", [], template.root)
    said = capsys.readouterr().out
    for group in groups.found(template, "groups/*", template.root):
        assert f"error: not ready; run `graft -C {os.path.relpath(group.workspace.root)} check`" in said
    assert "projects/template" not in said
    assert os.environ[TYPED_VARIABLE] == "projects/template"


def test_a_base_that_is_not_locked_stops_before_the_first_group(template: Workspace) -> None:
    from graft.cli.each import run_each

    template.sources_lock.unlink()
    with pytest.raises(ConfigError, match=r"sources.lock: not there; run `graft lock`"):
        run_each(template, "groups/*", [], template.root)
    assert not (template.root / "projects").exists()


@pytest.mark.parametrize("as_folder", [False, True])
def test_changed_pictures_behind_the_same_rows_are_imported_anew(
    template: Workspace, picture_of: Callable[[str, int], bytes], tmp_path: Path, as_folder: bool
) -> None:
    described = yaml.safe_load(template.params.read_text())
    described["task"] = {"name": "image_classification"}
    template.params.write_text(yaml.safe_dump(described))
    place = template.root / "groups" / "shots"
    (tmp_path / "elsewhere").mkdir()
    place.mkdir()
    (place / "pictures").symlink_to(tmp_path / "elsewhere")
    for number in range(12):
        (place / "pictures" / f"{number}.png").write_bytes(picture_of("left", number))
    rows = [{"image": f"pictures/{number}.png", "label": "ab"[number % 2]} for number in range(12)]
    write_rows(place / "rows.jsonl", rows)
    found = groups.found(template, "groups/shots" if as_folder else "groups/shots/*.jsonl", template.root)

    def pictures() -> dict[str, int]:
        (group,) = found
        groups.prepare(template, params.load(template.params), group)
        files = [path for path in (group.workspace.data / "files").rglob("*") if path.is_file()]
        return {path.name: path.stat().st_mtime_ns for path in files}

    before = pictures()
    assert pictures() == before
    (place / "pictures" / "3.png").write_bytes(picture_of("right", 99))
    after = pictures()
    assert len(after.keys() - before.keys()) == len(before.keys() - after.keys()) == 1
    # Two pictures that change places leave the same contents behind other rows.
    (group,) = found
    parts = [path.read_text() for path in sorted(group.workspace.data.rglob("*.jsonl"))]
    one, other = place / "pictures" / "4.png", place / "pictures" / "5.png"
    contents = one.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0])
    one.write_bytes(contents[1])
    assert pictures().keys() == after.keys()
    assert [path.read_text() for path in sorted(group.workspace.data.rglob("*.jsonl"))] != parts


def test_a_group_gets_params_base_and_rows(template: Workspace) -> None:
    group, config = named(template)["shop-de"], params.load(template.params)
    groups.prepare(template, config, group)
    place = group.workspace
    mine = params.load(place.params)
    assert mine.registration.name == "toy-topic-shop-de"
    assert mine.base.source == "../../base"
    apart = {"registration", "base"}
    assert mine.model_dump(exclude=apart) == config.model_dump(exclude=apart)
    base = locked(place, mine.base)
    assert base.digest == locked(template, config.base).digest
    assert base.folder(place.root).resolve() == (template.root / "base").resolve()
    assert sorted(one.name for one in place.data.iterdir()) == ["test", "train", "validation"]
    assert place.data_dvc.is_file()
    assert (place.root / "dvc.yaml").read_text() == render(place.root, template.root)


@pytest.mark.slow
def test_only_what_is_new_is_imported_and_params_follow(template: Workspace) -> None:
    group = named(template)["shop-en"]
    groups.prepare(template, params.load(template.params), group)
    part = group.workspace.data / "train" / "part-0000.jsonl"
    times = part.stat().st_mtime_ns, group.workspace.params.stat().st_mtime_ns
    groups.prepare(template, params.load(template.params), group)
    assert (part.stat().st_mtime_ns, group.workspace.params.stat().st_mtime_ns) == times
    described = yaml.safe_load(template.params.read_text())
    described["training"]["epochs"] = 9
    template.params.write_text(yaml.safe_dump(described))
    groups.prepare(template, params.load(template.params), group)
    assert params.load(group.workspace.params).training.epochs == 9
    assert part.stat().st_mtime_ns == times[0]
    write_rows(template.root / "groups" / "shop-en" / "more.jsonl", toy_rows(30, 99))
    groups.prepare(template, params.load(template.params), group)
    rows = [line for path in group.workspace.data.rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(rows) == 90


def test_bad_rows_leave_the_data_as_it_was(template: Workspace) -> None:
    group, config = named(template)["shop-de"], params.load(template.params)
    groups.prepare(template, config, group)
    before = {path: path.read_bytes() for path in group.workspace.data.rglob("*.jsonl")}
    with group.source.open("a") as file:
        file.write('{"text": 7, "label": "weather"}\n')
    with pytest.raises(DataError, match=r"Shop DE.jsonl:61"):
        groups.prepare(template, config, group)
    assert {path: path.read_bytes() for path in group.workspace.data.rglob("*.jsonl")} == before


def test_rows_are_imported_anew_where_the_task_reads_other_columns(template: Workspace) -> None:
    table = template.root / "groups" / "priced.csv"
    rows = [{**row, "price": str(number)} for number, row in enumerate(toy_rows(60, 14))]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "label", "price"])
        writer.writeheader()
        writer.writerows(rows)
    group = named(template)["priced"]
    groups.prepare(template, params.load(template.params), group)
    described = yaml.safe_load(template.params.read_text())
    described["task"]["numeric_columns"] = ["price"]
    template.params.write_text(yaml.safe_dump(described))
    groups.prepare(template, params.load(template.params), group)
    part = next((group.workspace.data / "train").glob("*.jsonl"))
    assert all(isinstance(json.loads(line)["price"], int) for line in part.read_text().splitlines())


def test_a_group_that_cannot_be_read_is_an_error_of_its_own(template: Workspace) -> None:
    (template.root / "groups" / "gone.jsonl").symlink_to(template.root / "nowhere.jsonl")
    with pytest.raises(DataError, match=r"gone.jsonl: cannot be read \(No such file or directory\)"):
        groups.prepare(template, params.load(template.params), named(template)["gone"])


def test_a_project_that_somebody_made_is_left_alone(template: Workspace) -> None:
    group = named(template)["shop-de"]
    (group.workspace.root).mkdir(parents=True)
    group.workspace.params.write_text("mine\n")
    with pytest.raises(
        ConfigError, match=r"projects/shop-de: is there already and was not made from the default project"
    ):
        groups.prepare(template, params.load(template.params), group)
    assert group.workspace.params.read_text() == "mine\n"


@pytest.mark.parametrize(("codes", "expected"), [([0, 0], 0), ([0, 2], 2), ([3, 3], 3), ([3, 6], 2), ([7], 7)], ids=str)
def test_exit_code_is_the_failures_own_where_they_agree(codes: list[int], expected: int) -> None:
    assert groups.exit_code([Outcome("a", exit_code=code) for code in codes]) == expected


def test_table_has_the_error_in_place_of_the_version(template: Workspace) -> None:
    group = named(template)["shop-de"]
    bad = groups.failed(group, "data: 2 problems\n  - a.jsonl:1: text: expected a string\n  - more", 2)
    good = Outcome("b", rows=9, metric="0.9 [0.8, 1.0]", base="0.3 [0.2, 0.4]", version="m-b version 1", new=False)
    columns, rows = groups.table([bad, good], "accuracy")
    assert columns == ["group", "rows", "accuracy", "base's accuracy", "version or error"]
    assert rows[0][-1] == "failed (2): data: 2 problems - a.jsonl:1: text: expected a string"
    assert rows[1] == ["b", "9", "0.9 [0.8, 1.0]", "0.3 [0.2, 0.4]", "m-b version 1 (as it was)"]


@pytest.mark.slow
def test_a_bad_group_among_good_ones_does_not_stop_them(template: Workspace) -> None:
    for name in ("src", "pipelines", "infra"):
        (template.root / name).unlink()
        shutil.copytree(ROOT / name, template.root / name, ignore=shutil.ignore_patterns("__pycache__", "sample*"))
    for name in ("requirements.lock", ".dvcignore"):
        shutil.copy(ROOT / name, template.root / name)
    (template.root / ".gitignore").write_text("__pycache__/\n.graft/\nartifacts/\n/data\n/mlflow/store/\n")
    one_label = [{**row, "label": "weather"} for row in toy_rows(60, 13)]
    write_rows(template.root / "groups" / "with-one-label.jsonl", one_label)
    shutil.rmtree(template.root / "groups" / "shop-en")
    write_rows(template.root / "groups" / "broken.jsonl", [{"text": 7, "label": "weather"}])
    environment = {**os.environ, "PYTHONPATH": str(template.root / "src"), "GRAFT_PYTHON": sys.executable}

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "graft", "run", "--each", "groups/*"]
        return subprocess.run(command, cwd=template.root, env=environment, capture_output=True, text=True, check=False)

    first = run()
    assert first.returncode == 2, first.stdout + first.stderr
    lines = first.stdout.splitlines()
    table = {line.split()[0]: line for line in lines[lines.index(next(x for x in lines if x.startswith("group  "))) :]}
    assert "failed (2)" in table["broken"]
    assert "broken.jsonl:1" in table["broken"]
    assert "failed (2)" in table["with-one-label"]
    assert "toy-topic-shop-de version 1" in table["shop-de"]
    metrics = read_json(template.root / "projects" / "shop-de" / "artifacts" / "evaluation" / "metrics.json")
    assert f"{metrics['adapter']['accuracy']['value']:.3f}" in table["shop-de"]
    assert "1 of 3 groups have their adapter, 2 failed" in first.stdout
    runs = {path: len(list(path.iterdir())) for path in (template.root / ".graft" / "projects").glob("shop-*/runs")}
    again = run()
    assert again.returncode == 2
    assert again.stdout.count("nothing to do: ") == 1
    assert again.stdout.count("(as it was)") == 1
    assert {path: len(list(path.iterdir())) for path in runs} == runs
    receipts = json.loads((template.root / ".graft" / "projects" / "shop-de" / "published.json").read_text())
    assert len(receipts) == 1


def test_a_group_keeps_its_own_champion(tmp_path: Path) -> None:
    template, group = Workspace(tmp_path / "template"), Workspace(tmp_path / "group")
    write_json(template.sources_lock, {"base": {"source": "hub/base"}, "champion": {"version": "7"}})
    assert json.loads(_pinned(template, group)) == {"base": {"source": "hub/base"}, "champion": None}
    write_json(group.sources_lock, {"base": {"source": "old/base"}, "champion": {"version": "2"}})
    assert json.loads(_pinned(template, group)) == {"base": {"source": "hub/base"}, "champion": {"version": "2"}}
