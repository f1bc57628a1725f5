from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from graft import artifact, params, publication, stages, tasks
from graft.errors import ConfigError, InputError, IntegrityError, PromotionConflict, ResourceMissing
from graft.evaluation import prediction, score_adapter
from graft.identity import digest_folder, run_key
from graft.publication import cases, measuring
from graft.publication.profiles import described_pin
from graft.publication.receipts import Receipt, champion_known, published, write_decision
from graft.publication.receipts import write as write_receipt
from graft.tracking import RunContext, TrackingConfig, journal, registry
from graft.tracking.curves import read_lines
from graft.tracking.server import Connection, connect
from graft.validation.champion import pinned_profile
from graft.workspace import Workspace, read_json, write_json
from tests.conftest import packed

CONTEXT = RunContext(git_commit="c" * 40, prefect_run="p" * 8, prefect_url="http://127.0.0.1:4200/x", dvc_lock="d" * 64)
NAME = "toy-topic"
built: dict[str, Path] = {}


@pytest.fixture
def trained(make_project: Any, tmp_path_factory: Any, tmp_path: Path, monkeypatch: Any) -> Callable[[str], Workspace]:
    """``trained("a")``: a copy of a trained project; ``"b"`` has another seed and rank, and redacts. One store.

    ``"luck"`` differs from ``"a"`` by the seed alone.
    """
    if not built:
        folder = tmp_path_factory.mktemp("trained")
        packed(make_project(folder / "a"))
        packed(make_project(folder / "b", **{"training.seed": 8, "adapter.r": 2, "data.clean": ["redact"]}))
        packed(make_project(folder / "luck", **{"training.seed": 9}))
        connect(params.load(folder / "a" / "params.yaml").tracking, Workspace(folder))
        built["folder"] = folder
    for name in ("a", "b", "luck", "mlflow"):
        shutil.copytree(built["folder"] / name, tmp_path / name)
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return lambda name: Workspace(tmp_path / name)


@pytest.fixture(autouse=True)
def nothing_in_the_current_folder() -> Iterator[None]:
    """MLflow makes a store in the current folder wherever one forgets to name one."""
    yield
    assert not [path.name for path in Path.cwd().glob("ml*") if path.name in ("mlflow.db", "mlruns", "mlartifacts")]


def publish(workspace: Workspace, context: RunContext = CONTEXT, **changed: Any) -> publication.Receipt:
    loaded = params.load(workspace.params)
    names = ("task", "base", "adapter", "training", "registration", "tracking")
    sections = {name: getattr(loaded, name) for name in names} | changed
    return publication.publish(workspace, context=context, **sections)


def promote(workspace: Workspace, **options: Any) -> publication.Decision:
    loaded = params.load(workspace.params)
    names = ("task", "data", "evaluation", "registration", "promotion", "tracking")
    return publication.promote(workspace, **{name: getattr(loaded, name) for name in names}, who="ada", **options)


def change(workspace: Workspace, **sections: Any) -> None:
    """Change sections of params.yaml that no output depends on."""
    described = yaml.safe_load(workspace.params.read_text())
    for name, values in sections.items():
        described[name] = {**described[name], **values}
    workspace.params.write_text(yaml.safe_dump(described))


def rollback(workspace: Workspace, **options: Any) -> publication.Decision:
    loaded = params.load(workspace.params)
    return publication.rollback(
        workspace, registration=loaded.registration, tracking=loaded.tracking, who="ada", **options
    )


def connected(workspace: Workspace) -> Connection:
    return connect(params.load(workspace.params).tracking, workspace)


def entries(workspace: Workspace) -> list[journal.Entry]:
    return journal.history(connected(workspace), NAME)


def everything(workspace: Workspace) -> SimpleNamespace:
    """Return the one run, its curves and files, and the versions."""
    connection = connected(workspace)
    client = connection.client
    experiment = client.get_experiment_by_name(NAME)
    (run,) = client.search_runs([experiment.experiment_id])
    curves = {
        key: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }
    return SimpleNamespace(
        run=run,
        curves=curves,
        files=sorted(files_below(client, run.info.run_id, "")),
        versions=registry.versions(connection, NAME),
    )


def files_below(client: Any, run_id: str, folder: str) -> Iterator[str]:
    for found in client.list_artifacts(run_id, folder):
        if found.is_dir:
            yield from files_below(client, run_id, found.path)
        else:
            yield found.path


def test_two_publishes_make_one_run_and_one_version(trained: Any) -> None:
    workspace = trained("a")
    first = publish(workspace)
    again = publish(workspace, RunContext(git_commit="e" * 40))
    assert first == again
    found = everything(workspace)
    assert found.run.info.status == "FINISHED"
    lines = read_lines(workspace.training / "metrics.jsonl")
    assert found.curves["loss"] == [(line["step"], line["loss"]) for line in lines if "loss" in line]
    kept = {"learning_rate", "gradient_norm", "tokens_per_second", "memory_bytes", "mfu", "padding_share"}
    assert kept | {"device_utilisation"} <= found.curves.keys()
    metrics = read_json(workspace.evaluation / "metrics.json")
    assert found.curves["test_accuracy"] == [(0, metrics["adapter"]["accuracy"]["value"])]
    assert found.curves["test_accuracy_base"] == [(0, metrics["base"]["accuracy"]["value"])]
    (version,) = found.versions
    assert version.aliases == ("candidate",)
    assert version.adapter == digest_folder(workspace.adapter) == first.adapter
    assert version.run_id == found.run.info.run_id == first.run_id


