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
from graft.promotion import GateConfig
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
    loaded = params.load(workspace.params)
    return measuring.test_digest(workspace, loaded.task, loaded.data)


def test_digest_is_of_what_the_rows_say(tokenized: Workspace) -> None:
    part = tokenized.data / "test" / "part-0000.jsonl"
    before, lines = digest(tokenized), part.read_text().splitlines()
    part.write_text("\n".join(reversed(lines)) + "\n")
    part.rename(part.with_name("other.jsonl"))
    assert digest(tokenized) == before
    row = json.loads(lines[0])
    part.with_name("other.jsonl").write_text("\n".join([json.dumps({**row, "text": "rain"}), *lines[1:]]) + "\n")
    assert digest(tokenized) != before


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
    loaded = params.load(workspace.params)
    lines = range(1, 16)
    table = {
        "row": np.array([f"data/test/part-0000.jsonl:{line}" for line in lines], object),
        "reference": np.array([(line - 1) % 3 for line in lines], np.int32),
    }
    gate = GateConfig(slice=slice_, margin=0.1, min_rows=4)  # type: ignore[arg-type]
    found = measuring.slices(workspace, loaded.task, loaded.data, gate, table, "promotion.gates[0]")
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
    with pytest.raises(ConfigError, match=r"promotion.gates\[0\].slice.column: no test row has the column 'colour'"):
        sliced(tokenized, column="colour")


def asked(workspace: Workspace, gate: dict[str, Any], reference: Any) -> list[Any]:
    loaded = params.load(workspace.params)
    table = predictions()
    policy = loaded.promotion.model_copy(update={"gates": (GateConfig(margin=0.1, min_rows=4, **gate),)})
    return list(measuring.gates(workspace, loaded.task, loaded.data, policy, reference, table))


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
    with pytest.raises(ConfigError, match=r"promotion.gates\[0\].slice.name: slice 'language=e': .*did you mean"):
        sliced(tokenized, name="language=e")


def test_bias_and_cost_are_held_against_the_champion(tokenized: Workspace) -> None:
    reference: Any = SimpleNamespace(predictions=predictions, cost=lambda: {"adapter_bytes": 70})
    [found] = asked(tokenized, {"groups": "source"}, reference)
    assert found.name == "accuracy alike by source"
    assert {name: int(mask.sum()) for name, mask in found.groups} == {"form": 5, "mail": 10}
    with pytest.raises(ConfigError, match=r"promotion.gates\[0\].groups: id: 0 groups have its min_rows, 4, of 15"):
        asked(tokenized, {"groups": "id"}, reference)
    write_json(tokenized.evaluation / "metrics.json", {"cost": {"adapter_bytes": 80, "adapter_parameters": 20}})
    [cost] = asked(tokenized, {"cost": "adapter_bytes"}, reference)
    assert (cost.candidate, cost.champion, cost.margin) == (80, 70, 0.1)
    assert asked(tokenized, {"cost": "adapter_bytes"}, measuring.BaseOnDisk(tokenized.evaluation)) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "names nothing to hold; set metric, slice, groups, probe or cost"),
        ({"probe": "forgetting", "cost": "adapter_bytes"}, "probe goes with no cost; make two gates of it"),
        ({"probe": "forgetting", "metric": "accuracy"}, "probe goes with no metric"),
        ({"groups": "g", "slice": {"label": "a"}}, "groups goes with no slice"),
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
        return measuring.Champion(
            subject, "champion version 3", tokenized, loaded.task, loaded.data, evaluation, {"adapter_bytes": 9}
        )

    found = champion(loaded.evaluation).probe("doubled")
    assert found["score"].tolist() == [2.0 * number for number in range(15)]
    assert found["row"][0] == "data/test/part-0000.jsonl:1"
    with pytest.raises(ConfigError, match="cannot be asked of champion version 3: switched off"):
        champion(loaded.evaluation.model_copy(update={"batch_rows": 8})).probe("doubled")
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
    return measuring.Champion(subject, "the champion", workspace, loaded.task, loaded.data, loaded.evaluation, {})


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
