"""What a verdict is made of: the digest of the test rows, which decisions looked at them, and slices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graft import params, stages
from graft.errors import ConfigError, DataError
from graft.evaluation import prediction, probes
from graft.promotion import GateConfig, PromotionConfig
from graft.promotion.spending import Look
from graft.publication import measuring
from graft.tracking.journal import Entry
from graft.workspace import Workspace, write_json
from tests.conftest import validated


@pytest.fixture
def tokenized(make_project: Callable[..., Workspace], tmp_path: Path) -> Workspace:
    workspace = make_project(tmp_path / "p")
    part = workspace.data / "test" / "part-0000.jsonl"
    rows = [json.loads(line) for line in part.read_text().splitlines()]
    marked = [{**row, "source": "mail" if number < 10 else "form"} for number, row in enumerate(rows)]
    part.write_text("".join(json.dumps(row) + "\n" for row in marked))
    validated(workspace)
    stages.run("tokenize", workspace)
    write_json(workspace.adapter / "identity.json", {"task": {"state": {"labels": ["animals", "cooking", "weather"]}}})
    return workspace


def digest(workspace: Workspace) -> str:
    return rows_of(workspace).digest


def rows_of(workspace: Workspace) -> measuring.Rows:
    loaded = params.load(workspace.params)
    return measuring.Rows(workspace, loaded.task, loaded.data)


def test_digest_is_of_what_the_rows_say(tokenized: Workspace) -> None:
    part = tokenized.data / "test" / "part-0000.jsonl"
    before, lines = digest(tokenized), part.read_text().splitlines()
    part.write_text("\n".join(reversed(lines)) + "\n")
    part.rename(part.with_name("other.jsonl"))
    assert digest(tokenized) == before
    row = json.loads(lines[0])
    part.with_name("other.jsonl").write_text("\n".join([json.dumps({**row, "text": "rain"}), *lines[1:]]) + "\n")
    assert digest(tokenized) != before


def test_digest_does_not_hang_on_how_rows_are_cleaned(tokenized: Workspace) -> None:
    """Else a change of ``data.clean`` would open a new error budget for rows that were looked at before."""
    part = tokenized.data / "test" / "part-0000.jsonl"
    rows = [json.loads(line) for line in part.read_text().splitlines()]
    part.write_text("".join(json.dumps({**row, "text": f"  {row['text']} &amp; a@example.org"}) + "\n" for row in rows))
    loaded = params.load(tokenized.params)
    digests, texts = set(), set()
    for steps in ((), ("whitespace",), ("html", "whitespace", "redact")):
        data = loaded.data.model_copy(update={"clean": steps})
        found = measuring.Rows(tokenized, loaded.task, data)
        texts.add(found.records[0].row["text"])
        digests.add(found.digest)
    assert len(texts) == 3
    assert len(digests) == 1


def entry(verdict: str = "reject", test: str = "t1", adapter: str = "a", **evidence: float) -> Entry:
    numbers = {"level": 0.01, "p": 0.2} | evidence
    given = ("m", "promote", verdict, "1", None, None, "ada", "")
    return Entry(*given, adapter=adapter, evidence=numbers, test=test)  # type: ignore[arg-type]


def test_looks_are_those_at_these_rows_and_a_repeated_question_counts_once() -> None:
    history = [  # newest first
        entry(adapter="c", p=0.4, level=0.02),
        entry(adapter="b", verdict="promote", p=0.001, level=0.005, left=0.01),
        entry(adapter="b", verdict="promote", p=0.001, level=0.01),
        entry(adapter="b", p=0.3),
        entry(adapter="a", test="t2"),
        Entry("m", "rollback", "rollback", "1", "2", "1", "ada", ""),
        entry(adapter="a"),
    ]
    assert measuring.looks(history, "t1") == [
        Look(0.01, promoted=False),
        Look(0.01, promoted=False),
        Look(0.01, promoted=True),
        Look(0.02, promoted=False),
    ]
    assert measuring.looks(history, "t3") == []


def sliced(workspace: Workspace, **slice_: Any) -> dict[str, int]:
    lines = range(1, 16)
    table = {
        "row": np.array([f"data/test/part-0000.jsonl:{line}" for line in lines], object),
        "reference": np.array([(line - 1) % 3 for line in lines], np.int32),
    }
    gate = GateConfig(slice=slice_, margin=0.1, min_rows=4)  # type: ignore[arg-type]
    found = measuring.slices(rows_of(workspace), gate, table, "promotion.gates.0")
    return {name: 15 if mask is None else int(mask.sum()) for name, mask in found}


def test_slices_are_by_label_column_and_length(tokenized: Workspace) -> None:
    from graft.tokenization import read_tokens

    lengths = np.array(read_tokens(tokenized.tokens, "test")["length"].to_pylist())
    assert sliced(tokenized, label="weather") == {" of label weather": 5}
    assert sliced(tokenized, column="source") == {" of source form": 5, " of source mail": 10}
    assert sliced(tokenized, column="source", value="mail") == {" of source mail": 10}
    middle = int(np.median(lengths))
    assert sliced(tokenized, shorter_than_tokens=middle + 1) == {
        f" of tokens below {middle + 1}": int((lengths <= middle).sum())
    }
    with pytest.raises(ConfigError, match=r"promotion.gates.0.slice.column: no test row has the column 'colour'"):
        sliced(tokenized, column="colour")


def asked(workspace: Workspace, gate: dict[str, Any], reference: Any, *more: dict[str, Any]) -> list[Any]:
    gates = tuple(GateConfig(margin=0.1, min_rows=4, **one) for one in (gate, *more))
    policy = params.load(workspace.params).promotion.model_copy(update={"gates": gates})
    return measuring.gates(rows_of(workspace), policy, reference, predictions())


def predictions() -> dict[str, np.ndarray]:
    return {
        "row": np.array([f"data/test/part-0000.jsonl:{line}" for line in range(1, 16)], object),
        "reference": np.array([number % 3 for number in range(15)], np.int32),
    }


def test_gates_by_column_show_nothing_private_and_read_columns_as_the_report_does(tokenized: Workspace) -> None:
    part = tokenized.data / "test" / "part-0000.jsonl"
    rows = [json.loads(line) for line in part.read_text().splitlines()]
    senders = ["ada@example.com", "bob@example.com"]
    marked = [{**row, "sender": senders[number % 2], "year": 2019 + number % 2} for number, row in enumerate(rows)]
    part.write_text("".join(json.dumps(row) + "\n" for row in marked))
    assert sliced(tokenized, column="sender") == {" of sender <EMAIL_1>": 15}
    assert sliced(tokenized, column="sender", value="ada@example.com") == {" of sender <EMAIL_1>": 15}
    assert sliced(tokenized, column="year") == {" of year 2019": 8, " of year 2020": 7}


def test_slice_of_the_report_is_found_by_its_name(tokenized: Workspace) -> None:
    from graft.evaluation.slices import Slice, write_masks

    mask = np.arange(15) % 2 == 0
    write_masks(tokenized.evaluation, predictions()["row"].tolist(), [Slice("language=en", "language", mask)])
    assert sliced(tokenized, name="language=en") == {" of slice language=en": 8}
    with pytest.raises(ConfigError, match=r"promotion.gates.0.slice.name: slice 'language=e': .*did you mean"):
        sliced(tokenized, name="language=e")


def test_bias_and_cost_are_held_against_the_champion(tokenized: Workspace) -> None:
    reference: Any = SimpleNamespace(predictions=predictions, cost=lambda: {"adapter_bytes": 70})
    [found] = asked(tokenized, {"groups": "source"}, reference)
    assert found.name == "accuracy alike by source"
    assert {name: int(mask.sum()) for name, mask in found.groups} == {"form": 5, "mail": 10}
    with pytest.raises(ConfigError, match=r"promotion.gates.0.groups: id: 0 groups have its min_rows, 4, of 15"):
        asked(tokenized, {"groups": "id"}, reference)
    write_json(tokenized.evaluation / "metrics.json", {"cost": {"adapter_bytes": 80, "adapter_parameters": 20}})
    [cost] = asked(tokenized, {"cost": "adapter_bytes"}, reference)
    assert (cost.candidate, cost.champion, cost.margin) == (80, 70, 0.1)
    assert asked(tokenized, {"cost": "adapter_bytes"}, measuring.BaseOnDisk(tokenized.evaluation)) == []


def test_each_test_set_is_a_gate_of_its_own(tokenized: Workspace) -> None:
    """Pooled, the good set hides the bad one."""
    from graft.evaluation.intervals import Drawn
    from graft.promotion.gates import passes

    def table(right: int) -> dict[str, np.ndarray]:
        scores = np.array([1.0] * 100 + [1.0] * right + [0.0] * (20 - right))
        return {
            "row": np.array([f"t:{number}" for number in range(120)], object),
            "set": np.array(["films"] * 100 + ["books"] * 20, object),
            "score": scores,
            "reference": np.ones(120, np.int32),
            "prediction": scores.astype(np.int32),
        }

    prediction.write(tokenized.evaluation / probes.FOLDER / "test_sets" / "adapter.parquet", table(8))
    reference: Any = SimpleNamespace(probe=lambda name: table(20))
    found = asked(tokenized, {"probe": "test_sets"}, reference)
    states = {one.name: passes(one, Drawn(), level=0.05, alpha=0.05, power=0.8) for one in found}
    assert {name: (gate.state, gate.rows) for name, gate in states.items()} == {
        "test_sets films": ("held", 100),
        "test_sets books": ("broken", 20),
    }
    [named] = asked(tokenized, {"test_set": "books"}, reference)
    gate = passes(named, Drawn(), level=0.05, alpha=0.05, power=0.8)
    assert (gate.name, gate.candidate, gate.champion, gate.of_test) == ("accuracy on books", 0.4, 1.0, False)
    with pytest.raises(ConfigError, match=r"promotion.gates.0.test_set: no test set 'sea'; there are books, films"):
        asked(tokenized, {"test_set": "sea"}, reference)


def test_one_question_is_asked_once(tokenized: Workspace) -> None:
    reference: Any = SimpleNamespace(predictions=predictions)
    by_column = {"slice": {"column": "source"}}
    with pytest.raises(
        ConfigError,
        match=r"promotion.gates.1: asks for accuracy of source mail, as promotion.gates.0 does; take one",
    ):
        asked(tokenized, by_column, reference, {"slice": {"column": "source", "value": "mail"}})
    assert len(asked(tokenized, by_column, reference, {"metric": "mcc", **by_column})) == 4
    twice = [{"probe": "forgetting", "margin": 0.1}, {"cost": "adapter_bytes", "margin": 1}, {**by_column, "margin": 1}]
    with pytest.raises(ValueError, match=r"gates\.3 asks what gates\.0 asks, probe: forgetting; take one of them out"):
        PromotionConfig(gates=(*twice, {"probe": "forgetting", "margin": 0.2}))  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", ["ece", ["accuracy", "ece"]])
def test_calibration_error_does_not_decide(metric: Any) -> None:
    with pytest.raises(ValueError, match=r"ece cannot decide: .* let log_loss decide, and hold the calibration with"):
        PromotionConfig(metric=metric)


def test_timed_costs_are_held_by_one_clock_or_not_at_all(tokenized: Workspace) -> None:
    from graft.evaluation.cost import TIMED, Timed

    both = Timed(np.array([1.0, 2.0]), np.array([])), Timed(np.array([1.0, 3.0]), np.array([]))
    reference: Any = SimpleNamespace(timed=lambda: both)
    [found] = asked(tokenized, {"cost": "latency_p50_ms"}, reference)
    assert (found.metric, found.candidate["milliseconds"].tolist()) == (TIMED["latency_p50_ms"][0], [1.0, 2.0])
    assert not found.of_test
    with pytest.raises(DataError, match="gate joules_per_row: no counter of energy can be read on this machine"):
        asked(tokenized, {"cost": "joules_per_row"}, reference)
    assert asked(tokenized, {"cost": "latency_p95_ms"}, measuring.BaseOnDisk(tokenized.evaluation)) == []


def test_names_that_mlflow_takes_stay_apart() -> None:
    from graft.publication.cases import _metric_names

    given = ["p accuracy of source a/b", "p accuracy of source a:b", "p accuracy of source a_b 2", "p"]
    assert list(_metric_names(given).values()) == [
        "p accuracy of source a_b",
        "p accuracy of source a_b 2",
        "p accuracy of source a_b 2 2",
        "p",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "names nothing to hold; set metric, slice, groups, test_set, probe or cost"),
        ({"probe": "forgetting", "cost": "adapter_bytes"}, "probe goes with no cost; make two gates of it"),
        ({"probe": "forgetting", "metric": "accuracy"}, "probe goes with no metric"),
        ({"groups": "g", "slice": {"label": "a"}}, "groups goes with no slice"),
        ({"test_set": "s", "slice": {"label": "a"}}, "test_set goes with no slice; make two gates of it"),
    ],
)
def test_gate_asks_one_thing(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GateConfig(margin=0.1, **given)


def test_probe_is_asked_of_the_champion_as_of_the_candidate(
    tokenized: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = params.load(tokenized.params)

    class Doubled:
        name, systems = "doubled", ("adapter",)

        def left_out(self, config: Any, subject: Any, material: Any) -> str | None:
            return None if config.batch_rows == 64 else "switched off"

        def measure(self, config: Any, subject: Any, material: Any) -> dict[str, np.ndarray]:
            assert subject.system == "champion"
            return {
                "row": np.array([record.place for record in material.test], object),
                "score": 2 * subject.table["score"],
            }

    monkeypatch.setattr(probes, "every", lambda: (Doubled(),))
    adapter: Any = SimpleNamespace(identity={"threads": 1})
    subject = probes.Subject("champion", adapter, {"score": np.arange(15.0)}, 64)

    def champion(evaluation: Any) -> measuring.Champion:
        identity = adapter.identity
        return measuring.Champion(
            lambda: subject, "champion version 3", identity, rows_of(tokenized), evaluation, {"adapter_bytes": 9}
        )

    found = champion(loaded.evaluation).probe("doubled")
    assert found["score"].tolist() == [2.0 * number for number in range(15)]
    assert found["row"][0] == "data/test/part-0000.jsonl:1"
    with pytest.raises(ConfigError, match="cannot be asked of champion version 3: switched off"):
        champion(loaded.evaluation.model_copy(update={"batch_rows": 8})).probe("doubled")
    with pytest.raises(ConfigError, match=r"evaluation\.latency_rows: 0, so nothing can be timed"):
        champion(loaded.evaluation.model_copy(update={"latency_rows": 0})).timed()
    with pytest.raises(ConfigError, match="probe 'bias': cannot be asked of champion version 3: no such probe"):
        champion(loaded.evaluation).probe("bias")


def other_base(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, measure: str = "masked", digest: str = "theirs"
) -> measuring.Champion:
    """Return a champion that loses a bit per token of its own base, which is worse and has half the tokens."""
    loaded = params.load(workspace.params)
    place = np.array(["t:1", "t:2"], object)

    class Forgetting:
        name, systems = "forgetting", ("adapter", "base")

        def left_out(self, config: Any, subject: Any, material: Any) -> str | None:
            return None

        def measure(self, config: Any, subject: Any, material: Any) -> dict[str, np.ndarray]:
            scores = np.array([-9.0, -8.0]) - (subject.system == "champion")
            return {"row": place, "score": scores, "tokens": np.array([5, 5]), "measure": np.full(2, measure, object)}

    monkeypatch.setattr(probes, "every", lambda: (Forgetting(),))
    write_json(workspace.adapter / "identity.json", {"base": {"digest": "ours"}})
    ours = {"row": place[::-1], "score": np.array([-3.0, -2.0]), "tokens": np.array([10, 10])}
    measuring_folder = workspace.evaluation / probes.FOLDER / "forgetting"
    prediction.write(measuring_folder / "base.parquet", ours | {"measure": np.full(2, "masked", object)})
    adapter: Any = SimpleNamespace(identity={"threads": 1, "base": {"digest": digest}})
    subject = probes.Subject("champion", adapter, {}, 64)
    identity = adapter.identity
    return measuring.Champion(lambda: subject, "the champion", identity, rows_of(workspace), loaded.evaluation, {})


def test_forgetting_of_a_champion_on_another_base_counts_from_that_base(
    tokenized: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = other_base(tokenized, monkeypatch).probe("forgetting")
    assert found["score"].tolist() == [-2.5, -3.5]  # our base's, less one bit for each of 5 tokens, over our 10
    same = other_base(tokenized, monkeypatch, digest="ours").probe("forgetting")
    assert same["score"].tolist() == [-10.0, -9.0]
    with pytest.raises(DataError, match=r"probe forgetting: measured by masked, and of the champion, .* by states"):
        other_base(tokenized, monkeypatch, measure="states").probe("forgetting")


def test_champion_that_a_probe_cannot_ask_is_no_error_of_the_settings(
    tokenized: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> None:
        raise ConfigError("behaviour.yaml:4: 'sea' is no label")

    champion = other_base(tokenized, monkeypatch)
    monkeypatch.setattr(type(probes.every()[0]), "measure", refuses)
    with pytest.raises(DataError, match=r"probe forgetting: behaviour.yaml:4: 'sea' is no label"):
        champion.probe("forgetting")