def test_run_and_version_say_where_they_come_from(trained: Any) -> None:
    workspace = trained("a")
    receipt = publish(workspace)
    found, identity = everything(workspace), read_json(workspace.adapter / "identity.json")
    tags = found.run.data.tags
    assert tags["graft.key"] == receipt.key
    assert tags["graft.git_commit"] == tags["mlflow.source.git.commit"] == "c" * 40
    assert tags["graft.prefect_run"] == "p" * 8
    assert tags["graft.dvc_lock"] == "d" * 64
    assert tags["graft.data"] == identity["data"]
    assert tags["graft.adapter"] == receipt.adapter
    assert "| **adapter**" in tags["mlflow.note.content"]
    assert found.run.data.params["training.seed"] == "7"
    assert found.run.data.params["adapter.target_modules"] == '["query", "value"]'
    (data,) = found.run.inputs.dataset_inputs
    assert identity["data"].startswith(data.dataset.digest)
    assert json.loads(data.dataset.profile) == {"train_rows": 60, "validation_rows": 15, "test_rows": 15}
    version = found.versions[0].tags
    proof = read_json(workspace.package / "proof.json")
    assert float(version["graft.effect"]) == pytest.approx(proof["effect"], rel=0.01)
    assert float(version["graft.reload_difference"]) == pytest.approx(proof["reload_difference"], rel=0.01)
    assert version["graft.git_commit"] == "c" * 40
    assert "[" in version["accuracy"]


def test_reports_are_uploaded_and_the_base_is_not(trained: Any, tmp_path: Path) -> None:
    workspace = trained("a")
    publish(workspace)
    wanted = {
        "data_docs/index.html",
        "evaluation/report.html",
        "evaluation/plots/confusion.png",
        "evaluation/predictions/adapter.parquet",
        "training/learning_curve.png",
        "training/metrics.jsonl",
        "model_card.md",
        "proof/proof.json",
        "inputs/params.yaml",
    }
    assert wanted <= set(everything(workspace).files)
    store = tmp_path / "mlflow" / "store" / "artifacts"
    weights = [path for path in store.rglob("*.safetensors") if path.name != "probe.safetensors"]
    assert [path.name for path in weights] == ["adapter_model.safetensors"]
    model = next(store.rglob("MLmodel")).parent
    assert str(workspace.root) not in (model / "MLmodel").read_text().replace(store.as_uri(), "")
    requirements = (model / "requirements.txt").read_text().split()
    assert {line.split("==")[0] for line in requirements} >= {"torch", "transformers", "peft", "mlflow"}
    assert all("==" in line and "+" not in line for line in requirements)
    assert not list(model.glob("code/graft/publication"))


@pytest.mark.slow
def test_new_empty_server_gets_everything_again(trained: Any, tmp_path: Path, monkeypatch: Any) -> None:
    workspace = trained("a")
    publish(workspace)
    promote(workspace)
    before = everything(workspace)
    shutil.copytree(built["folder"] / "mlflow", tmp_path / "other")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other' / 'store' / 'mlflow.db'}")
    publish(workspace, RunContext(git_commit="f" * 40))
    after = everything(workspace)
    assert after.curves == before.curves
    assert after.files == before.files
    assert after.run.data.params == before.run.data.params
    assert after.run.data.tags["graft.git_commit"] == "c" * 40
    assert after.versions[0].adapter == before.versions[0].adapter


def test_receipt_tells_what_is_published(trained: Any) -> None:
    workspace = trained("a")
    loaded = params.load(workspace.params)

    def held() -> publication.Receipt | None:
        return published(workspace, registration_name=NAME, tracking=loaded.tracking)

    assert held() is None
    receipt = publish(workspace)
    assert held() == receipt
    assert publication.receipts(workspace) == [receipt]
    (workspace.evaluation / "report.html").write_text("changed")
    assert held() is None


def test_server_away_names_the_command_that_publishes_later(trained: Any) -> None:
    workspace = trained("a")
    away = params.load(workspace.params).tracking.model_copy(update={"uri": "http://127.0.0.1:1"})
    with pytest.raises(ResourceMissing, match="graft sync"):
        publish(workspace, tracking=away)
    assert publication.receipts(workspace) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: (w.package / "adapter" / "adapter_model.safetensors").write_bytes(b"x"), "no passed reload proof"),
        (lambda w: write_json(w.package / "proof.json", {"passed": False}), "no passed reload proof"),
        (lambda w: (w.adapter / "adapter_model.safetensors").write_bytes(b"x"), "packed from another adapter"),
        (lambda w: spoil_metrics(w), "other test rows"),
    ],
)
def test_outputs_that_do_not_belong_together_are_not_published(
    trained: Any, spoil: Callable[[Workspace], Any], message: str
) -> None:
    workspace = trained("a")
    spoil(workspace)
    with pytest.raises(IntegrityError, match=message):
        publish(workspace)
    assert connected(workspace).client.search_registered_models() == []


def spoil_metrics(workspace: Workspace) -> None:
    path = workspace.evaluation / "metrics.json"
    write_json(path, read_json(path) | {"test": {"rows": 15, "digest": "0" * 64}})


@pytest.mark.slow
def test_upload_that_comes_back_changed_is_not_registered(trained: Any, monkeypatch: Any) -> None:
    from mlflow import MlflowClient

    real = MlflowClient.log_model_artifacts

    def broken(self: Any, model_id: str, folder: str) -> None:
        path = Path(folder, "artifacts", "adapter", "adapter_model.safetensors")
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        real(self, model_id, folder)

    workspace = trained("a")
    monkeypatch.setattr(MlflowClient, "log_model_artifacts", broken)
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors came back differing"):
        publish(workspace)
    assert connected(workspace).client.search_registered_models() == []


