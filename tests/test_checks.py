"""`graft check`: all problems together, each named; light checks stay light."""

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

from graft import base, checks, params, stages
from graft.checks import Finding, Report, check
from graft.errors import ConfigError, GraftError, ResourceMissing
from graft.workspace import Workspace, read_json
from tests.conftest import toy_rows, validated, write_rows, write_tiny_base

SOURCE = Path(__file__).parent.parent / "src"


def failures(workspace: Workspace, *, adapter: bool = False) -> dict[str, list[str]]:
    """Return the texts of failed checks by check; the project of the fixture has no dvc.yaml."""
    found: dict[str, list[str]] = {}
    for one in check(workspace, adapter=adapter).failures:
        if one.check != "stages":
            found.setdefault(one.check, []).append(one.text)
    return found


def states(workspace: Workspace, name: str, *, adapter: bool = False) -> list[str]:
    return [one.state for one in check(workspace, adapter=adapter).findings if one.check == name]


def test_good_project_has_no_failure(project: Workspace) -> None:
    assert failures(project) == {}
    for name in ("params", "data", "base", "tokenization", "training", "tracking"):
        assert states(project, name) == ["ok"], name


def test_all_problems_are_reported_together(make_project: Callable[..., Workspace], tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", **{"data.columns": {"text": "body"}, "tokenization.max_length_tokens": 65})
    text = project.params.read_text().replace("epochs:", "epoch:").replace("./base", "./other")
    project.params.write_text(text)
    found = failures(project)
    assert sorted(found) == ["base", "data", "params"]
    assert "did you mean `training.epochs`" in found["params"][0]
    assert "body" in found["data"][0]
    assert "no folder './other'" in found["base"][0]


def test_a_language_is_a_known_code(make_project: Callable[..., Workspace], tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", **{"validation.languages": ["de", "en"]})
    project.params.write_text(project.params.read_text().replace("- en\n", "- english\n"))
    assert "validation.languages: unknown language 'english'; did you mean 'en'?" in failures(project)["params"][0]


def test_positions_of_the_base_bound_the_length(make_project: Callable[..., Workspace], tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", **{"tokenization.max_length_tokens": 65})
    assert failures(project) == {
        "tokenization": [
            "tokenization.max_length_tokens: './base' has positions for 64 tokens (got 65); set at most 64"
        ]
    }


def test_rows_leave_positions_for_the_methods_own_prompt(
    make_project: Callable[..., Workspace], tmp_path: Path
) -> None:
    adapter = {"adapter.method": "prompt_tuning", "adapter.num_virtual_tokens": 5}
    project = make_project(tmp_path / "p", **adapter, **{"tokenization.max_length_tokens": 59})
    assert "adapter" not in failures(project)
    project = make_project(tmp_path / "q", **adapter, **{"tokenization.max_length_tokens": 60})
    assert failures(project)["adapter"] == [
        "adapter.method: 'prompt_tuning' puts 5 tokens before a row, which with tokenization.max_length_tokens (60) "
        "are more than the base's 64 positions; set tokenization.max_length_tokens to 59 at most"
    ]


def test_training_rows_with_one_label_are_refused(project: Workspace) -> None:
    part = project.data / "train" / "part-0000.jsonl"
    rows = [json.loads(line) | {"label": "animals"} for line in part.read_text().splitlines()]
    part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [found] = [one.text for one in check(project).failures if one.check == "data"]
    assert found.startswith("data/train: the column of labels holds 'animals' only")


def test_own_expectations_are_asked_about(make_project: Callable[..., Workspace], tmp_path: Path) -> None:
    one = {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "text"}}
    project = make_project(tmp_path / "p", **{"validation.expectations": [one]})
    assert states(project, "validation", adapter=True) == ["ok"]
    mail = {"column": "text", "regex": "ann@example.org"}
    told = {"type": "expect_column_values_to_match_regex", "kwargs": mail}
    project = make_project(tmp_path / "private", **{"validation.expectations": [told]})
    assert states(project, "validation", adapter=True) == ["warn", "ok"]
    project = make_project(tmp_path / "q", **{"validation.expectations": [{**one, "kwargs": {"column": "body"}}]})
    [found] = [one for one in check(project).findings if one.check == "validation"]
    assert (found.text.partition(": ")[2]).startswith(
        "validation.expectations.0.kwargs.column: no column 'body'; there are text,"
    )


def test_missing_column_and_missing_split_are_named(project: Workspace) -> None:
    part = project.data / "train" / "part-0000.jsonl"
    part.write_text("\n".join(json.dumps({"id": "1", "body": "a", "label": "b"}) for _ in range(3)) + "\n")
    (project.data / "test" / "part-0000.jsonl").unlink()
    (found,) = failures(project)["data"]
    assert found.startswith("data/test: no part files")
    (project.data / "test" / "part-0000.jsonl").write_text(json.dumps({"text": "a", "label": "b"}) + "\n")
    assert any("text" in one and "data/train/part-0000.jsonl:1" in one for one in failures(project)["data"])


def test_broken_row_has_its_line(project: Workspace) -> None:
    part = project.data / "validation" / "part-0000.jsonl"
    lines = part.read_text().splitlines()
    part.write_text("\n".join([*lines[:3], "{broken", *lines[3:]]) + "\n")
    assert any("data/validation/part-0000.jsonl:4" in one for one in failures(project)["data"])


def test_rows_that_the_contract_keeps_aside_do_not_fail(make_project: Callable[..., Workspace], tmp_path: Path) -> None:
    project = make_project(
        tmp_path / "p", **{"validation.severity": {"readable": "quarantine", "missing": "quarantine"}}
    )
    part = project.data / "train" / "part-0000.jsonl"
    lines = part.read_text().splitlines()
    part.write_text("\n".join([*lines[:3], "{broken", '{"text": null, "label": "animals"}', *lines[3:]]) + "\n")
    assert "data" not in failures(project)
    [told] = [one for one in check(project, adapter=False).findings if one.check == "data" and one.state == "warn"]
    places = "data/train/part-0000.jsonl:4, data/train/part-0000.jsonl:5"
    assert told.text == f"2 rows among the first cannot be read and will be in quarantine ({places})"
    part.write_text("".join(line.replace('"text"', '"body"') + "\n" for line in lines))
    assert "a column of that name" in failures(project)["data"][0]  # no row could be kept aside for this


def test_section_that_dvc_asks_for_is_named(project: Workspace) -> None:
    from graft.stages import render

    dvc_yaml = project.root / "dvc.yaml"
    dvc_yaml.write_text(render(project.root, project.repository))
    (found,) = [one.text for one in check(project, adapter=False).failures if "section data" in one.text]
    assert found == "params.yaml: no section data, which DVC asks for; write `data: {}`"
    project.params.write_text(project.params.read_text() + "data: {}\nvalidation: {}\n")
    assert states(project, "stages") == []
    dvc_yaml.write_text(dvc_yaml.read_text().replace("artifacts/tokens", "artifacts/token"))
    assert states(project, "stages") == ["warn"]


def test_absent_data_is_left_out_on_request(project: Workspace) -> None:
    project.data.rename(project.root / "elsewhere")
    assert "no such folder" in failures(project)["data"][0]
    assert not [one for one in check(project, adapter=False, data=False).findings if one.check == "data"]


def test_changed_base_file_is_an_integrity_failure(project: Workspace) -> None:
    path = project.root / "base" / "config.json"
    path.write_text(path.read_text() + " ")
    report = check(project, adapter=False)
    (found,) = [one for one in report.failures if one.check == "base"]
    assert found.exit_code == 6
    assert "config.json" in found.text


def test_unreachable_registry_is_a_warning(project: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (found,) = [one for one in check(project, adapter=False).findings if one.check == "tracking"]
    assert found.state == "warn"
    assert "http://127.0.0.1:9: not reachable" in found.text


def test_database_that_is_away_is_a_warning(
    make_project: Callable[..., Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@127.0.0.1:9/m")
    project = make_project(tmp_path / "p", tracking={"artifacts": "files"})
    (found,) = [one for one in check(project, adapter=False).findings if one.check == "tracking"]
    assert found.state == "warn"
    assert "127.0.0.1:9 is not reachable" in found.text
    assert "secret" not in found.text


def test_registry_address_with_a_password_is_refused(make_project: Callable[..., Workspace], tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", tracking={"uri": "https://me:secret@mlflow.example"})
    (found,) = failures(project)["tracking"]
    assert "secret" not in found
    assert found.startswith("tracking.uri: a password")


def test_unknown_promotion_metric_names_the_task_s(make_project: Callable[..., Workspace], tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", promotion={"metric": "bleu"})
    (found,) = failures(project)["promotion"]
    assert "metric 'bleu': text_classification has accuracy" in found


def test_cuda_where_there_is_none(make_project: Callable[..., Workspace], tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    project = make_project(tmp_path / "p", training={"device": "cuda"})
    (found,) = failures(project)["training"]
    assert found.startswith("training.device: cuda, but torch finds no CUDA device")
    placed = make_project(tmp_path / "q", training={"device": "cuda"}, placement={"train": "gpu"})
    assert "training" not in failures(placed)


def test_adapter_is_described_with_its_parameters(project: Workspace) -> None:
    from graft import base, params, tasks
    from graft.adapters import preview

    (found,) = [one for one in check(project).findings if one.check == "adapter"]
    config = params.load(project.params)
    task = tasks.get(config.task.name)
    folder = base.locked(project, config.base).folder(project.root)
    state = {"labels": ["animals", "cooking", "weather"]}
    summary = preview(task, config.task, state, folder, config.adapter)
    assert found.state == "ok"
    assert f"lora trains {summary.trainable_parameters:,} of {summary.total_parameters:,} parameters" in found.text
    # Two layers: rank 4 on query and value of 32 x 32.
    assert summary.trainable_parameters >= 2 * 2 * (4 * 32 + 32 * 4)
    assert "query (2), value (2)" in found.text


def test_kept_base_outputs_are_named_with_their_size(make_project: Callable[..., Workspace], tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", **{"adapter": None, "adapter.method": "output_linear"})
    trained, kept = [one.text for one in check(project).findings if one.check == "adapter"]
    # A weight of 32 x 3 and its bias.
    assert trained.startswith("output_linear trains 99 of 23,523 parameters (0.42%), ")
    assert "base outputs are computed once, about 128 bytes a row" in kept  # 32 float32 numbers


def training_findings(project: Workspace) -> list[str]:
    return [one.text for one in check(project).findings if one.check == "training" and "layers" in one.text]


def test_frozen_lower_layers_are_named_with_what_they_save(
    make_project: Callable[..., Workspace], tmp_path: Path
) -> None:
    project = make_project(tmp_path / "p", adapter={"layers_to_transform": [1], "layers_pattern": ["layer"]})
    (found,) = training_findings(project)
    assert found == (
        "1 of 2 layers (50%) lie below all that is trained and run once, not in each epoch; their outputs take about "
        "128 bytes a token"
    )
    validated(project)
    stages.run("tokenize", project)
    splits = read_json(project.tokens / "manifest.json")["splits"]
    size = 128 * sum(splits[name]["tokens"] for name in ("train", "validation")) / 1e6
    (found,) = training_findings(project)
    assert found.endswith(f" a token, {size:.1f} MB in .graft/store")


def test_an_adapter_in_all_layers_is_told_how_to_save(make_project: Callable[..., Workspace], tmp_path: Path) -> None:
    project = make_project(tmp_path / "p")
    assert training_findings(project) == []  # two layers: little to save
    shutil.rmtree(project.root / "base")
    write_tiny_base(project.root / "base", layers=6)
    base.lock(project, params.load(project.params).base)
    (found,) = training_findings(project)
    assert found.startswith("all 6 layers run in each epoch; with adapter.layers_to_transform: [4, 5] and ")
    project.params.write_text(
        project.params.read_text().replace(
            "method: lora", "method: lora\n  layers_to_transform: [4, 5]\n  layers_pattern: [layer]"
        )
    )
    (found,) = training_findings(project)
    assert found.startswith("4 of 6 layers (67%) lie below")


def test_unfrozen_parts_are_named(make_project: Callable[..., Workspace], tmp_path: Path) -> None:
    project = make_project(tmp_path / "p", training={"unfreeze": [r"bert\.pooler\..*"]})
    (found,) = [one for one in check(project).findings if one.check == "adapter"]
    assert found.text.endswith("; 2 of the base's own: bert.pooler.dense.bias, bert.pooler.dense.weight")
    wrong = make_project(tmp_path / "q", training={"unfreeze": ["pooler"]})
    (found,) = [one for one in check(wrong).findings if one.check == "adapter"]
    assert found.state == "fail"
    assert found.text.startswith("training.unfreeze[0]: 'pooler' matches the full name of no parameter")
    assert found.text.endswith("bert.encoder.layer.N.attention.self.value.weight and 18 more kinds")
    whole = make_project(tmp_path / "r", adapter=None)
    write_adapter(whole, {"method": "full"})
    (found,) = [one for one in check(whole).findings if one.check == "adapter"]
    assert found.text.startswith(
        "full trains all 23,523 parameters, 0.1 MB; in full: classifier; 39 of the base's own: "
    )


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"rank": 8}, r"adapter\.rank: unknown key"),
        ({"target_modules": ["querry"]}, r"adapter\.target_modules: the base has no module 'querry'; it has"),
        ({"method": "lore"}, r"adapter\.method: no method 'lore'; did you mean `lora`"),
        ({"r": "four"}, r"adapter\.r: "),
    ],
)
def test_wrong_adapter_is_refused_by_name(
    make_project: Callable[..., Workspace], tmp_path: Path, adapter: dict[str, object], message: str
) -> None:
    import re

    project = make_project(tmp_path / "p", adapter=adapter)
    (found,) = failures(project, adapter=True)["adapter"]
    assert re.search(message, found)


@pytest.mark.parametrize("method", ["ia3", "full", "lora"])
def test_loraplus_needs_a_matrix_that_learns_faster(
    make_project: Callable[..., Workspace], tmp_path: Path, method: str
) -> None:
    keys = {"target_modules": ["query"], **({"feedforward_modules": []} if method == "ia3" else {})}
    adapter = {"method": method, **({} if method == "full" else keys)}
    project = make_project(tmp_path / "p", **{"adapter": None, "training.loraplus_lr_ratio": 16})
    write_adapter(project, adapter)
    found = failures(project, adapter=True)
    text = "training.loraplus_lr_ratio: the adapter has no `lora_B` to learn faster; leave it out"
    assert found == ({} if method == "lora" else {"training": [text]})


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({}, None),
        (
            {"tinit": 10, "tfinal": 6},
            "adapter.tinit: 10 steps before and 6 (adapter.tfinal) after the budget",
        ),
        ({"total_step": 17}, "adapter.total_step: 17, but training has 16 steps"),
    ],
)
def test_phases_of_adalora_fit_the_steps(
    make_project: Callable[..., Workspace], tmp_path: Path, keys: dict[str, int], text: str | None
) -> None:
    project = make_project(tmp_path / "p", adapter=None)  # 60 rows in batches of 8, twice: 16 steps
    write_adapter(project, {"method": "adalora", "target_modules": ["query"], **keys})
    found = failures(project, adapter=True)
    assert list(found) == ([] if text is None else ["adapter"])
    assert text is None or found["adapter"][0].startswith(text)


def write_adapter(project: Workspace, adapter: dict[str, object]) -> None:
    """Give ``project`` another section ``adapter``, none of the fixture's keys among it."""
    described = yaml.safe_load(project.params.read_text())
    project.params.write_text(yaml.safe_dump({**described, "adapter": adapter}))


@pytest.mark.parametrize(
    ("adapter", "unread"),
    [
        ({"method": "lora", "target_modules": ["query"]}, "`lora`"),
        ({"method": "output_linear"}, "`output_linear` without `features: columns`"),
        ({"method": "output_linear", "features": "columns"}, None),
        ({"method": "output_mlp", "features": "columns"}, None),
    ],
)
def test_columns_that_no_adapter_reads_are_named(
    make_project: Callable[..., Workspace], tmp_path: Path, adapter: dict[str, object], unread: str | None
) -> None:
    project = make_project(tmp_path / "p", **{"task.numeric_columns": ["price", "stars"]})
    write_adapter(project, adapter)
    found = [one for one in check(project, adapter=False, data=False).findings if one.check == "task"]
    text = f"task.numeric_columns: price, stars are not read by adapter.method {unread}; only output_linear and "
    assert [one.state for one in found] == (["warn"] if unread else [])
    assert all(one.text.startswith(text) for one in found)


def test_problem_of_params_alone_imports_no_torch(project: Workspace) -> None:
    project.params.write_text(project.params.read_text().replace("epochs:", "epoch:"))
    code = (
        "import sys; from pathlib import Path; from graft.checks import check; from graft.workspace import Workspace\n"
        "report = check(Workspace(Path(sys.argv[1])))\n"
        "assert [one.check for one in report.failures if one.check != 'stages'] == ['params'], report\n"
        "heavy = {'torch', 'transformers', 'peft', 'mlflow', 'great_expectations', 'prefect', 'dvc', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(project.root)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_check_writes_nothing(project: Workspace) -> None:
    def files() -> set[Path]:
        return set(project.root.rglob("*"))

    before = files()
    check(project)
    assert files() == before


def test_unreadable_params_are_the_only_finding(project: Workspace) -> None:
    project.params.write_text("task: [\n")
    (found,) = check(project).findings
    assert (found.check, found.state, found.exit_code) == ("params", "fail", 2)


@pytest.mark.parametrize(
    ("codes", "expected", "kind"),
    [
        ([], 0, None),
        ([7], 7, ResourceMissing),
        ([7, 7], 7, ResourceMissing),
        ([2, 7], 2, GraftError),
        ([2], 2, ConfigError),
    ],
)
def test_report_s_exit_code(codes: list[int], expected: int, kind: type[GraftError] | None) -> None:
    findings = [Finding("params", "ok", "fine"), *(Finding("x", "fail", f"problem {code}", code) for code in codes)]
    report = Report(tuple(findings))
    assert report.exit_code == expected
    assert report.as_json()["passed"] is (kind is None)
    if kind is None:
        report.refuse_failures()
        return
    with pytest.raises(kind, match="not ready to run") as caught:
        report.refuse_failures()
    assert caught.value.exit_code == expected
    assert list(caught.value.problems) == [f"problem {code}" for code in codes]


@pytest.mark.parametrize(("flags", "found"), [("fpu avx2 sse4_2", False), ("avx512f avx512_bf16", True), (None, True)])
def test_bfloat16_is_looked_for_in_the_processors_flags(tmp_path: Path, flags: str | None, found: bool) -> None:
    path = tmp_path / "cpuinfo"
    if flags is not None:
        path.write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert checks._has_bfloat16(path) is found


def test_bfloat16_that_is_only_emulated_is_warned_of(
    tmp_path: Path, make_project: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_project(tmp_path / "project", base={"dtype": "bfloat16"})
    monkeypatch.setattr(checks, "_has_bfloat16", lambda: False)
    texts = [one.text for one in checks.check(place, adapter=False).findings if one.state == "warn"]
    assert any("base.dtype: bfloat16, which this processor only emulates" in text for text in texts)
    monkeypatch.setattr(checks, "_has_bfloat16", lambda: True)
    assert not any("emulates" in one.text for one in checks.check(place, adapter=False).findings)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({}, "fsdp, but there is one process; set training.processes"),
        ({"training.processes": 2, "base.quantization": {"load_in_8bit": True}}, "base.quantization cannot be split"),
        ({"training.processes": 2, "adapter": {"method": "full"}}, "adapter.method: full leaves nothing frozen"),
        ({"training.processes": 2, "training.unfreeze": [".*bias"]}, "training.unfreeze trains weights of the base"),
        ({"training.processes": 2, "adapter": {"method": "probe"}}, "adapter.method: probe runs the base once"),
        ({"training.processes": 2}, ""),
    ],
)
def test_sharding_that_cannot_be_is_refused(
    tmp_path: Path, make_project: Callable[..., Workspace], overrides: dict[str, Any], text: str
) -> None:
    place = make_project(tmp_path / "project", **{"training.sharding": "fsdp"}, **overrides)
    found = [one for one in checks.check(place, adapter=False).findings if "training.sharding: fsdp" in one.text]
    assert [one.state for one in found] == ["fail"] * bool(text)
    assert all(text in one.text and one.exit_code == 2 for one in found)


def test_more_processes_than_cores_are_warned_of(tmp_path: Path, make_project: Callable[..., Workspace]) -> None:
    place = make_project(tmp_path / "project", **{"training.processes": 256})
    warned = [one.text for one in checks.check(place, adapter=False).findings if one.state == "warn"]
    assert any(text.startswith("training.processes: 256 of 1 threads each, on ") for text in warned)


def test_what_was_found_is_shown_before_the_adapter_is_asked_about(
    project: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.test_cli import invoke

    shown = list[str]()
    monkeypatch.setattr(checks, "_adapter", lambda *_: shown.append(capsys.readouterr().out) or ())
    invoke("-C", str(project.root), "check")
    assert "params.yaml: every key is known and valid" in shown[0]
    assert "ready" not in shown[0]


def test_names_that_are_asked_for_and_not_there_are_all_found(
    make_project: Callable[..., Workspace], tmp_path: Path
) -> None:
    gates = [
        {"probe": "forgeting", "margin": 0.1},
        {"groups": "sorce", "margin": 0.1},
        {"slice": {"column": "source", "value": "mial"}, "margin": 0.1},
        {"slice": {"label": "wether"}, "margin": 0.1},
        {"slice": {"column": "source", "value": "mail"}, "margin": 0.1, "min_rows": 8},
        {"test_set": "amazon", "margin": 0.1},
    ]
    evaluation = {"slices": {"columns": ["languag"]}, "groups": ["source"], "behaviour": "behaviour.yaml"}
    project = make_project(tmp_path / "p", promotion={"gates": gates}, evaluation=evaluation)
    (project.root / "dvc.yaml").write_text("stages: {}\n")
    for path in (project.data / "test").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text(
            "".join(json.dumps(row | {"source": ("mail", "form")[at % 2]}) + "\n" for at, row in enumerate(rows))
        )
    found = failures(project)
    assert found["evaluation"][0] == (
        "evaluation.behaviour: no such file 'behaviour.yaml'; it is looked for beside params.yaml"
    )
    assert found["evaluation"][1].startswith("evaluation.slices.columns: no column 'languag'; ")
    assert [text.partition(" there are")[0] for text in found["promotion"]] == [
        "promotion.gates.0.probe: no probe 'forgeting'; did you mean 'forgetting'?",
        "promotion.gates.5.test_set: no test set 'amazon';",
        "promotion.gates.1.groups: no column 'sorce'; did you mean 'source'?",
        "promotion.gates.2.slice.value: no row has source 'mial'; did you mean 'mail'?",
    ]
    (project.root / "behaviour.yaml").write_text(
        "tests:\n  - {kind: minimum_functionality, name: a, texts: ['a {thing}, {other}'], slots: {other: [b]}, "
        "expect: wether}\n"
    )
    found = failures(project, adapter=True)  # training rows say which labels there are
    assert (
        "promotion.gates.3.slice.label: no label 'wether'; did you mean 'weather'? there are" in found["promotion"][1]
    )
    texts = "\n".join(found["evaluation"])
    assert "expect: no such label 'wether'; did you mean 'weather'?" in texts
    assert "slots: a text has {thing}, which no slot fills; there are other" in texts


def test_gates_on_what_evaluate_will_not_measure_are_found(
    make_project: Callable[..., Workspace], tmp_path: Path
) -> None:
    """Each is an error of `graft promote` else, after the training."""
    gates = [
        {"probe": "robustness", "margin": 0.1},
        {"probe": "behaviour", "margin": 0.1},
        {"probe": "explanations", "margin": 0.1},
        {"probe": "test_sets", "margin": 0.1},
        {"probe": "counterfactuals", "margin": 0.1},
        {"test_set": "amazon", "margin": 0.1},
        *({"slice": {"name": name}, "margin": 0.1, "min_rows": 7} for name in GOOD_SLICES + WRONG_SLICES),
        {"slice": {"column": "source", "value": "mail"}, "margin": 0.1, "min_rows": 8},
        {"slice": {"column": "source", "value": "mail"}, "margin": 0.1, "min_rows": 9, "metric": "macro_f1"},
        {"groups": "source", "margin": 0.1, "min_rows": 7},
        {"groups": "source", "margin": 0.1, "min_rows": 8, "metric": "macro_f1"},
    ]
    slices = {"columns": ["source"], "languages": False, "least_rows": 8}
    evaluation = {"slices": slices, "robustness": {"rows": 0}, "test_sets": []}
    project = make_project(tmp_path / "p", promotion={"gates": gates}, evaluation=evaluation)
    write_rows(project.data / "test_sets" / "amazon" / "part.jsonl", toy_rows(3, 9))
    for path in (project.data / "test").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        write_rows(path, [row | {"source": ("mail", "form")[at % 2]} for at, row in enumerate(rows)])
    found = failures(project, adapter=True)["promotion"]
    asked = "measured are counterfactuals, forgetting"
    made = "it makes label=..., length=..., source=...: name its column in evaluation.slices.columns, or switch its"
    gone = [
        f"promotion.gates.0.probe: 'robustness' is not measured: switched off in evaluation.robustness; {asked}",
        f"promotion.gates.1.probe: 'behaviour' is not measured: switched off in evaluation.behaviour; {asked}",
        "promotion.gates.2.probe: 'explanations' is of one adapter alone, so there is nothing to hold; ",
        f"promotion.gates.3.probe: 'test_sets' is not measured: switched off (evaluation.test_sets: []); {asked}",
        "promotion.gates.5.test_set: 'amazon' is left out by evaluation.test_sets; it asks for none",
        "promotion.gates.12.slice.name: no slice 'length=5/4'; did you mean 'length=",
        "promotion.gates.13.slice.name: no slice 'label=wether'; did you mean 'label=weather'?",
        f"promotion.gates.14.slice.name: evaluate makes no slice 'language=de'; {made}",
        f"promotion.gates.15.slice.name: evaluate makes no slice 'region=north'; {made}",
        "promotion.gates.16.slice.name: no row has source 'mial'; did you mean 'mail'?",
        "promotion.gates.17.slice.name: 7 test rows have source 'form', and a gate needs 8 (min_rows",
        "promotion.gates.19.slice.value: 8 test rows have source 'mail', and a gate needs 9 (min_rows",
        "promotion.gates.21.groups: fewer than 2 values of source have 8 test rows (min_rows; there are 'mail' 8",
    ]
    assert len(found) == len(gone), found
    for text, start in zip(found, gone, strict=True):
        assert text.startswith(start)


GOOD_SLICES = ("length=4/4", "label=weather", "source=mail", "source=1/4", "word=cat", "source=form & word=cat")
WRONG_SLICES = ("length=5/4", "label=wether", "language=de", "region=north", "source=mial", "source=form")
"""What evaluate may make of the project above, and what it never does."""


def test_start_of_other_numbers_is_found_once_it_is_locked(
    make_project: Callable[..., Workspace], tmp_path: Path
) -> None:
    from graft.artifact.starts import Start, pin, place_of
    from graft.identity import digest_folder
    from graft.workspace import write_json

    project = make_project(tmp_path / "p", training={"init_from": "../first"})
    rank = params.load(project.params).adapter.keys["r"]
    for there, texts in ((rank, []), (rank + 8, [f"adapter.r is {rank + 8} there and {rank} here"])):
        first = tmp_path / str(there)
        config = {"peft_type": "LORA", "r": there, "target_modules": "else"}
        write_json(first / "identity.json", {"adapter": {"config": config}})
        digest = digest_folder(first)
        shutil.copytree(first, place_of(project, digest))
        pin(project, Start("../first", digest))
        found = failures(project, adapter=True).get("adapter", [])
        assert len(found) == len(texts)
        assert all(text in one for text, one in zip(texts, found, strict=True))
