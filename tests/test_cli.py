"""The command line: what it prints, how it ends, and that it is quick to answer."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import graft.cli
from graft import errors, params, tasks
from graft.cleaning import clean_row
from graft.cli import GROUPS, printing
from graft.cli.app import EXIT_CODES, app
from graft.cli.asked import Asked
from graft.cli.child import run_module
from graft.cli.tables import batches, writer
from graft.errors import DataError, InputError, Interrupted
from graft.stages import STAGES
from graft.tracking import resolve_uri
from graft.validation.champion import Pin, pin
from graft.workspace import Workspace

ROOT = Path(__file__).parent.parent
for _group in GROUPS:
    __import__(f"graft.cli.{_group}")
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
EXPECTED = (
    *(
        "init",
        "projects",
        "import",
        "data",
        "contract",
        "lock",
        "check",
        "schema",
        "run",
        "stage",
        "status",
        "logs",
        "cancel",
    ),
    *(
        "promote",
        "rollback",
        "reconcile",
        "history",
        "sync",
        "tensorboard",
        "predict",
        "merge",
        "reproduce",
        "provenance",
        "diff",
        "ui",
        "worker",
        "doctor",
        "gc",
    ),
)


def invoke(*arguments: str) -> int:
    """Run the command line in this process; return its exit code."""
    with pytest.raises(SystemExit, match=r"^\d*$") as caught:
        graft.cli.main(list(arguments))
    code = caught.value.code
    return code if isinstance(code, int) else 0 if code is None else 1


def process(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "graft", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# -- help
def test_commands_are_those_that_the_readme_promises() -> None:
    assert sorted(COMMANDS) == sorted(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_command_has_help_and_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(name, "--help") == 0
    text = capsys.readouterr().out
    assert f"graft {name}" in text
    assert "Examples" in text
    command = COMMANDS[name]
    assert command.help
    assert command.rich_help_panel
    undocumented = [one.name for one in command.params if not getattr(one, "help", None)]
    assert undocumented == []


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_examples_use_options_that_exist(name: str) -> None:
    """Each example is parsed by the command's own parser."""
    import shlex

    shown = re.findall(r"\[cyan\](.*?)\[/\]", COMMANDS[name].epilog or "")
    assert shown
    for line in shown:
        words = shlex.split(line.partition(" >")[0])
        while "=" in words[0]:
            words = words[1:]
        if words[0] != "graft":
            continue
        words = words[3:] if words[1] == "-C" else words[1:]
        assert words[0] == name, line
        COMMANDS[name].make_context(name, words[1:], resilient_parsing=False)