def test_first_champion_must_beat_the_base(trained: Any) -> None:
    workspace = trained("a")
    publish(workspace)
    decision = promote(workspace)
    assert (decision.verdict, decision.before, decision.after) == ("promote", None, "1")
    assert decision.against == "the base"
    assert decision.evidence["p"] < 0.05
    assert registry.champion_number(connected(workspace), NAME) == "1"
    assert promote(workspace).verdict == "champion already"
    (entry,) = entries(workspace)
    assert (entry.who, entry.verdict, entry.state) == ("ada", "promote", "done")
    assert entry.evidence["p"] == pytest.approx(decision.evidence["p"])
    assert publication.receipts(workspace)[0].decision["after"] == "1"


def known_champion(workspace: Workspace) -> str | None:
    return champion_known(workspace, name=NAME, tracking=params.load(workspace.params).tracking)


def test_champion_known_is_of_the_last_decision_and_of_this_model_and_server_alone(tmp_path: Path) -> None:
    workspace, tracking = Workspace(tmp_path), TrackingConfig(uri="http://127.0.0.1:1")
    assert champion_known(workspace, name=NAME, tracking=tracking) is None
    for number, (uri, name) in enumerate([(tracking.uri, NAME)] * 2 + [(tracking.uri, "other"), ("sqlite:///b", NAME)]):
        held = Receipt(uri, name, f"{number}", "key", "run", "url", f"{number}", "url", "content")
        write_receipt(workspace, held)
    for adapter, after in (("1", "1"), ("0", "0"), ("2", "2"), ("3", "3")):
        for held in publication.receipts(workspace):
            if held.adapter == adapter:
                write_decision(workspace, held.place, {"after": after})
    assert champion_known(workspace, name=NAME, tracking=tracking) == "0"


def test_the_report_in_mlflow_begins_with_the_verdict(trained: Any, tmp_path: Path) -> None:
    workspace = trained("a")
    receipt = publish(workspace)
    before = (workspace.evaluation / "report.html").read_bytes()
    decision = promote(workspace)
    assert (workspace.evaluation / "report.html").read_bytes() == before
    client = connected(workspace).client
    pages = [
        Path(client.download_artifacts(run_id, path, str(tmp_path))).read_text()
        for run_id, path in ((receipt.run_id, "evaluation/report.html"), (decision.journal, "report.html"))
    ]
    assert pages[0] == pages[1]
    for said in ("Verdict: promote.", "against the base", f"<dd>{NAME} 1</dd>", "<dt>decided by</dt><dd>ada</dd>"):
        assert said in pages[0]
    assert len(pages[0]) > len(before)


def test_first_champion_must_beat_the_cheap_predictors_too(trained: Any) -> None:
    workspace = trained("a")
    publish(workspace)
    change(workspace, promotion={"first_against": "baselines"})
    refused = promote(workspace)
    assert refused.refused
    assert refused.against == "TF-IDF + logistic regression"


def test_gates_are_read_from_what_evaluate_wrote(trained: Any) -> None:
    workspace = trained("a")
    publish(workspace)
    slices = [
        {"slice": {"label": "weather"}, "margin": 0.5, "min_rows": 5},
        {"metric": "log_loss", "slice": {"longer_than_tokens": 3}, "margin": 0.5},
    ]
    change(workspace, promotion={"gates": [*slices[:1], {"probe": "behaviour", "margin": 0.1}]})
    with pytest.raises(ConfigError, match="probe 'behaviour': evaluate did not measure it of the adapter"):
        promote(workspace)
    change(workspace, promotion={"gates": [{"slice": {"label": "sea"}, "margin": 0.5}]})
    with pytest.raises(
        ConfigError, match=r"promotion.gates.0.slice.label: no label 'sea'; there are animals, cooking, weather"
    ):
        promote(workspace)
    change(workspace, promotion={"gates": [{**slices[1], "min_rows": 99}]})
    with pytest.raises(ConfigError, match=r"promotion.gates.0.slice: 15 test rows, fewer than its min_rows, 99"):
        promote(workspace)
    wrong = [{"probe": "forgeting", "margin": 0.1}, {"groups": "sorce", "margin": 0.1}]
    change(workspace, promotion={"gates": wrong})
    with pytest.raises(ConfigError, match=r"2 problems(?s:.*)'forgeting'(?s:.*)gates.1.groups: no test row has"):
        promote(workspace)
    assert entries(workspace) == []
    change(workspace, promotion={"gates": [slices[0], {**slices[1], "min_rows": 5}]})
    decision = promote(workspace)
    assert decision.verdict == "promote"
    assert decision.evidence["gates"] == decision.evidence["gates_held"] == 2
    assert {"p accuracy of label weather", "p log_loss of tokens above 3"} <= decision.evidence.keys()


@pytest.mark.slow
def test_every_kind_of_gate_is_held_against_a_champion_that_cleans_in_another_way(
    trained: Any, monkeypatch: Any
) -> None:
    """``b`` redacts, has another rank and is champion; all that evaluate measured of ``a`` is asked of it too."""
    from graft.evaluation.probes import Subject

    champion, workspace = trained("b"), trained("a")
    publish(champion)
    promote(champion, approve=True, reason="the first")
    publish(workspace)
    gates = [
        {"probe": "robustness", "margin": 0.5},
        {"probe": "forgetting", "margin": 0.5},
        {"metric": "ece", "margin": 0.5},
        {"groups": "label", "margin": 0.9, "min_rows": 5},
        {"slice": {"name": "label=weather"}, "margin": 0.5, "min_rows": 5},
        {"cost": "adapter_bytes", "margin": 100},
        {"cost": "latency_p50_ms", "margin": 1e6},
    ]
    change(workspace, promotion={"gates": gates})
    cleaned, original = [], Subject.predictions

    def seen(self: Subject, *given: Any, **more: Any) -> Any:
        cleaned.append(self.cleans)
        return original(self, *given, **more)

    monkeypatch.setattr(Subject, "predictions", seen)
    change(workspace, evaluation={"slices": {"least_rows": 5}})
    stages.run("evaluate", workspace)
    cleaned.clear()
    decision = promote(workspace)
    assert cleaned == [True]  # noise is asked of the champion once, and read as it reads
    assert decision.evidence["gates"] == 7
    assert decision.evidence["p adapter_bytes"] == 1  # rank 4 against rank 2
    assert decision.evidence["p latency_p50_ms"] < 0.05
    assert {"p robustness", "p forgetting", "p squared calibration error"} <= decision.evidence.keys()
    assert any(name.startswith("p accuracy alike by label ") for name in decision.evidence)
    assert "adapter_bytes" in decision.reason
    assert decision.verdict == "reject"


