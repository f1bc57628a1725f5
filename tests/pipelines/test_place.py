"""Where a run works: refusals that protect the user's files, tried without a server."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from graft.checks import findings
from graft.errors import ConfigError, DataError, Locked, ResourceMissing
from graft.repository import Repository
from graft.workspace import SPLITS, Workspace
from pipelines import finetune, placement, recording


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"in_place": True, "overrides": {"training.epochs": 3}}, "leave out in_place"),
        ({"in_place": True, "commit": "abc"}, "leave out in_place"),
    ],
)
def test_the_users_files_take_no_overrides(
    clone: Workspace, parameters: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_CLONE", str(clone.root))
    with disable_run_logger(), pytest.raises(ConfigError, match=message):
        finetune.finetune.fn(**parameters)


def test_a_worker_stays_out_of_the_users_files(clone: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "a")
    monkeypatch.setenv("GRAFT_CLONE", str(clone.root))
    with disable_run_logger(), pytest.raises(ConfigError, match="a run of a worker stays out of the user's files"):
        finetune.finetune.fn(in_place=True)


def place(clone: Workspace, **choices: Any) -> Any:
    return finetune._place(Repository(clone), "", {}, **{"in_place": True, "add_data": False, **choices})


def test_changed_data_is_refused_or_recorded(clone: Workspace) -> None:
    (clone.data / "train" / "a.txt").write_text("new text")
    with disable_run_logger():
        with pytest.raises(
            DataError, match=r"(?s)data/ differs from data\.dvc \(1 file\).*data/train/a\.txt: modified"
        ):
            place(clone).__enter__()
        before = clone.data_dvc.read_text()
        with place(clone, add_data=True) as workspace:
            assert workspace == clone
        assert clone.data_dvc.read_text() != before
        with place(clone):
            pass


def test_a_run_that_records_changed_data_is_not_told_to(clone: Workspace) -> None:
    shutil.rmtree(clone.data)
    for split in SPLITS:
        (clone.data / split).mkdir(parents=True)
        (clone.data / split / "part.jsonl").write_text('{"text": "words", "label": "a"}\n')
    said = [[one.text for one in findings(clone, adapter=False, recorded=wanted)] for wanted in (True, False)]
    assert [sum("records the change" in text for text in texts) for texts in said] == [1, 0]


def test_a_worktree_takes_no_changed_data(clone: Workspace) -> None:
    with disable_run_logger(), pytest.raises(ConfigError, match="add_data: only with in_place"):
        place(clone, in_place=False, add_data=True).__enter__()


def test_a_second_run_in_place_is_told_of_the_first(clone: Workspace) -> None:
    with disable_run_logger(), place(clone), pytest.raises(Locked, match="graft run"):
        place(clone).__enter__()


def test_only_what_may_pass_is_tried_again() -> None:
    from prefect.states import Failed

    unserved = placement.DeploymentMissing("train", "gpu")
    cases = ((ResourceMissing("away"), True), (Locked("held"), True), (DataError("row 7"), False), (unserved, False))
    for error, helps in cases:
        assert recording.a_retry_can_help(None, None, Failed(data=error)) is helps  # type: ignore[arg-type]