def test_help_documents_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"{code} {meaning}" in text for code, meaning in EXIT_CODES.items())
    raised = {one.exit_code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)}
    assert raised <= set(EXIT_CODES)


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["--version"]])
def test_help_imports_nothing_heavy_and_little_else(arguments: list[str]) -> None:
    code = (
        "import sys, graft.cli\n"
        "try:\n    graft.cli.main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "heavy = 'torch transformers peft mlflow great_expectations prefect dvc pandas numpy ruamel'.split()\n"
        "print(len(sys.modules), *sorted(set(heavy) & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    modules, *imported = done.stdout.splitlines()[-1].split()
    assert imported == []
    assert int(modules) < 550  # it answers at once: 440, most of them of Python and of click


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("--version") == 0
    assert capsys.readouterr().out == f"graft {graft.__version__}\n"


def test_shell_completion_knows_the_commands() -> None:
    done = process(_GRAFT_COMPLETE="complete_bash", COMP_WORDS="graft ro", COMP_CWORD="1")
    assert done.stdout.split() == ["rollback"]


# -- how it ends
def test_known_error_is_one_message_and_its_code(tmp_path: Path) -> None:
    done = process("check", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"error: .*no params\.yaml here or above; `graft init` makes a project\n", done.stderr)


def test_unknown_error_keeps_its_traceback(project: Workspace) -> None:
    project.params.unlink()
    project.params.mkdir()
    (project.root / "inner").mkdir()
    done = process("-C", str(project.root), "check", GRAFT_HOME="\0" if os.name == "nt" else "")
    assert done.returncode == 2  # a folder in place of the file is known
    code = "import graft.checks, graft.cli\ngraft.checks.findings = None\ngraft.cli.main(['-C', '.', 'check'])"
    project.params.rmdir()
    project.params.write_text("")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "TypeError: 'NoneType' object is not callable" in done.stderr


def test_wrong_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("check", "--quik") == 2
    assert "--quick" in capsys.readouterr().err


def test_ctrl_c_ends_with_130() -> None:
    code = (
        "import graft.cli, graft.params\n"
        "def stop(): raise KeyboardInterrupt\n"
        "graft.params.schema = stop\ngraft.cli.main(['schema'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


# -- which project
def test_c_names_the_project(project: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("-C", str(project.root), "check", "--quick", "--json") == 2  # dvc.yaml is not there
    assert invoke("-C", str(project.data / "train"), "check", "--quick") == 2


def test_commands_that_messages_suggest_name_the_project_as_it_was_typed(
    project: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project.root.parent)
    place = project.root.name
    project.sources_lock.unlink()
    assert invoke("-C", place, "check", "--quick") == 2
    assert f"sources.lock: not there; run `graft -C {place} lock`" in capsys.readouterr().out
    assert invoke("-C", place, "run") == 2
    error = capsys.readouterr().err
    assert f"(`graft -C {place} check` says more)" in error
    assert f"run `graft -C {place} lock`" in error
    monkeypatch.chdir(project.root)
    assert invoke("check", "--quick") == 2
    assert "not there; run `graft lock`" in capsys.readouterr().out


def test_c_of_a_missing_folder_names_projects(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("-C", "/nowhere/at/all", "check") == 2
    assert "-C /nowhere/at/all: no such folder; `graft projects` lists the projects" in capsys.readouterr().err


# -- project commands
@pytest.fixture
def whole(project: Workspace) -> Workspace:
    """The project with a dvc.yaml and the sections that it asks for."""
    from graft.stages import render

    (project.root / "dvc.yaml").write_text(render(project.root, project.repository))
    project.params.write_text(project.params.read_text() + "data: {}\nvalidation: {}\n")
    return project


def test_check_prints_findings_and_json(whole: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("-C", str(whole.root), "check", "--quick") == 0
    assert capsys.readouterr().out.endswith(f"ready: `graft -C {whole.root} run`\n")
    assert invoke("-C", str(whole.root), "check", "--quick", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert {"params", "data", "base"} <= {one["check"] for one in found["findings"]}


def test_check_of_wrong_params_ends_with_2(whole: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    whole.params.write_text(whole.params.read_text().replace("epochs", "epoch"))
    assert invoke("-C", str(whole.root), "check") == 2
    out = capsys.readouterr().out
    assert re.search(r"^fail  params +params\.yaml:\d+: training\.epoch: unknown key", out, re.MULTILINE)


def test_contract_proposes_what_the_data_keeps_and_writes_it_on_request(
    whole: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = whole.params.read_text()
    assert invoke("-C", str(whole.root), "contract") == 0
    printed = capsys.readouterr().out
    assert whole.params.read_text() == before
    assert yaml.safe_load(printed)["validation"]["expectations"][0]["kwargs"]["value_set"] == [
        "animals",
        "cooking",
        "weather",
    ]
    assert invoke("-C", str(whole.root), "contract", "--write") == 0
    written = yaml.safe_load(whole.params.read_text())
    assert written["validation"].items() >= yaml.safe_load(printed)["validation"].items()
    assert written["task"] == yaml.safe_load(before)["task"]
    assert "wrote the contract to" in capsys.readouterr().out


def test_lock_writes_and_prints_the_digest(whole: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads(whole.sources_lock.read_text())
    whole.sources_lock.unlink()
    assert invoke("-C", str(whole.root), "lock", "--json") == 0
    assert json.loads(capsys.readouterr().out)["digest"] == before["base"]["digest"]
    assert json.loads(whole.sources_lock.read_text()) == before


def test_lock_says_that_there_is_no_champion_and_makes_no_store(
    whole: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    store = resolve_uri(params.load(whole.params).tracking, whole).removeprefix("sqlite:///")
    assert invoke("-C", str(whole.root), "lock") == 0
    assert "champion: none, so there is no data to compare with" in capsys.readouterr().out
    assert json.loads(whole.sources_lock.read_text())["champion"] is None
    assert json.loads(whole.sources_lock.read_text())["init"] is None
    assert not Path(store).exists()


def test_check_says_whose_data_the_contract_compares_with(whole: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    def finding() -> dict[str, Any]:
        invoke("-C", str(whole.root), "check", "--quick", "--json")
        found = json.loads(capsys.readouterr().out)["findings"]
        return next(one for one in found if one["check"] == "champion")

    pin(whole, None)
    assert finding()["text"] == "no champion is pinned: the data is compared with no other"
    pin(whole, Pin("topic", "3", "f" * 64, None))
    assert (finding()["state"], finding()["text"]) == ("ok", "topic version 3: published without a data profile")
    pin(whole, Pin("topic", "3", "f" * 64, "0" * 64), b"{}")
    assert finding()["state"] == "fail"
    assert finding()["exit_code"] == 6
    known = json.loads(whole.sources_lock.read_text())
    whole.sources_lock.write_text(json.dumps({name: value for name, value in known.items() if name != "champion"}))
    assert finding()["text"] == "sources.lock: pins no champion, not even that there is none; run `graft lock`"


def test_check_says_which_adapter_training_starts_from(whole: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    def findings() -> list[str]:
        invoke("-C", str(whole.root), "check", "--quick", "--json")
        found = json.loads(capsys.readouterr().out)["findings"]
        return [f"{one['state']}: {one['text']}" for one in found if one["check"] == "training"]

    known = json.loads(whole.sources_lock.read_text())
    assert not any("adapter of" in one or one.startswith("fail") for one in findings())
    whole.sources_lock.write_text(json.dumps({name: value for name, value in known.items() if name != "init"}))
    assert "fail: sources.lock: has no key init, which the train stage depends on; run `graft lock`" in findings()
    described = yaml.safe_load(whole.params.read_text())
    described["training"]["init_from"] = "models:/topic@champion"
    whole.params.write_text(yaml.safe_dump(described))
    wrong = "training.init_from: params.yaml has 'models:/topic@champion', sources.lock pins none; run `graft lock`"
    whole.sources_lock.write_text(json.dumps(known))
    assert f"fail: {wrong}" in findings()


def test_schema_prints_what_is_committed(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("schema") == 0
    assert capsys.readouterr().out == (ROOT / "infra" / "params.schema.json").read_text(encoding="utf-8")


def test_init_wants_a_name_or_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("init") == 2
    assert invoke("init", "reviews", "--here") == 2
    assert "give a project NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "80/20"], "--split: must be three whole numbers, such as 80/10/10 (got '80/20')"),
        (["--split", "a/b/c"], "--split: must be three whole numbers"),
        (["--column", "text"], "--column: must be FIELD=COLUMN"),
        (["--replace", "--text", "boddy"], "found only 'id, text, label'; --text names it"),
        (["--rows", "word"], "--rows: must be line, paragraph, file (got 'word')"),
        (["--take", "dev=b"], "--take: must be NAME, or SPLIT=NAME with train, validation, test (got 'dev=b')"),
        (["--replace", "--layout", "alpaca"], "--layout: only for tasks that hold conversations"),
        (["--replace", "--revision", "main"], "--revision: only for a data set on the Hub"),
    ],
)
def test_import_refuses_bad_options(
    whole: Workspace, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = whole.params.read_text()
    assert invoke("-C", str(whole.root), "import", str(whole.data / "train"), *arguments) == 2
    assert message in capsys.readouterr().err
    assert whole.params.read_text() == before


def test_import_names_the_option_that_fits_the_task(whole: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    whole.params.write_text(whole.params.read_text().replace("text_classification", "regression"))
    assert invoke("-C", str(whole.root), "import", "rows.csv", "--text", "body", "--label", "stars") == 2
    said = capsys.readouterr().err
    assert (
        "--label: regression has no field label; its fields are text, text_pair, target: --column target=stars" in said
    )


def test_progress_says_the_end_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.cli import progress

    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.progress("predict", "rows") as advance:
        advance(3)
        advance(4)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0].split(" in ")[0] for line in lines] == ["predict: 3 rows", "predict: 7 rows"]


# -- run
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "--set: must be KEY=VALUE"),
        ("training.epoch=5", "training.epoch: unknown key; did you mean `training.epochs`?"),
        ("training.epochs=-1", "training.epochs: must be greater than 0"),
        ("training.epochs=[", "--set: training.epochs: not a YAML value"),
    ],
)
def test_run_refuses_bad_overrides_before_it_starts(
    whole: Workspace, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    before = whole.params.read_text()
    assert invoke("-C", str(whole.root), "run", "-S", override) == 2
    assert message in capsys.readouterr().err
    assert whole.params.read_text() == before


@pytest.mark.parametrize("other", [("--set", "training.epochs=5"), ("--commit", "HEAD")])
def test_run_refuses_add_data_beside_what_leaves_the_files_alone(
    whole: Workspace, capsys: pytest.CaptureFixture[str], other: tuple[str, str]
) -> None:
    assert invoke("-C", str(whole.root), "run", "--add-data", *other) == 2
    said = capsys.readouterr().err
    assert f"--add-data: not with {other[0]}" in said
    assert "`dvc add data`" in said


def test_stage_help_lists_the_stages(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("stage", "--help") == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert set(lines) >= {f"{stage.name:10} {stage.does}" for stage in STAGES}


def test_predict_notes_what_was_redacted_and_what_is_empty_without_the_value() -> None:
    fields = tasks.get("text_classification").fields_of(tasks.config_class("text_classification")())
    asked = Asked({"clean": ["redact", "whitespace"]}, fields)
    for number, text in enumerate(["a  cat", "to ada@example.com", "\u200b \n", "of bob@example.com"], start=1):
        row = {"text": text}
        asked.add(f"new.csv:{number}", row, clean_row(row, fields, ["redact", "whitespace"], asked.privacy))
    assert list(asked.described()) == [
        "2 rows (the first: new.csv:2): the model read placeholders for private data (data.clean: redact)",
        "new.csv:3: the text is empty; the answer is about nothing",
    ]
    plain = Asked({"clean": []}, fields)
    plain.add("new.csv:1", {"text": "to ada@example.com"}, {"text": "to ada@example.com"})
    assert list(plain.described()) == []


def test_run_refuses_what_check_finds(whole: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    (whole.data / "test" / "part-0000.jsonl").unlink()
    whole.sources_lock.unlink()
    assert invoke("-C", str(whole.root), "run") == 2
    err = capsys.readouterr().err
    assert "data/test: no part files" in err
    assert f"sources.lock: not there; run `graft -C {whole.root} lock`" in err


def test_stage_by_an_unknown_name(whole: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    # In a process of its own: the command changes the folder and asks the kernel to end with its parent.
    done = process("-C", str(whole.root), "stage", "trian")
    assert done.returncode == 2
    assert "stage 'trian': there are validate, tokenize" in done.stderr


# -- runs
RUNNING = """
import signal, sys, time
from pathlib import Path
from graft import runs
from graft.errors import Interrupted
from graft.workspace import Workspace

def stop(*_):
    raise Interrupted("stopped")

signal.signal(signal.SIGTERM, stop)
run = runs.begin(Workspace(Path(sys.argv[1])), flow="test")
with run.log.open("w") as log, run.followed():
    for number in range(600):
        print(f"line {number}", file=log, flush=True)
        if number == 2:
            print("ready", flush=True)
        time.sleep(0.05)
"""


@pytest.fixture
def running(project: Workspace) -> Iterator[subprocess.Popen[str]]:
    """A process that has recorded itself as a run of the project."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", RUNNING, str(project.root)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as one:
        assert one.stdout
        assert one.stdout.readline() == "ready\n"
        yield one
        one.kill()


def test_logs_follow_until_the_run_is_cancelled(
    project: Workspace, running: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    follower = subprocess.Popen(
        [sys.executable, "-m", "graft", "-C", str(project.root), "logs", "-f"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout
    first = [follower.stdout.readline() for _ in range(4)]
    assert first == [f"line {number}\n" for number in range(4)]
    assert invoke("-C", str(project.root), "cancel") == 0
    assert re.search(r"cancelled; `graft -C \S+ run` resumes", capsys.readouterr().out)
    running.wait(5)
    rest = follower.stdout.read()
    assert follower.wait(10) == 0
    (log,) = project.runs.glob("*/log.txt")
    assert "".join(first) + rest == log.read_text()


def test_cancel_and_logs_without_a_run(project: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("-C", str(project.root), "cancel") == 7
    assert invoke("-C", str(project.root), "logs") == 7
    err = capsys.readouterr().err
    assert "nothing to cancel: no run of this project runs" in err
    assert f"no run here yet; `graft -C {project.root} run`" in err


def test_logs_list_names_a_killed_run(
    project: Workspace, running: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    running.kill()
    running.wait(5)
    assert invoke("-C", str(project.root), "logs", "--list") == 0
    assert re.search(r"^\S+ +crashed ", capsys.readouterr().out, re.MULTILINE)


# -- the process of a run
@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module that a child Python can import; return its name."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(text: str) -> str:
        (tmp_path / "a_pipeline.py").write_text(text)
        return "a_pipeline"

    return write


def test_child_s_exit_code_and_arguments_come_through(tmp_path: Path, module: Callable[[str], str]) -> None:
    name = module("import sys; open(sys.argv[1], 'w').write('here'); sys.exit(3)")
    assert run_module(Workspace(tmp_path), name, [str(tmp_path / "out")]) == 3
    assert (tmp_path / "out").read_text() == "here"


def test_killed_child_is_an_interruption(tmp_path: Path, module: Callable[[str], str]) -> None:
    name = module("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(Interrupted, match=r"ended by SIGKILL; the same command resumes"):
        run_module(Workspace(tmp_path), name, [])


SLEEPER = """
import signal, sys, time
got = []
def note(number, frame):
    got.append(signal.Signals(number).name)
signal.signal(signal.SIGINT, note); signal.signal(signal.SIGTERM, note)
open(sys.argv[1], 'w').write('ready')
while not got:
    time.sleep(0.02)
time.sleep(0.3)
open(sys.argv[1], 'w').write(' '.join(got))
sys.exit(75)
"""


@pytest.mark.parametrize(("sent", "expected"), [(signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM")])
def test_signal_reaches_the_child_once(
    tmp_path: Path, module: Callable[[str], str], sent: signal.Signals, expected: str
) -> None:
    parent = _start_parent(tmp_path, module(SLEEPER))
    parent.send_signal(sent)
    assert parent.wait(10) == 75
    assert (tmp_path / "out").read_text() == expected


def test_child_leads_a_session_so_that_ctrl_c_reaches_it_once(tmp_path: Path, module: Callable[[str], str]) -> None:
    """A terminal signals a whole process group; a child in the same group would be interrupted while it cleans up."""
    name = module("import os, sys; sys.exit(0 if os.getsid(0) == os.getpid() else 9)")
    assert run_module(Workspace(tmp_path), name, []) == 0


def test_child_is_ended_when_its_parent_is_killed(tmp_path: Path, module: Callable[[str], str]) -> None:
    if sys.platform != "linux":
        pytest.skip("the parent-death signal is Linux's")
    parent = _start_parent(tmp_path, module(SLEEPER))
    parent.kill()
    parent.wait(5)
    _wait_for(tmp_path / "out", "SIGTERM")


def _start_parent(folder: Path, name: str) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from pathlib import Path; from graft.cli.child import run_module\n"
        "from graft.workspace import Workspace\n"
        f"sys.exit(run_module(Workspace(Path({str(folder)!r})), {name!r}, [{str(folder / 'out')!r}]))"
    )
    path = os.pathsep.join([str(ROOT / "src"), os.environ["PYTHONPATH"]])
    command = [sys.executable, "-c", code]
    parent = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
    _wait_for(folder / "out", "ready")
    return parent


def _wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if path.is_file() and path.read_text() == text:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never held {text!r}")


# -- files of rows
ROWS = [
    {"id": "1", "text": 'a "quoted", text', "score": "0.5"},
    {"id": "2", "text": "zweite Zeile\u2028x", "score": "1"},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_rows_come_back_as_they_were_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    with writer(path) as write:
        write([dict(row) for row in ROWS[:1]])
        write([dict(row) for row in ROWS[1:]])
    assert [row for batch in batches(path) for _, row in batch] == ROWS
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_tsv_has_no_tab_or_line_end_in_a_cell(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    with writer(path) as write:
        write([{"id": "1", "text": "a\tb\nc", "scores": {"x": 0.5}}])
    assert [row for batch in batches(path) for _, row in batch] == [
        {"id": "1", "text": "a b c", "scores": '{"x": 0.5}'}
    ]


def test_failed_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("old\n")

    def fail() -> None:
        with writer(path) as write:
            write([{"a": 1}])
            raise DataError("no")

    with pytest.raises(DataError, match="no"):
        fail()
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["rows.xlsx", "rows", "missing/rows.csv"])
def test_out_of_unknown_kind_or_place(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--out '.*': (must end in \.jsonl|no such folder)"), writer(Path(name)):
        pass


def test_unreadable_rows_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{broken\n{"text": "b"}\n[1]\n')
    with pytest.raises(DataError, match="2 rows cannot be read; nothing is written") as caught:
        list(batches(path))
    assert [one.split(": ")[0] for one in caught.value.problems] == ["rows.jsonl:2", "rows.jsonl:4"]


# -- printing
@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (3e12, "3.0 TB")]
)
def test_size(count: float, expected: str) -> None:
    assert printing.size(count) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(4.21, "4.2 s"), (59, "59 s"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (3 * 86400, "3 d")],
)
def test_seconds(count: float, expected: str) -> None:
    assert printing.seconds(count) == expected


def test_table_is_aligned_without_colour_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    printing.table(["kind", "size"], [["store", 1], ["x", 20]])
    assert capsys.readouterr().out == "kind   size\nstore  1\nx      20\n"
    assert printing.styled("x", "bold red") == "x"


def test_table_takes_all_columns_of_its_first_rows_and_refuses_later_ones(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with writer(path) as write:
        write([{"text": "a"}, {"text": "b", "id": 2}])
    assert path.read_text() == "text,id\na,\nb,2\n"
    with writer(path) as write:
        write([{"text": "a"}])
        with pytest.raises(InputError, match=r"a later row has the column 'id', .* write \.jsonl"):
            write([{"text": "b", "id": 2}])
    assert path.read_text() == "text\na\n"