def test_promote_needs_a_published_version(trained: Any) -> None:
    with pytest.raises(ResourceMissing, match="not published; run `graft sync`"):
        promote(trained("a"))


@pytest.mark.slow
def test_candidate_that_is_not_better_stays_until_a_person_approves(trained: Any) -> None:
    first, second = trained("a"), trained("b")
    publish(first)
    promote(first)
    publish(second)
    refused = promote(second)
    assert refused.refused
    assert known_champion(second) == "1"
    assert refused.verdict in ("undecided", "reject")
    # Going back is to a version that was champion: what the gates refused does not come in by this door.
    with pytest.raises(
        InputError, match=rf"never was champion \(decisions about it: {refused.verdict}\).*: 1\. .*--appr"
    ):
        rollback(second, to="2")
    assert known_champion(second) == "1"
    assert refused.against == "champion version 1"
    share = 0.05 * 6 / math.pi**2
    assert entries(first)[1].evidence["level"] == pytest.approx(share)
    assert entries(first)[1].test == entries(first)[0].test == refused.test != ""
    assert refused.evidence["decision_number"] == 2
    # The first promotion handed its level on.
    assert refused.evidence["level"] == pytest.approx(share / 4 + share)
    assert "This was decision 2 on this test set at level 0.038" in refused.reason
    with pytest.raises(InputError, match="needs --reason"):
        promote(second, approve=True)
    approved = promote(second, approve=True, reason="smaller")
    assert (approved.verdict, approved.before, approved.after) == ("approved", "1", "2")
    # The same question, asked again, is no second look: it has the level that it had, and spends nothing.
    assert approved.evidence == refused.evidence
    assert len(measuring.looks(entries(first), refused.test)) == 2
    assert "approved by ada: smaller" in approved.reason
    assert known_champion(second) == "2"
    back = rollback(second, reason="wrong labels")
    assert (back.before, back.after) == ("2", "1")
    assert known_champion(second) == "1"
    assert registry.champion_number(connected(first), NAME) == "1"
    assert [(one.kind, one.before, one.after) for one in entries(first)] == [
        ("rollback", "2", "1"),
        ("promote", "1", "2"),
        ("promote", "1", "1"),
        ("promote", None, "1"),
    ]
    assert promote(second).refused


def test_the_champions_recipe_with_another_seed_is_no_candidate(trained: Any, capsys: Any) -> None:
    first, luck = trained("a"), trained("luck")
    for workspace in (first, luck):
        publish(workspace)
    promote(first)
    capsys.readouterr()
    refused = promote(luck)
    assert "champion (version 1): " not in capsys.readouterr().out  # not a row was scored for it
    assert (refused.verdict, refused.after, refused.test, dict(refused.evidence)) == ("undecided", "1", "", {})
    assert "but with seed 9 instead of 7: what differs is luck, so nothing was tested" in refused.reason
    assert promote(luck, approve=True, reason="we like it").after == "2"
    identity = read_json(first.adapter / "identity.json")
    assert artifact.same_recipe(identity, read_json(luck.adapter / "identity.json"))
    for name in ("recipe", "data", "code", "environment"):
        assert not artifact.same_recipe(identity, identity | {name: "other"})


