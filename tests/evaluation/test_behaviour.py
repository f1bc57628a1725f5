"""Behavioural tests that a project writes: read strictly, made into cases, judged as `graft predict` answers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy.stats import binomtest

from graft import artifact, checks, stages, tasks
from graft.data import DataConfig
from graft.errors import ConfigError
from graft.evaluation import EvaluationConfig
from graft.evaluation.prediction import read as read_table
from graft.evaluation.probes import About, Material, Subject
from graft.evaluation.probes.behaviour import PROBE, _judged
from graft.evaluation.probes.behaviour_tests import (
    Directional,
    Invariance,
    MinimumFunctionality,
    Says,
    cases_of,
    read,
)
from graft.privacy.section import PrivacyConfig
from graft.workspace import Workspace, read_json

ABOUT = About(tasks.get("text_classification"), {}, PrivacyConfig())

LABELS = {"labels": ["animals", "cooking", "weather"]}
FILE = """\
tests:
  - name: words_give_it_away
    kind: minimum_functionality
    texts: ["the {animal} was here", "a very small {animal}"]
    slots: {animal: [cat, dog, horse]}
    expect: animals
  - name: sizes_do_not_matter
    kind: invariance
    texts: ["the {size} {animal} barks"]
    slots: {size: [small, big, old], animal: [cat, dog]}
    vary: [size]
  - name: more_rain_is_more_weather
    kind: directional
    pairs: [["some rain today", "some rain and snow and thunder today"]]
    label: weather
    must_not: fall
    tolerance: 0.05
