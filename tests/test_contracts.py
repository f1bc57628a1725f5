"""The data contract as files: params.yaml may name one, `graft contract` writes it, its suite is stored."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft import checks, contracts, params, projects, stages
from graft.errors import ConfigError, InputError
from graft.privacy.section import PrivacyConfig
from graft.repository import Repository
from graft.validation import ValidationConfig
from graft.workspace import Workspace
from tests.conftest import git, write_rows
from tests.test_cli import invoke

ROOT = Path(__file__).parent.parent
PARAMS = """\
task: {name: text_classification}
base: {source: ./base}
validation:
  contract: contracts/topics.yaml
  min_characters: 4
  severity: {encoding: fail}
"""
CONTRACT = """\
# what a topic's rows are
min_characters: 2
max_characters: 90
severity:
  encoding: quarantine
  markup: ignore
expectations:
  - type: expect_column_values_to_match_regex
    kwargs: {column: text, regex: "[a-z]"}
"""


@pytest.fixture
def described(tmp_path: Path) -> Workspace:
    """A folder with a params.yaml, and the contract file that it names."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "topics.yaml").write_text(CONTRACT)
    (tmp_path / "params.yaml").write_text(PARAMS)
    return Workspace(tmp_path)


# -- reading


def test_the_file_is_the_section_and_params_stand_over_it(described: Workspace) -> None:
    found = params.load(described.params).validation
    assert found.contract == "contracts/topics.yaml"
    assert (found.min_characters, found.max_characters, found.min_rows) == (4, 90, 1)
    assert (found.severity.encoding, found.severity.markup, found.severity.labels) == ("fail", "ignore", "fail")
    assert [one.type for one in found.expectations] == ["expect_column_values_to_match_regex"]
    sections, problems = params.partial(described.params)
    assert problems == []
    assert sections["validation"] == found