def test_candidate_that_learnt_a_new_label_is_compared(trained: Any, monkeypatch: Any) -> None:
    """The champion was never told of ``sea``: it is wrong on its rows, right and wrong as before on the others."""
    first, second = trained("a"), trained("b")
    publish(first)
    promote(first)
    publish(second)
    before = promote(second)
    identity = read_json(second.adapter / "identity.json")
    identity["task"]["state"]["labels"] = [*identity["task"]["state"]["labels"], "sea"]
    write_json(second.adapter / "identity.json", identity)
    part = second.data / "test" / "part-0000.jsonl"
    rows = [json.loads(line) for line in part.read_text().splitlines()]
    part.write_text("".join(json.dumps({**row, "label": "sea"}) + "\n" for row in rows[:5]))
    part.with_name("part-0001.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[5:]))
    loaded = params.load(second.params)
    subject = score_adapter(first.adapter, second, data=loaded.data, batch_rows=8)
    assert subject.unknown == ("sea",)
    own = prediction.read(first.evaluation / "predictions" / "adapter.parquet")
    assert subject.table["prediction"].tolist() == own["prediction"].tolist()
    assert subject.table["probabilities"][:, -1].max() < 1e-30
    assert subject.table["probabilities"][:, :3] == pytest.approx(own["probabilities"], abs=1e-6)
    accuracy, log_loss = (tasks.get("text_classification").metric(name) for name in ("accuracy", "log_loss"))
    right = (own["prediction"] == own["reference"])[5:]
    assert accuracy.function(subject.table) == pytest.approx(right.sum() / 15)
    assert math.isfinite(log_loss.function(subject.table))
    assert before.evidence["champion"] == pytest.approx(float((own["prediction"] == own["reference"]).mean()))
    champion = measuring.Champion(lambda: subject, "champion version 1", {}, None, loaded.evaluation, {})  # type: ignore[arg-type]
    assert cases._never_given(champion) == (
        " champion version 1 was not trained on 'sea': rows that have one count as wrong for it."
    )


def test_champion_is_scored_on_its_own_as_it_was_evaluated(trained: Any) -> None:
    """The second route: what evaluate wrote for the champion in its own project is what promote measures for it."""
    first, second = trained("a"), trained("b")
    publish(first)
    promote(first)
    publish(second)
    decision = promote(second)
    own = read_json(first.evaluation / "metrics.json")["adapter"]["accuracy"]["value"]
    assert decision.evidence["champion"] == pytest.approx(own)
    assert decision.evidence["rows"] == 15


@pytest.mark.parametrize("trusted", [True, False])
def test_code_of_the_champions_base_runs_where_params_trust_it(trained: Any, monkeypatch: Any, trusted: bool) -> None:
    from graft import deciding, evaluation

    first, second = trained("a"), trained("b")
    publish(first)
    promote(first)
    publish(second)
    change(second, base={"trust_remote_code": trusted})
    asked = list[bool]()

    def scored(*arguments: Any, trust_remote_code: bool = False, **options: Any) -> Any:
        asked.append(trust_remote_code)
        return score_adapter(*arguments, **options)

    monkeypatch.setattr(evaluation, "score_adapter", scored)
    assert "champion" in deciding.decide(second, who="ada").evidence
    assert asked == [trusted]


@pytest.mark.parametrize(
    ("review", "approve", "after"), [("rejected", False, None), ("rejected", True, None), ("approved", False, "1")]
)
def test_reviewers_tag_in_the_ui_is_heard(trained: Any, review: str, approve: bool, after: str | None) -> None:
    workspace = trained("a")
    receipt = publish(workspace)
    connected(workspace).client.set_model_version_tag(NAME, receipt.version, "review", review)
    if review == "approved":  # one row of 15 that only the adapter has right decides nothing
        folder = workspace.evaluation / "predictions"
        table = prediction.read(folder / "adapter.parquet")
        table["prediction"] = table["prediction"].copy()
        table["prediction"][0] = (table["prediction"][0] + 1) % 3
        prediction.write(folder / "base.parquet", table)
    decision = promote(workspace, approve=approve, reason="I like it")
    assert decision.after == after
    assert decision.refused == (after is None)


@pytest.mark.parametrize(
    ("verdict", "after", "said"),
    [
        ("undecided", "approved", "a reviewer set review = approved on version 2; close"),
        ("reject", "reject", "close (a reviewer set review = approved on version 2, which overrules no rejection by"),
    ],
)
def test_reviewers_tag_overrules_what_is_open_and_says_what_it_does_not(verdict: str, after: str, said: str) -> None:
    candidate = registry.Version(NAME, "2", "d2", None, "", 0, tags={"review": "approved"})
    nothing: Any = None
    case = cases.Case(nothing, nothing, nothing, candidate, None, [], "ada", nothing)
    decided = cases.overruled(case, cases.Decision(NAME, verdict, "2", None, None, "close", "ada"), None)
    assert (decided.verdict, decided.moved) == (after, after == "approved")
    assert decided.reason.startswith(said)


@pytest.mark.slow
def test_champion_moved_by_hand_is_noted_and_conflict_is_journaled(trained: Any, monkeypatch: Any) -> None:
    from graft.publication import decisions

    first, second = trained("a"), trained("b")
    publish(first)
    promote(first)
    publish(second)
    client = connected(first).client
    client.set_registered_model_alias(NAME, "champion", "2")
    noted = promote(first)
    assert "moved outside Graft: the journal says version 1, MLflow says version 2" in noted.notes[0]
    test = decisions.tested

    def slow(*arguments: Any) -> Any:
        found = test(*arguments)
        client.delete_registered_model_alias(NAME, "champion")
        return found

    monkeypatch.setattr(decisions, "tested", slow)
    with pytest.raises(PromotionConflict, match="champion is not set by now"):
        promote(first, approve=True, reason="again")
    assert "overtaken" in [one.state for one in entries(first)]


def test_promote_checks_the_candidate_in_the_registry(trained: Any, tmp_path: Path) -> None:
    workspace = trained("a")
    publish(workspace)
    for path in (tmp_path / "mlflow" / "store" / "artifacts" / "models").rglob("adapter_config.json"):
        path.write_text(path.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    with pytest.raises(IntegrityError, match="models:/toy-topic/1: its adapter has digest"):
        promote(workspace)
    assert registry.champion_number(connected(workspace), NAME) is None


@pytest.mark.slow
def test_rollback_checks_the_artifact_first(trained: Any, tmp_path: Path) -> None:
    first, second = trained("a"), trained("b")
    publish(first)
    promote(first)
    publish(second)
    promote(second, approve=True, reason="newer")
    for path in (tmp_path / "mlflow" / "store" / "artifacts" / "models").rglob("adapter_config.json"):
        path.write_text(path.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    with pytest.raises(IntegrityError, match="models:/toy-topic/1: its adapter has digest"):
        rollback(second)
    assert registry.champion_number(connected(first), NAME) == "2"


def test_rollback_needs_a_champion_and_a_version_before_it(trained: Any) -> None:
    workspace = trained("a")
    publish(workspace)
    with pytest.raises(InputError, match="no champion to roll back from"):
        rollback(workspace)
    promote(workspace)
    with pytest.raises(InputError, match="knows no champion before"):
        rollback(workspace)
    loaded = params.load(workspace.params)
    other = loaded.registration.model_copy(update={"name": f"{NAME}z"})
    assert not publication.standing(workspace, registration=other, tracking=loaded.tracking).entries
    with pytest.raises(InputError, match=rf"no model '{NAME}z' .*; did you mean '{NAME}'\?"):
        publication.standing(workspace, registration=other, tracking=loaded.tracking, published=True)


def test_follower_facts_are_the_published_ones(trained: Any) -> None:
    from graft.artifact import planned_identity
    from graft.identity import run_key

    workspace = trained("a")
    loaded = params.load(workspace.params)
    sections = {name: getattr(loaded, name) for name in ("task", "base", "adapter", "training")}
    planned = planned_identity(workspace, **sections)
    facts = publication.follower_facts(planned, CONTEXT, **sections)
    receipt = publish(workspace)
    run = everything(workspace).run
    assert run_key(planned) == receipt.key
    assert facts["tags"].items() <= run.data.tags.items()
    assert facts["parameters"] == run.data.params
    assert facts["name"] == run.data.tags["mlflow.runName"]


LOAD = """
import json, sys
sys.path[:] = [path for path in sys.path if not path.startswith(sys.argv[1])] + [sys.argv[2]]
try:
    import graft
    raise SystemExit(f"graft is installed: {graft.__file__}")
except ModuleNotFoundError:
    pass
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/toy-topic@champion")
import graft
texts = sys.argv[3:]
print(json.dumps({
    "code": graft.__file__,
    "table": model.predict(pandas.DataFrame({"text": texts})).to_dict("records"),
    "objects": model.predict([{"text": text} for text in texts]).to_dict("records"),
    "strings": model.unwrap_python_model().predict(None, texts).to_dict("records"),
    "detectors": "phonenumbers" in sys.modules,
}))
"""


def loaded_elsewhere(uri: str, bases: Path | None, texts: list[str]) -> dict[str, Any]:
    """Return the champion's answers to texts in a process without graft, asked in three ways."""
    import mlflow

    packages = str(Path(mlflow.__file__).parents[1])
    source = str(Path(stages.__file__).parents[1])
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri} | ({"GRAFT_BASES": str(bases)} if bases else {})
    environment.pop("PYTHONPATH", None)
    # -S: no site, hence no .pth file that would put this checkout on the path.
    command = [sys.executable, "-I", "-S", "-c", LOAD, source, packages, *texts]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.mark.slow
def test_model_answers_raw_text_where_graft_is_not_installed(trained: Any, tmp_path: Path) -> None:
    from graft.artifact import load, predict

    workspace = trained("a")
    receipt = publish(workspace)
    promote(workspace)
    texts = ["the cat meows", "rain and wind"]
    digest = read_json(workspace.adapter / "identity.json")["base"]["digest"]
    with pytest.raises(AssertionError, match=rf"above a copy of it in GRAFT_BASES \(base digest {digest}\)"):
        loaded_elsewhere(receipt.uri, None, texts)
    answers = loaded_elsewhere(receipt.uri, tmp_path / "a", texts)
    assert str(tmp_path / "mlflow" / "store") in answers["code"]
    assert not answers["detectors"]
    own = predict(load(workspace.adapter, workspace.root), [{"text": "the cat meows"}, {"text": "rain and wind"}])
    for way in ("table", "objects", "strings"):
        assert [one["label"] for one in answers[way]] == [one["label"] for one in own]
        assert [one["score"] for one in answers[way]] == pytest.approx([one["score"] for one in own], abs=1e-5)


@pytest.mark.slow
def test_model_redacts_what_it_is_asked_where_graft_is_not_installed(trained: Any, tmp_path: Path) -> None:
    from graft.artifact import load, predict

    workspace = trained("b")
    receipt = publish(workspace)
    promote(workspace, approve=True, reason="it redacts")
    phone = "cat +1 212 555 0123 meows"
    asked, redacted = [phone, "the dog"], ["cat <PHONE_1> meows", "the dog"]
    answers = loaded_elsewhere(receipt.uri, tmp_path / "b", asked)
    own = predict(load(workspace.adapter, workspace.root), [{"text": text} for text in redacted])
    for way in ("table", "objects", "strings"):
        assert [one["score"] for one in answers[way]] == pytest.approx([one["score"] for one in own], abs=1e-5)
    raw = predict(load(trained("a").adapter, tmp_path / "a"), [{"text": text} for text in (phone, redacted[0])])
    assert raw[0]["score"] != pytest.approx(raw[1]["score"], abs=1e-4)  # the two texts are not the same to a model
    [needed] = (tmp_path / "mlflow" / "store").rglob("requirements.txt")
    assert {"idnumbers", "phonenumbers"} <= {line.partition("==")[0] for line in needed.read_text().splitlines()}
    assert answers["detectors"]


@pytest.mark.slow
def test_command_line_predicts_a_csv(trained: Any, tmp_path: Path) -> None:
    workspace = trained("a")
    receipt = publish(workspace)
    promote(workspace)
    Path("in.csv").write_text('id,text\n1,"the cat, meows"\n2,soup with salt\n')
    environment = {**os.environ, "MLFLOW_TRACKING_URI": receipt.uri, "GRAFT_BASES": str(tmp_path / "a")}
    environment.pop("PYTHONPATH", None)
    options = "-m models:/toy-topic@champion --env-manager local -i in.csv -t csv -o out.json"
    command = [sys.executable, "-m", "mlflow", "models", "predict", *options.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(Path("out.json").read_text())["predictions"]
    assert [sorted(one) for one in answers] == [["label", "score", "scores"]] * 2


def pin_champion(workspace: Workspace) -> Any:
    loaded = params.load(workspace.params)
    return publication.pin_champion(workspace, registration=loaded.registration, tracking=loaded.tracking)


def described(workspace: Workspace) -> tuple[str, bool]:
    loaded = params.load(workspace.params)
    return described_pin(workspace, registration=loaded.registration, tracking=loaded.tracking)


def test_champion_is_pinned_with_the_profile_of_its_data(trained: Any) -> None:
    workspace = trained("a")
    assert pin_champion(workspace) is None
    assert described(workspace) == ("no champion is pinned: the data is compared with no other", False)
    publish(workspace)
    assert promote(workspace).after == "1"
    text, moved = described(workspace)
    assert (moved, text.endswith("champion is toy-topic version 1 by now: `graft lock` pins it")) == (True, True)
    base = read_json(workspace.sources_lock)["base"]
    found = pin_champion(workspace)
    assert (found.name, found.version, found.adapter) == (NAME, "1", digest_folder(workspace.adapter))
    assert workspace.champion_profile.read_bytes() == (workspace.validation / "profile.json").read_bytes()
    assert pinned_profile(workspace) is not None
    assert read_json(workspace.sources_lock)["base"] == base
    assert described(workspace) == ("toy-topic version 1: the data is compared with its data", False)


@pytest.mark.slow
def test_pin_follows_the_champion_when_it_is_asked_to(trained: Any) -> None:
    first, second = trained("a"), trained("b")
    publish(first)
    promote(first)
    pin_champion(second)
    publish(second)
    promote(second, approve=True, reason="for the test")
    assert described(second)[1]
    assert pin_champion(second).version == "2"
    assert not described(second)[1]


@pytest.mark.slow
def test_champion_that_was_published_without_a_profile_is_pinned_without(trained: Any) -> None:
    workspace = trained("a")
    (workspace.validation / "profile.json").unlink()
    publish(workspace)
    promote(workspace)
    assert pin_champion(workspace).profile is None
    assert not workspace.champion_profile.exists()
    assert described(workspace)[0] == "toy-topic version 1: published without a data profile"


@pytest.mark.slow
def test_pin_stays_where_the_registry_cannot_be_asked(trained: Any) -> None:
    workspace = trained("a")
    publish(workspace)
    promote(workspace)
    pin_champion(workspace)
    before = workspace.sources_lock.read_bytes()
    loaded = params.load(workspace.params)
    away = loaded.tracking.model_copy(update={"uri": "http://127.0.0.1:9"})
    with pytest.raises(ResourceMissing, match=r"not reachable"):
        publication.pin_champion(workspace, registration=loaded.registration, tracking=away)
    assert workspace.sources_lock.read_bytes() == before


@pytest.mark.slow
def test_register_stage_writes_what_publish_reads(trained: Any) -> None:
    workspace = trained("a")
    shutil.rmtree(workspace.package)
    stages.run("register", workspace)
    receipt = publish(workspace)
    assert dataclasses.asdict(receipt)["version"] == "1"


@pytest.mark.slow
def test_server_over_http_takes_run_version_and_decisions(trained: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Files travel through the server: the client reaches no folder and no bucket of its own."""
    from graft import services

    first, second = trained("a"), trained("b")
    server = services.start_mlflow(first, f"sqlite:///{tmp_path / 'mlflow' / 'store' / 'mlflow.db'}")
    try:
        server.wait()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        receipt = publish(first)
        assert receipt == publish(first)
        assert receipt.run_url.startswith(f"{server.url}/#/experiments/")
        assert everything(first).run.info.artifact_uri.startswith("mlflow-artifacts:/")
        assert promote(first).after == "1"
        assert publish(second).version == "2"
        approved = promote(second, approve=True, reason="newer")
        assert (approved.after, approved.evidence["rows"]) == ("2", 15)
        assert rollback(second).after == "1"
    finally:
        server.end()


# -- signed


def signing(workspace: Workspace, key: str | None, *trusted: str) -> dict[str, Any]:
    """Return the tracking section of a project with keys that the test made beside it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    from graft.provenance import SigningConfig

    keys = workspace.root.parent / "keys"
    for name in filter(None, (key, *trusted)):
        if not (keys / f"{name}.pem").exists():
            keys.mkdir(exist_ok=True)
            made = Ed25519PrivateKey.generate()
            private = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (keys / f"{name}.pem").write_bytes(private)
            public = made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            (keys / f"{name}.pub").write_bytes(public)
    config = SigningConfig(
        key=str(keys / f"{key}.pem") if key else None, public_keys=tuple(f"../keys/{name}.pub" for name in trusted)
    )
    return {"tracking": params.load(workspace.params).tracking.model_copy(update={"signing": config})}


def fetched(workspace: Workspace, tracking: Any, number: str, to: Path) -> Path:
    from graft.publication.decisions import fetch

    connection = connect(tracking, workspace)
    return fetch(connection, registry.get(connection, NAME, number), to)


@pytest.mark.slow
def test_versions_are_signed_later_too_and_only_signed_ones_are_used(trained: Any, tmp_path: Path) -> None:
    from graft.publication.provenances import examined

    workspace, other = trained("a"), trained("b")
    both = [signing(one, "ada", "ada") for one in (workspace, other)]
    unsigned = publish(workspace)
    assert everything(workspace).versions[0].tags["graft.signed_by"] == "nobody"
    assert examined(workspace, f"models:/{NAME}/1", **signing(workspace, None)).state == "unsigned"
    with pytest.raises(IntegrityError, match="models:/toy-topic/1: is not signed"):
        fetched(workspace, both[0]["tracking"], "1", tmp_path / "first")
    assert publish(workspace, **both[0]).version == unsigned.version
    assert len(everything(workspace).versions[0].tags["graft.signed_by"]) == 16
    assert fetched(workspace, both[0]["tracking"], "1", tmp_path / "second").is_dir()
    found = examined(workspace, f"models:/{NAME}/1", **both[0])
    assert found.state == "signed"
    assert found.statement is not None
    assert found.statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["gitCommit"] == "c" * 40
    # A second key adds its signature; then the first is revoked.
    publish(workspace, **signing(workspace, "bea", "bea"))
    assert len(everything(workspace).versions[0].tags["graft.signed_by"].split(", ")) == 2
    assert fetched(workspace, signing(workspace, None, "bea")["tracking"], "1", tmp_path / "third").is_dir()
    with pytest.raises(IntegrityError, match="which is none of the keys"):
        fetched(workspace, signing(workspace, None, "eve")["tracking"], "1", tmp_path / "fourth")
    # A publisher without a key leaves what was signed.
    publish(workspace, RunContext(git_commit="f" * 40))
    assert examined(workspace, f"models:/{NAME}/1", **both[0]).state == "signed"


def test_a_forged_registry_does_not_pass_where_keys_are_trusted(trained: Any, tmp_path: Path) -> None:
    """Whoever can write the registry changes adapter, identity and tag together: digests agree, the signature not."""
    from graft.publication.provenances import examined

    workspace = trained("a")
    signed = signing(workspace, "ada", "ada")
    publish(workspace, **signed)
    models = tmp_path / "mlflow" / "store" / "artifacts" / "models"
    (place,) = (path.parent for path in models.rglob("adapter/identity.json"))
    identity = read_json(place / "identity.json")
    write_json(place / "identity.json", identity | {"seed": 99})
    connection = connected(workspace)
    connection.client.set_model_version_tag(NAME, "1", "graft.adapter", digest_folder(place))
    assert fetched(workspace, signing(workspace, None)["tracking"], "1", tmp_path / "trusting").is_dir()
    with pytest.raises(IntegrityError, match=r"identity.json: sha256 [0-9a-f]{16}, the statement says"):
        fetched(workspace, signed["tracking"], "1", tmp_path / "careful")
    assert examined(workspace, f"models:/{NAME}/1", **signed).state == "refused"


def test_a_damaged_signature_is_made_anew(trained: Any, tmp_path: Path) -> None:
    workspace = trained("a")
    ours = signing(workspace, "ada", "ada")
    publish(workspace, **ours)
    (envelope,) = (tmp_path / "mlflow" / "store" / "artifacts" / "models").rglob("provenance.dsse.json")
    whole = envelope.read_bytes()
    said = read_json(envelope)
    first, *rest = said["signatures"][0]["sig"]
    write_json(envelope, said | {"signatures": [said["signatures"][0] | {"sig": "BA"[first == "B"] + "".join(rest)}]})
    with pytest.raises(IntegrityError, match="is not what key"):
        fetched(workspace, ours["tracking"], "1", tmp_path / "first")
    publish(workspace)  # who has no key makes none
    with pytest.raises(IntegrityError, match="is not what key"):
        fetched(workspace, ours["tracking"], "1", tmp_path / "second")
    publish(workspace, **ours)
    assert fetched(workspace, ours["tracking"], "1", tmp_path / "third").is_dir()
    assert envelope.read_bytes() == whole


@pytest.mark.slow
def test_promote_and_rollback_refuse_an_unsigned_version(trained: Any) -> None:
    first, second = trained("a"), trained("b")
    publish(first)
    loaded = params.load(first.params)
    names = ("task", "data", "evaluation", "registration", "promotion")
    sections = {name: getattr(loaded, name) for name in names} | signing(first, "ada", "ada")
    with pytest.raises(IntegrityError, match="models:/toy-topic/1: is not signed"):
        publication.promote(first, who="ada", **sections)
    assert registry.champion_number(connected(first), NAME) is None
    promote(first)
    publish(second, **signing(second, "ada", "ada"))
    promote(second, approve=True, reason="newer")
    loaded = params.load(second.params)
    with pytest.raises(IntegrityError, match="models:/toy-topic/1: is not signed"):
        publication.rollback(second, registration=loaded.registration, who="ada", **signing(second, "ada", "ada"))
    assert registry.champion_number(connected(first), NAME) == "2"


@pytest.mark.slow
def test_training_starts_from_the_champion_that_is_pinned(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = trained("a"), trained("luck")
    publish(first)
    promote(first)
    change(first, training={"init_from": f"models:/{NAME}@champion"})
    loaded = params.load(first.params)

    def planned() -> str:
        return str(run_key(artifact.planned_identity(first, loaded.task, loaded.base, loaded.adapter, loaded.training)))

    def pinned() -> dict[str, Any]:
        publication.pin_start(first, training=loaded.training, tracking=loaded.tracking)
        return dict(read_json(first.sources_lock)["init"])

    digest = digest_folder(first.adapter)
    assert pinned() == {"source": f"models:/{NAME}@champion", "digest": digest, "name": NAME, "version": "1"}
    key = planned()
    publish(second)
    promote(second, approve=True, reason="for the test")
    assert planned() == key  # a stage does not see that the alias moved
    monkeypatch.setattr(publication.starts, "fetch", pytest.fail)  # nor does it ask where the files are
    stages.run("train", first)
    assert read_json(first.adapter / "identity.json")["init"] == digest
    monkeypatch.undo()
    monkeypatch.setenv("GRAFT_HOME", str(first.root.parent))
    assert pinned()["version"] == "2"
    assert planned() != key
    before = first.sources_lock.read_bytes()
    away = loaded.tracking.model_copy(update={"uri": "http://127.0.0.1:9"})
    with pytest.raises(ResourceMissing, match=r"not reachable"):
        publication.pin_start(first, training=loaded.training, tracking=away)
    missing = loaded.training.model_copy(update={"init_from": f"models:/{NAME}/7"})
    with pytest.raises(InputError, match=r"^training.init_from: .*no version '7' .*; there are: 2, 1"):
        publication.pin_start(first, training=missing, tracking=loaded.tracking)
    assert first.sources_lock.read_bytes() == before
