"""Test sets from elsewhere: scored like test rows, no part of the data that is trained on, refused before training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats
from sklearn.metrics import accuracy_score

from graft import stages, tasks
from graft.checks import check
from graft.data import data_digest, parts, parts_of_test_sets
from graft.errors import ConfigError, DataError
from graft.evaluation import EvaluationConfig
from graft.evaluation.contrasts import newcombe
from graft.evaluation.overview import systems as summary_systems
from graft.evaluation.prediction import read
from graft.evaluation.probes import About
from graft.evaluation.probes.test_sets import PROBE, _scores
from graft.evaluation.slices import mask_of
from graft.identity import digest_files
from graft.importing import import_data
from graft.privacy.section import PrivacyConfig
from graft.workspace import Workspace, read_json
from tests.conftest import toy_rows, write_rows

MAIL = "ann" + "@example.org"


def add_sets(workspace: Workspace) -> None:
    """Add rows of the same topics, and rows with labels that their words do not give away."""
    write_rows(workspace.data / "test_sets" / "near" / "a.jsonl", toy_rows(24, seed=77))
    names = ("animals", "cooking", "weather")
    shifted = [{"text": f"the old {row['text']}", "label": names[n % 2]} for n, row in enumerate(toy_rows(40, seed=78))]
    shifted[3]["text"] += f" {MAIL}"
    write_rows(workspace.data / "test_sets" / "far" / "a.jsonl", shifted[:25])
    write_rows(workspace.data / "test_sets" / "far" / "b.jsonl", shifted[25:])


@pytest.fixture(scope="module")
def kept() -> dict[str, Workspace]:
    return {}


@pytest.fixture
def scored(
    kept: dict[str, Workspace], tmp_path_factory: pytest.TempPathFactory, make_project: Callable[..., Workspace]
) -> Workspace:
    """Read it; do not change it."""
    if not kept:
        workspace = make_project(tmp_path_factory.mktemp("sets") / "project", training={"epochs": 1})
        add_sets(workspace)
        for stage in ("validate", "tokenize", "train", "evaluate"):
            stages.run(stage, workspace)
        kept["project"] = workspace
    return kept["project"]


@pytest.fixture
def copy(scored: Workspace, tmp_path: Path) -> Workspace:
    return Workspace(shutil.copytree(scored.root, tmp_path / "copy"))


def set_evaluation(workspace: Workspace, **values: object) -> None:
    found = yaml.safe_load(workspace.params.read_text())
    found["evaluation"] = {**found.get("evaluation", {}), **values}
    workspace.params.write_text(yaml.safe_dump(found, sort_keys=False))


def test_each_set_is_scored_by_adapter_and_base(scored: Workspace) -> None:
    metrics = read_json(scored.evaluation / "metrics.json")
    for system in ("adapter", "base"):
        table = read(scored.evaluation / "probes" / "test_sets" / f"{system}.parquet")
        test = read(scored.evaluation / "predictions" / f"{system}.parquet")
        assert table["row"].tolist()[:25] == [f"data/test_sets/far/a.jsonl:{line}" for line in range(1, 26)]
        assert table["row"].tolist()[25] == "data/test_sets/far/b.jsonl:1"
        for name, rows in (("far", 40), ("near", 24)):
            mask = table["set"] == name
            assert mask.sum() == rows
            found = metrics["probes"]["test_sets"][system]
            expected = accuracy_score(table["reference"][mask], table["prediction"][mask])
            assert found[f"{name}_accuracy"]["value"] == pytest.approx(expected, abs=1e-6)
            exact = stats.binomtest(int(table["score"][mask].sum()), rows).proportion_ci(method="wilson")
            assert (found[f"{name}_accuracy"]["low"], found[f"{name}_accuracy"]["high"]) == pytest.approx(
                exact, abs=1e-6
            )
            right = int((test["reference"] == test["prediction"]).sum()), len(test["row"])
            drop = found[f"{name}_accuracy_drop"]
            assert drop["value"] == pytest.approx(right[0] / right[1] - expected, abs=1e-6)
            bounds = newcombe(right, (int(table["score"][mask].sum()), rows), 0.95)
            assert (drop["low"], drop["high"]) == pytest.approx(bounds, abs=1e-6)


def test_report_and_card_say_it_and_show_nothing_private(scored: Workspace) -> None:
    report, card = ((scored.evaluation / name).read_text() for name in ("report.html", "model_card.md"))
    assert "Test sets from elsewhere, by accuracy" in report
    assert "On the test set `far` (40 rows from elsewhere) its accuracy is" in card
    assert "The test rows come from the same source" not in card
    assert all(MAIL.encode() not in path.read_bytes() for path in scored.evaluation.rglob("*") if path.is_file())


def test_sets_are_no_part_of_the_data_that_is_trained_on(copy: Workspace) -> None:
    before = data_digest(copy.data)
    identity = read_json(copy.adapter / "identity.json")
    assert before == identity["data"]
    shutil.rmtree(copy.data / "test_sets")
    assert (data_digest(copy.data), parts_of_test_sets(copy.data)) == (before, {})
    assert set(parts(copy.data)) == {"train", "validation", "test"}
    stages.run("evaluate", copy)
    assert "test_sets" not in read_json(copy.evaluation / "metrics.json").get("probes", {})


@pytest.mark.slow
def test_the_section_chooses_sets(copy: Workspace) -> None:
    set_evaluation(copy, test_sets=["near"])
    stages.run("evaluate", copy)
    assert set(read(copy.evaluation / "probes" / "test_sets" / "adapter.parquet")["set"]) == {"near"}
    set_evaluation(copy, test_sets=[])
    stages.run("evaluate", copy)
    assert not (copy.evaluation / "probes" / "test_sets").exists()
    set_evaluation(copy, test_sets=["nera"])
    with pytest.raises(
        ConfigError, match=r"evaluation\.test_sets: no data/test_sets/nera; there are far, near; did you"
    ):
        stages.run("evaluate", copy)
    said = [one.text for one in check(copy, adapter=False).findings]
    assert "evaluation.test_sets: no data/test_sets/nera; there are far, near" in said


def test_a_bad_row_is_refused_at_its_line_before_training(copy: Workspace) -> None:
    with (copy.data / "test_sets" / "far" / "b.jsonl").open("a") as file:
        file.write('{"text": "some words here", "label": "sports"}\n{"text": 4, "label": "cooking"}\n{broken\n')
    before = digest_files(copy.validation)
    with pytest.raises(DataError, match="data/test_sets: 3 problems") as caught:
        stages.run("validate", copy)
    text = str(caught.value)
    assert "data/test_sets/far/b.jsonl:16: label: expected one of animals, cooking, weather, found 'sports'" in text
    assert "data/test_sets/far/b.jsonl:17: text: expected a string, found the integer 4" in text
    assert "data/test_sets/far/b.jsonl:18" in text
    assert digest_files(copy.validation) == before
    assert "far/b.jsonl:16" in (copy.failed / "validate" / "report.json").read_text()


def test_a_row_that_came_after_validate_is_refused_by_evaluate(copy: Workspace) -> None:
    before = digest_files(copy.evaluation)
    with (copy.data / "test_sets" / "far" / "b.jsonl").open("a") as file:
        file.write('{"text": "some words here", "label": "sports"}\n')
    with pytest.raises(DataError, match=r"far/b\.jsonl:16: label: expected one of animals, cooking, weather, found"):
        stages.run("evaluate", copy)
    assert digest_files(copy.evaluation) == before


def test_the_stage_measures_slices_and_groups_by_column(copy: Workspace) -> None:
    slices = {"columns": ["label"], "least_rows": 2}
    set_evaluation(copy, slices=slices, groups=["label"], test_sets=[], robustness={"rows": 0})
    stages.run("evaluate", copy)
    metrics = read_json(copy.evaluation / "metrics.json")
    table = read(copy.evaluation / "predictions" / "adapter.parquet")
    labels = sorted(("animals", "cooking", "weather"))
    for number, name in enumerate(labels):
        mask = mask_of(copy.evaluation, f"label={name}", table["row"].tolist())
        assert mask.tolist() == (table["reference"] == number).tolist()
        expected = accuracy_score(table["reference"][mask], table["prediction"][mask])
        assert metrics["groups"]["label"]["groups"][f"label={name}"]["value"] == pytest.approx(expected, abs=1e-6)
        assert metrics["slices"]["known"][f"label={name}"]["value"] == pytest.approx(expected, abs=1e-6)
    assert set(summary_systems(metrics)) == {"adapter", "base", "majority", "tfidf"}
    set_evaluation(copy, slices={"columns": ["lable"]})
    with pytest.raises(DataError, match=r"evaluation\.slices\.columns: no test row has the column 'lable'.*'label'"):
        stages.run("evaluate", copy)


def test_what_is_no_test_set_is_refused(copy: Workspace) -> None:
    (copy.data / "test_sets" / "notes.txt").write_text("x")
    (copy.data / "test_sets" / "near" / "a.doc").write_text("x")
    with pytest.raises(DataError, match="cannot be used as test sets") as caught:
        parts_of_test_sets(copy.data)
    assert "data/test_sets/near/a.doc: not a part file" in str(caught.value)
    assert "data/test_sets/notes.txt: not a folder of part files" in str(caught.value)


def test_an_import_keeps_the_sets(copy: Workspace, tmp_path: Path) -> None:
    before = digest_files(copy.data / "test_sets")
    write_rows(tmp_path / "new.jsonl", toy_rows(60, seed=5))
    found = import_data(tmp_path / "new.jsonl", copy, replace=True)
    assert "data/test_sets kept as it was" in found.notes
    assert digest_files(copy.data / "test_sets") == before
    assert np.sum([len(files) for files in parts(copy.data).values()]) == 3


@pytest.mark.parametrize(("task", "rows"), [("regression", 1), ("text_classification", 1)])
def test_set_that_says_nothing_is_said_to(task: str, rows: int, tmp_path: Path) -> None:
    """One row: no correlation, no comparison, and no number that is none in report and model card."""
    one = tasks.get(task)
    kind = np.int32 if task == "text_classification" else np.float64

    def table(count: int, spread: float) -> dict[str, np.ndarray]:
        values = (np.arange(count) % 2 * spread).astype(kind)
        return {"row": np.array([f"r:{n}" for n in range(count)], object), "reference": values, "prediction": values}

    predictions = {"adapter": table(20, 1), "base": table(20, 1)}
    own = table(rows, 0) | {"set": np.full(rows, "tiny", object), "score": np.zeros(rows)}
    about = About(one, predictions, PrivacyConfig())
    config = EvaluationConfig(resamples=100)
    found = PROBE.finding(config, {"adapter": own, "base": own}, tmp_path, about)
    assert found.limits == [
        f"The test set `tiny` has too few rows ({rows}), or too uniform ones, for its {one.headline} to be held "
        "against that of the test rows."
    ]
    [line] = found.tables[""]
    assert (line["adapter_minus_base"], line["adapter's_drop_from_the_test_rows"]) == ("–", "–")
    assert "nan" not in f"{found.text} {line} {found.limits}"


def test_scores_of_a_set_are_of_rows_where_the_headline_is_not() -> None:
    """A gate pairs rows; the correlation has none, so what ranks errors does."""
    values = {"reference": np.array([1.0, 2.0]), "prediction": np.array([1.5, 2.0])}
    scores = _scores(tasks.get("regression"), {"row": np.array(["a", "b"], object), **values})
    assert scores.tolist() == [-0.5, 0.0]