def test_problems_of_the_file_have_its_lines(described: Workspace) -> None:
    (described.root / "contracts" / "topics.yaml").write_text("min_charcters: 2\nseverity:\n  markup: maybe\n")
    with pytest.raises(ConfigError, match="2 problems") as caught:
        params.load(described.params)
    severity, unknown = caught.value.problems
    assert unknown.startswith("contracts/topics.yaml:1: min_charcters: unknown key; did you mean `min_characters`")
    assert severity.startswith("contracts/topics.yaml:3: severity.markup: must be 'fail'")
    sections, problems = params.partial(described.params)
    assert "validation" not in sections
    assert problems == list(caught.value.problems)
    [one] = [one for one in checks.check(described, adapter=False).failures if "min_charcters" in one.text]
    assert one.check == "params"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("contracts/gone.yaml", "no such file 'contracts/gone.yaml'; `graft contract --to contracts/gone.yaml`"),
        ("../topics.yaml", "must be a path inside the repository"),
        ("/topics.yaml", "must be a path inside the repository"),
        ("''", "validation.contract: "),
    ],
)
def test_a_file_that_no_commit_would_hold_is_refused(
    described: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(described.root)
    (described.root.parent / "topics.yaml").write_text(CONTRACT)
    described.params.write_text(PARAMS.replace("contracts/topics.yaml", name))
    with pytest.raises(ConfigError, match=r"validation\.contract: ") as caught:
        params.load(described.params)
    assert message in str(caught.value)


def test_a_contract_file_names_no_other(described: Workspace) -> None:
    (described.root / "contracts" / "topics.yaml").write_text("# a\ncontract: other.yaml\n")
    with pytest.raises(ConfigError, match=r"contracts/topics\.yaml:2: contract: a contract file names no other one"):
        params.load(described.params)


def test_a_file_and_params_that_contradict_each_other_are_one_message(described: Workspace) -> None:
    (described.root / "contracts" / "topics.yaml").write_text("max_characters: 3\n")
    said = r"(?s)contracts/topics\.yaml and params\.yaml.*max_characters \(3\) is below min_characters \(4\)"
    with pytest.raises(ConfigError, match=said):
        params.load(described.params)


def test_a_group_s_project_names_the_template_s_file(described: Workspace) -> None:
    (described.root / "requirements.lock").write_text("")
    shutil.copytree(ROOT / "src" / "graft", described.root / "src" / "graft", ignore=shutil.ignore_patterns("*.pyc"))
    place = described.root / "projects" / "shop"
    for name, text in projects.derived(described, place, {}).items():
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    found = params.load(place / "params.yaml").validation
    assert found.contract == "../../contracts/topics.yaml"
    assert found.max_characters == 90
    assert stages.CONTRACT in (place / "dvc.yaml").read_text()
    assert (place / "dvc.yaml").read_text() == stages.render(place, described.root)


# -- as an input of the stage


def test_the_stage_depends_on_the_file(described: Workspace) -> None:
    document = yaml.safe_load(stages.render(described.root, ROOT))
    assert [name for name, one in document["stages"].items() if stages.CONTRACT in one["deps"]] == ["validate"]
    described.params.write_text(PARAMS.replace("  contract: contracts/topics.yaml\n", ""))
    assert stages.CONTRACT not in stages.render(described.root, ROOT)


def test_a_stage_refuses_a_file_that_dvc_does_not_watch(described: Workspace) -> None:
    (described.root / "dvc.yaml").write_text("stages:\n  validate:\n    cmd: x\n    deps: [data]\n")
    message = r"validation\.contract: dvc\.yaml does not name 'contracts/topics\.yaml'; `make dvc\.yaml` writes it anew"
    with pytest.raises(ConfigError, match=message):
        stages.run("validate", described)
    assert any(message[:20].replace("\\", "") in one.text for one in checks.check(described, adapter=False).failures)
    for named in (stages.CONTRACT, "contracts/topics.yaml"):
        (described.root / "dvc.yaml").write_text(f"stages:\n  validate:\n    cmd: x\n    deps: [data, '{named}']\n")
        assert stages.unseen_contract(described, "contracts/topics.yaml") is None


def test_dvc_sees_the_file_change_and_follows_an_override(described: Workspace) -> None:
    root = described.root
    (root / ".git").rmdir()
    git(root, "init", "--quiet")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=root, check=True)
    (root / "dvc.yaml").write_text(
        f"stages:\n  validate:\n    cmd: mkdir -p out\n    deps: ['{stages.CONTRACT}']\n    params: [validation]\n"
        "    outs: [out]\n"
    )
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "start")
    repository = Repository(described)
    repository.run_stage("validate")
    assert repository.is_current()
    file = root / "contracts" / "topics.yaml"
    file.write_text(CONTRACT.replace("90", "91"))
    [change] = repository.status()["validate"]
    assert (change.kind, change.path) == ("param", "contracts/topics.yaml")
    file.write_text(CONTRACT)
    assert repository.is_current()
    (root / "contracts" / "other.yaml").write_text("min_rows: 3\n")
    commit = repository.commit_of_overrides(repository.snapshot(), {"validation.contract": "contracts/other.yaml"})
    with repository.worktree(commit) as place:
        assert params.load(place.params).validation.min_rows == 3
        assert {one.path for one in Repository(place).status()["validate"]} >= {"contracts/other.yaml"}
    commit = repository.commit_of_overrides(repository.snapshot(), {"validation.contract": None})
    with repository.worktree(commit) as place:  # a file that an override takes away is no dependency any more
        assert params.load(place.params).validation.contract is None
        assert Repository(place).status()
    described.params.write_text(PARAMS.replace("contracts/topics.yaml", "null"))
    with pytest.raises(ConfigError, match=r"validation\.contract: is null, .*`make dvc\.yaml` writes it anew"):
        repository.status()
    described.params.write_text(PARAMS.replace("  contract: contracts/topics.yaml\n", ""))
    with pytest.raises(ConfigError, match=r"validation\.contract.*`make dvc\.yaml` writes it anew"):
        repository.status()


# -- `graft contract`


@pytest.fixture
def whole(project: Workspace) -> Workspace:
    """The project with a dvc.yaml, in a repository of its own."""
    (project.root / ".git").mkdir()
    (project.root / "dvc.yaml").write_text("stages: {}\n")
    project.params.write_text(
        project.params.read_text() + "validation:\n  min_rows: 2\n  severity: {markup: fail}\n  expectations:\n"
        "    - type: expect_column_values_to_match_regex\n      kwargs: {column: text, regex: '[a-z]'}\n"
    )
    return project