"""


def parsed(folder: Path, text: str, task: str = "text_classification", state: Any = LABELS) -> list[Any]:
    (folder / "behaviour.yaml").write_text(text)
    return read("behaviour.yaml", folder, tasks.get(task), state)


def test_templates_make_every_combination_in_order(tmp_path: Path) -> None:
    task = tasks.get("text_classification")
    known, invariance, direction = parsed(tmp_path, FILE)
    texts = [case.rows[0]["text"] for case in cases_of(known, task)]
    animals = ("cat", "dog", "horse")
    assert texts == [*(f"the {one} was here" for one in animals), *(f"a very small {one}" for one in animals)]
    pairs = [(one["text"], other["text"]) for one, other in (case.rows for case in cases_of(invariance, task))]
    assert pairs == [
        (f"the small {animal} barks", f"the {size} {animal} barks")
        for animal in ("cat", "dog")
        for size in ("big", "old")
    ]
    assert [len(case.rows) for case in cases_of(direction, task)] == [2]


def test_without_slots_braces_are_text(tmp_path: Path) -> None:
    text = "tests:\n- {name: a, kind: minimum_functionality, texts: ['f(x) { {y} }'], expect: weather}\n"
    [test] = parsed(tmp_path, text)
    assert cases_of(test, tasks.get("text_classification"))[0].rows == ({"text": "f(x) { {y} }"},)


BROKEN = [
    (
        FILE.replace("expect: animals", "expect: animal"),
        r"behaviour\.yaml:6: tests\.0\.expect: no such label 'animal'; did you mean 'animals'",
    ),
    (
        FILE.replace("label: weather", "label: wether"),
        r"behaviour\.yaml:15: tests\.2\.label: no such label 'wether'; did you mean 'weather'",
    ),
    (
        FILE.replace("    label: weather\n", ""),
        r"tests\.2\.label: must be one of the labels",
    ),
    (
        FILE.replace("must_not", "mustnt"),
        r"behaviour\.yaml:16: tests\.2\.mustnt: unknown key; did you mean",
    ),
    (
        FILE.replace('texts: ["the {size} {animal} barks"]', "texts: []"),
        r"tests\.1: give texts \(templates\) or groups",
    ),
    (
        FILE.replace("[cat, dog, horse]", "[]"),
        r"behaviour\.yaml:5: tests\.0\.slots\.animal: .*at least 1",
    ),
    (
        FILE.replace("{animal: [cat, dog, horse]}", "{animals: [cat]}"),
        r"behaviour\.yaml:5: tests\.0\.slots: a text has \{animal\}, which no slot fills",
    ),
    (
        FILE.replace("vary: [size]", "vary: [colour]"),
        r"behaviour\.yaml:11: tests\.1\.vary: no such slot 'colour'",
    ),
    (
        FILE.replace("more_rain_is_more_weather", "words_give_it_away"),
        r"behaviour\.yaml:12: tests\.2\.name: 'words_give_it_away' is the name of an earlier",
    ),
    (
        FILE.replace("kind: invariance", "kind: invariant"),
        r"behaviour\.yaml:8: tests\.1\.kind: must be one of .*did you mean `invariance`",
    ),
    (
        FILE.replace("name: sizes_do_not_matter", "name: Sizes"),
        r"behaviour\.yaml:7: tests\.1\.name",
    ),
    (
        FILE.replace("expect: animals", "expect: animals\n    tolerance: 0.1"),
        r"behaviour\.yaml:7: tests\.0\.tolerance: only numbers have one",
    ),
    (
        FILE.replace("[small, big, old]", str([f"s{n}" for n in range(1500)])),
        r"tests\.1\.slots: they make 3000 texts; at most 2000",
    ),
    (
        FILE.replace('"the {animal} was here"', "{txt: 'the {animal}'}"),
        r"behaviour\.yaml:4: tests\.0\.texts: no such field 'txt'; the task reads text, text_pair",
    ),
    ("tests: []\n", r"behaviour\.yaml:1: tests: .*at least 1"),
    ("", r"behaviour\.yaml: 1 problem\n.*tests: required, but not given"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_what_is_wrong_is_said_at_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(tmp_path, text)


def test_answers_must_be_of_the_task_s_kind(tmp_path: Path) -> None:
    number = "tests:\n- {name: a, kind: minimum_functionality, texts: [x], expect: 3.5, tolerance: 0.5}\n"
    assert parsed(tmp_path, number, "regression", {})[0].expect == 3.5
    with pytest.raises(ConfigError, match=r"tests\.0\.expect: must be one of the labels \(got 3\.5\)"):
        parsed(tmp_path, number.replace(", tolerance: 0.5", ""))
    with pytest.raises(ConfigError, match=r"tests\.0\.expect: must be a text, or contains"):
        parsed(tmp_path, number.replace(", tolerance: 0.5", ""), "summarization", {})
    with pytest.raises(ConfigError, match=r"evaluation\.behaviour: image_classification has no behavioural tests"):
        parsed(tmp_path, number, "image_classification", {})
    with pytest.raises(ConfigError, match="give one of contains, not_contains, equals"):
        parsed(tmp_path, number.replace("3.5, tolerance: 0.5", "{}"), "summarization", {})


@pytest.mark.parametrize(
    ("test", "answers", "kind", "passes"),
    [
        ({"expect": "b"}, [{"label": "b"}], "label", True),
        ({"expect": ["b", "a"]}, [{"labels": ["a", "b"]}], "labels", True),
        ({"expect": "a"}, [{"labels": ["a", "b"]}], "labels", False),
        ({"expect": 3, "tolerance": 0.5}, [{"value": 3.5}], "value", True),
        ({"expect": 3, "tolerance": 0.5}, [{"value": 3.6}], "value", False),
        ({"expect": "yes"}, [{"text": " yes\n"}], "text", True),
        ({"expect": {"contains": ["Paris"], "not_contains": ["Rome"]}}, [{"text": "It is Paris."}], "text", True),
        ({"expect": {"contains": ["Paris"], "not_contains": ["Rome"]}}, [{"text": "Paris or Rome"}], "text", False),
        ({"expect": {"contains": ["Paris", "France"]}}, [{"text": "It is Paris."}], "text", False),
    ],
)
def test_minimum_functionality_is_judged(test: dict[str, Any], answers: list[Any], kind: Any, passes: bool) -> None:
    one = MinimumFunctionality.model_validate({"name": "a", "kind": "minimum_functionality", "texts": ["x"], **test})
    [case] = cases_of(one, tasks.get("text_classification"))
    assert _judged(case, answers, kind)[0] is passes


def test_change_and_agreement_are_judged() -> None:
    task = tasks.get("regression")
    same = Invariance.model_validate({"name": "a", "kind": "invariance", "groups": [["x", "y"]], "tolerance": 0.25})
    [case] = cases_of(same, task)
    assert _judged(case, [{"value": 1.0}, {"value": 1.25}], "value")[0]
    assert not _judged(case, [{"value": 1.0}, {"value": 1.3}], "value")[0]
    for bound, change, passes in (
        ("fall", -0.1, True),
        ("fall", -0.2, False),
        ("rise", 0.2, False),
        ("rise", -2, True),
    ):
        given = {"name": "a", "kind": "directional", "pairs": [["x", "y"]], "must_not": bound, "tolerance": 0.15}
        [case] = cases_of(Directional.model_validate(given), task)
        assert _judged(case, [{"value": 1.0}, {"value": 1.0 + change}], "value")[0] is passes
    assert str(Says(contains=("a",), equals="b")) == "contains 'a', 'b'"


def test_cases_are_asked_as_predict_asks_and_rates_have_wilson_s_interval(evaluated: Workspace, tmp_path: Path) -> None:
    root = shutil.copytree(evaluated.root, tmp_path / "copy")
    (root / "behaviour.yaml").write_text(FILE)
    loaded = artifact.load(root / "artifacts" / "adapter", root)
    config, material = EvaluationConfig(behaviour="behaviour.yaml"), Material([], DataConfig(), root)
    subject = Subject("adapter", loaded, {}, 4)
    assert PROBE.left_out(EvaluationConfig(), subject, material) == "off"
    assert PROBE.left_out(config, subject, material) is None
    table = PROBE.measure(config, subject, material)
    assert table["row"].tolist()[:2] == ["behaviour.yaml#words_give_it_away:1", "behaviour.yaml#words_give_it_away:2"]
    assert len(table["row"]) == 6 + 4 + 1
    answers = artifact.predict(loaded, [{"text": text} for text in table["text"][:6]])
    assert table["score"][:6].tolist() == [answer["label"] == "animals" for answer in answers]
    assert table["got"][:6].tolist() == [answer["label"] for answer in answers]
    before, after = artifact.predict(loaded, [{"text": text} for text in table["text"][10].split(" → ")])
    change = after["scores"]["weather"] - before["scores"]["weather"]
    assert table["score"][10] == (change >= -0.05)
    found = PROBE.finding(config, {"adapter": table}, tmp_path, ABOUT)
    rate = found.values["adapter"]["words_give_it_away_pass_share"]
    expected = binomtest(int(table["score"][:6].sum()), 6).proportion_ci(0.95, "wilson")
    assert (rate.low, rate.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    failed = [line for line in found.tables["Failures of the adapter"] if line["test"] == "words_give_it_away"]
    assert len(failed) == min(5, int((table["score"][:6] == 0).sum()))


def test_the_stage_refuses_a_wrong_file_before_it_scores_and_reports_a_right_one(
    evaluated: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Workspace(shutil.copytree(evaluated.root, tmp_path / "copy"))
    raw = yaml.safe_load(copy.params.read_text())
    raw["evaluation"]["behaviour"] = "behaviour.yaml"
    copy.params.write_text(yaml.safe_dump(raw))
    file = copy.root / "behaviour.yaml"
    file.write_text(FILE.replace("expect: animals", "expect: fish"))
    with pytest.raises(ConfigError, match=r"behaviour\.yaml:6: tests\.0\.expect: no such label 'fish'"):
        stages.run("evaluate", copy)
    assert "rows/s" not in capsys.readouterr().out
    file.write_text(FILE.replace("was here", "ann" + "@example.org"))
    stages.run("evaluate", copy)
    report = (copy.evaluation / "report.html").read_text()
    assert ">Behavioural tests</h2>" in report
    table = read_table(copy.evaluation / "probes" / "behaviour" / "adapter.parquet")
    assert re.search("<EMAIL", table["text"][0])
    assert "@example" not in report
    found = read_json(copy.evaluation / "metrics.json")["probes"]["behaviour"]["adapter"]
    assert found["words_give_it_away_pass_share"]["value"] == pytest.approx(table["score"][:6].mean(), abs=1e-6)


def test_graft_check_reads_the_file_before_anything_runs(make_project: Any, tmp_path: Path) -> None:
    workspace = make_project(tmp_path / "p", evaluation={"behaviour": "behaviour.yaml"})
    (workspace.root / "dvc.yaml").write_text(
        "stages:\n  evaluate:\n    cmd: x\n    deps: ['${evaluation.behaviour}']\n"
    )
    for text, said in (
        (FILE.replace("must_not", "mustnt"), "behaviour.yaml:16: tests.2.mustnt: unknown key"),
        (FILE, ""),
    ):
        (workspace.root / "behaviour.yaml").write_text(text)
        failed = [one.text for one in checks.check(workspace, adapter=False).failures if one.check == "evaluation"]
        assert bool(failed) == bool(said)
        assert said in "\n".join(failed)