@pytest.fixture
def _rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let projects outside a clone have the stages of this one."""
    render = stages.render
    monkeypatch.setattr(stages, "render", lambda project, repository, task=None: render(project, ROOT, task))


@pytest.mark.usefixtures("_rendered")
def test_the_contract_moves_to_a_file_with_what_the_data_keeps(
    whole: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke("-C", str(whole.root), "contract", "--to", str(whole.root / "contracts" / "toy.yaml")) == 0
    out = capsys.readouterr().out
    assert out.endswith("dvc.yaml name it\ndocs/contract.md says what its keys mean\n")
    assert "#" not in out  # it is no YAML
    assert "kept min_rows: 2 (the data would give 7)\n" in out  # half of 15
    assert "added unique_ids: true\n" in out
    assert yaml.safe_load(whole.params.read_text())["validation"] == {"contract": "contracts/toy.yaml"}
    assert stages.CONTRACT in (whole.root / "dvc.yaml").read_text()
    found = params.load(whole.params).validation
    assert found.min_rows == 2, "what stands there moves"
    assert found.max_characters > 1
    assert found.severity.markup == "fail"
    assert [one.type for one in found.expectations] == [
        "expect_column_values_to_match_regex",
        "expect_column_values_to_be_in_set",
    ]
    file = whole.root / "contracts" / "toy.yaml"
    lines = [one for one in file.read_text().splitlines() if not one.startswith(("min_rows", "unique_ids"))]
    file.write_text("\n".join(["# by people", *lines, ""]).replace("max_characters: ", "max_characters: 9"))
    longest = yaml.safe_load(file.read_text())["max_characters"]
    whole.params.write_text(whole.params.read_text().replace("toy.yaml", "toy.yaml\n  unique_ids: false"))
    before = whole.params.read_text()
    assert invoke("-C", str(whole.root), "contract", "--write") == 0
    out = capsys.readouterr().out
    assert "kept unique_ids: false (the data would give true)\n" in out
    assert "added min_rows: 7\n" in out
    assert whole.params.read_text() == before
    assert file.read_text().startswith("# by people\n")
    values = yaml.safe_load(file.read_text())
    assert (values["min_rows"], values["max_characters"]) == (7, longest)
    assert "unique_ids" not in values
    assert len(values["expectations"]) == 2, "nothing is proposed twice"
    written = file.read_bytes()
    assert invoke("-C", str(whole.root), "contract", "--write") == 0
    assert "nothing to add" in capsys.readouterr().out
    assert file.read_bytes() == written


HAND_SET = """validation:
  # short ones are noise
  min_characters: 2   # by hand
  max_characters: 120
"""


def test_what_stands_in_params_stays_and_is_said(whole: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    text = whole.params.read_text()
    text = text[: text.index("validation:")] + HAND_SET
    whole.params.write_text(text)
    assert invoke("-C", str(whole.root), "contract") == 0
    out = capsys.readouterr().out
    assert yaml.safe_load(out)["validation"].keys() == {"min_rows", "unique_ids", "severity", "expectations"}
    assert invoke("-C", str(whole.root), "contract", "--write") == 0
    out = capsys.readouterr().out
    assert "kept min_characters: 2 (the data would give 1)\n" in out
    assert "kept max_characters: 120" in out
    assert "added min_rows: 7\n" in out
    assert (
        'added expectations.expect_column_values_to_be_in_set.label: {"value_set": '
        '["animals", "cooking", "weather"]}\n' in out
    )
    assert HAND_SET in whole.params.read_text()
    added = yaml.safe_load(whole.params.read_text())["validation"]
    assert added["min_rows"] == 7


@pytest.mark.usefixtures("_rendered")
def test_a_contract_that_moves_has_its_comments_and_differs_from_the_file_s_in_params(
    whole: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = whole.params.read_text()
    whole.params.write_text(text[: text.index("validation:")] + HAND_SET)
    (whole.root / "contracts").mkdir()
    monkeypatch.chdir(whole.root / "contracts")
    assert invoke("-C", "..", "contract", "--to", "first.yaml") == 0, "relative to the current folder"
    assert yaml.safe_load(whole.params.read_text())["validation"] == {"contract": "contracts/first.yaml"}
    first = Path("first.yaml").read_text()
    assert "# short ones are noise" in first
    assert "# by hand" in first
    shared = "max_characters: 90\nplaceholders: [x]\n"
    Path("second.yaml").write_text(shared)
    capsys.readouterr()
    assert invoke("-C", "..", "contract", "--to", "second.yaml") == 0
    assert "kept in params.yaml, over the file's 90: max_characters: 120\n" in capsys.readouterr().out
    section = yaml.safe_load(whole.params.read_text())["validation"]
    assert section == {"contract": "contracts/second.yaml", "max_characters": 120}
    assert Path("second.yaml").read_text().startswith(shared)
    found = params.load(whole.params).validation
    assert (found.min_characters, found.max_characters, found.placeholders) == (2, 120, ("x",))
    assert Path("first.yaml").read_text() == first


@pytest.mark.usefixtures("_rendered")
def test_a_file_that_is_gone_is_written_as_the_message_says(whole: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    text = whole.params.read_text()
    whole.params.write_text(text[: text.index("validation:")] + "validation: {contract: contracts/gone.yaml}\n")
    monkeypatch.chdir(whole.root)
    assert invoke("contract", "--write") == 2
    assert invoke("contract", "--to", "contracts/gone.yaml") == 0
    assert params.load(whole.params).validation.min_rows == 7


def test_an_own_list_of_expectations_over_the_file_s_grows_in_params(described: Workspace) -> None:
    described.params.write_text(f"{PARAMS}  expectations:\n    - type: expect_a\n")
    new = {"type": "expect_b", "kwargs": {"column": "text"}}
    change = contracts.change(described, {"min_characters": 1, "min_rows": 3, "expectations": [new]})
    assert change.added == {"min_rows": 3, "expectations": [new]}
    assert change.kept == {"min_characters": (4, 1)}
    file = described.root / "contracts" / "topics.yaml"
    assert contracts.write(described, change.added) == [file, described.params]
    section = params.load(described.params).validation
    assert [one.type for one in section.expectations] == ["expect_a", "expect_b"]
    assert file.read_text() == f"{CONTRACT}min_rows: 3\n"


def test_another_folder_is_profiled(
    whole: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / "exports" / split / "a.jsonl", [{"text": "a b", "label": "only"}] * 4)
    assert invoke("-C", str(whole.root), "contract", "--from", str(tmp_path / "exports")) == 0
    out = capsys.readouterr().out
    assert "# rows: train 4, validation 4, test 4" in out
    assert yaml.safe_load(out)["validation"]["expectations"][0]["kwargs"]["value_set"] == ["only"]
    assert invoke("-C", str(whole.root), "contract", "--from", str(tmp_path / "gone")) == 2
    assert f"--from {tmp_path / 'gone'}: no such folder" in capsys.readouterr().err
    file = tmp_path / "exports" / "train" / "a.jsonl"
    assert invoke("-C", str(whole.root), "contract", "--from", str(file)) == 2
    assert f"--from {file}: is a file; expected a folder that holds train, validation, test" in capsys.readouterr().err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert invoke("-C", str(whole.root), "contract", "--from", "data") == 2
    inside = os.path.relpath(whole.data)
    assert f"--from data: no such folder; did you mean {inside}? Files are named from" in capsys.readouterr().err
    assert invoke("-C", str(whole.root), "contract", "--from", inside) == 0
    assert f"# profiled: {inside}\n" in capsys.readouterr().out
    (tmp_path / "files").mkdir()
    for split in ("train", "validation", "test"):
        part = next(path for path in (tmp_path / "exports" / split).iterdir() if path.suffix == ".jsonl")
        shutil.copy(part, tmp_path / "files" / f"{split}.jsonl")
    assert invoke("-C", str(whole.root), "contract", "--from", str(tmp_path / "files")) == 0
    assert "rows: train " in capsys.readouterr().out
    shutil.rmtree(tmp_path / "exports" / "test")
    assert invoke("-C", str(whole.root), "contract", "--from", str(tmp_path / "exports")) == 2
    err = capsys.readouterr().err
    assert f"--from {tmp_path / 'exports'}: has no test; a folder to profile holds train, " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "/tmp/elsewhere.yaml"], "--to '/tmp/elsewhere.yaml': must lie inside the repository"),
        (["--compile", "--write"], "--compile: compiles the contract that is there"),
    ],
)
def test_wrong_options_write_nothing(
    whole: Workspace, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = whole.params.read_text()
    assert invoke("-C", str(whole.root), "contract", *arguments) == InputError.exit_code
    assert message in capsys.readouterr().err
    assert whole.params.read_text() == before


# -- the compiled suite


def test_the_stored_suite_of_the_demo_is_what_its_contract_compiles_to() -> None:
    loaded = params.load(ROOT / "params.yaml")
    assert contracts.is_stored(Workspace(ROOT), loaded.task, loaded.validation), "run `graft contract --compile`"


@pytest.mark.parametrize(
    ("kwargs", "kinds"),
    [
        ({"column": "text", "regex": r"ann\.smith@example\.org"}, "regex: private data (email)"),
        ({"column": "text", "value_set": ["x", "+1 212 555 0123"]}, "value_set: private data (phone)"),
        ({"column": "text", "regex": r"^[^@]+@example\.org$"}, None),
        ({"column": "text", "regex": r"\w+@example\.org"}, None),
        ({"column": "text", "min_value": 5}, None),
    ],
)
def test_private_data_in_an_expectation_is_warned_of_and_not_repeated(
    kwargs: dict[str, Any], kinds: str | None
) -> None:
    own = {"type": "expect_column_values_to_match_regex", "kwargs": kwargs}
    validation = ValidationConfig.model_validate({"expectations": [own]})
    found = list(contracts.private_arguments(validation, PrivacyConfig()))
    assert len(found) == bool(kinds)
    for line in found:
        assert line.startswith(f"validation.expectations.0.kwargs.{kinds}")
        assert "smith" not in line
        assert "555" not in line
    assert not list(contracts.private_arguments(validation, PrivacyConfig(kinds=())))


def test_great_expectations_runs_the_stored_suite(whole: Workspace, tmp_path: Path) -> None:
    import great_expectations as gx
    import pandas as pd

    path = contracts.write_suite(whole)
    first = path.read_bytes()
    assert contracts.write_suite(whole).read_bytes() == first
    assert path == whole.root / "contracts" / "text_classification.suite.json"
    context: Any = gx.get_context(mode="file", project_root_dir=tmp_path / "gx")
    shutil.copy(path, tmp_path / "gx" / "gx" / "expectations" / "text_classification.json")
    assert context.suites.get("text_classification").to_json_dict() == json.loads(first)
    context.suites.delete("text_classification")
    described = json.loads(first)
    # The columns of the file alone: what is measured of them is the stage's own.
    described["expectations"] = [
        one for one in described["expectations"] if one["kwargs"]["column"] in ("text", "label")
    ]
    suite = context.suites.add(gx.ExpectationSuite(**described))
    frame = pd.DataFrame({"text": ["a", "B", "NaN"], "label": ["animals", "x", "x"]})
    batches = context.data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")
    definition = context.validation_definitions.add(gx.ValidationDefinition(name="v", data=batches, suite=suite))
    found = definition.run(batch_parameters={"dataframe": frame}, expectation_parameters={"labels": ["animals"]})
    failed = {
        (one.expectation_config.type, one.expectation_config.kwargs["column"]): one.result["unexpected_count"]
        for one in found.results
        if not one.success
    }
    assert failed == {
        ("expect_column_values_to_be_in_set", "label"): 2,
        ("expect_column_values_to_not_be_in_set", "text"): 1,
        ("expect_column_values_to_match_regex", "text"): 1,
    }


def test_check_says_when_the_stored_suite_is_stale(whole: Workspace) -> None:
    def said() -> list[tuple[str, str]]:
        found = checks.check(whole, adapter=True, data=False).findings
        return [(one.state, one.text) for one in found if "suite.json" in one.text]

    assert said() == []
    contracts.write_suite(whole)
    name = "contracts/text_classification.suite.json"
    assert said() == [("ok", f"{name} is what the contract compiles to")]
    whole.params.write_text(whole.params.read_text().replace("{markup: fail}", "{markup: warn}"))
    assert said() == [
        ("warn", f"{name}: is not what the contract compiles to; `graft contract --compile` writes it anew")
    ]


def test_the_stage_stores_the_suite_with_the_labels_of_the_training_rows(
    make_project: Callable[..., Workspace], tmp_path: Path
) -> None:
    place = make_project(tmp_path / "p", validation={})
    stages.run("validate", place)
    first = (place.validation / "suite.json").read_bytes()
    sets = [one["kwargs"]["value_set"] for one in json.loads(first)["expectations"] if one["type"].endswith("_in_set")]
    assert ["animals", "cooking", "weather"] in sets
    assert b'"id": "' not in first
    stages.run("validate", place)
    assert (place.validation / "suite.json").read_bytes() == first
