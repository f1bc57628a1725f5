"""A promotion or a rollback killed (SIGKILL) after each of its steps; what is left, and how it is finished."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.errors import InputError, PromotionConflict
from graft.publication import reconciling
from graft.publication.carrying import Standing, carry_out, settle
from graft.publication.cases import Decision, case_of
from graft.registration import RegistrationConfig
from graft.tracking import TrackingConfig, journal, registry
from graft.tracking.server import connect
from graft.workspace import Workspace

pytestmark = pytest.mark.slow

NAME = "toy-topic"
REGISTRATION = RegistrationConfig(name=NAME)
TRACKING = TrackingConfig()
BEFORE = ("made_ready", "ledger", "run", "written")
"""Steps after which nothing stands yet."""
AFTER = ("claimed", "half_moved", "moved", "told", "closed")
"""Steps from which on the decision stands."""

KILLED = """
import json, os, sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from graft.publication import carrying
from graft.publication.cases import Decision, case_of
from graft.tracking import TrackingConfig, journal, ledger, registry
from graft.tracking.server import connect
from graft.workspace import Workspace
import mlflow

STEPS = {
    "made_ready": (ledger, "_made_ready"),
    "ledger": (ledger, "find_or_create"),
    "run": (journal, "find_or_create"),
    "written": (journal, "write"),
    "claimed": (journal, "claim"),
    "half_moved": (registry, "_set_champion"),
    "moved": (carrying, "move_alias"),
    "told": (carrying, "tell_versions"),
    "closed": (journal, "close"),
}

def deadly(step):
    module, name = STEPS[step]
    real = getattr(module, name)

    def then_die(*arguments, **more):
        real(*arguments, **more)
        os.kill(os.getpid(), 9)

    setattr(module, name, then_die)

def promote(folder, kind, number, step):
    deadly(step)
    workspace, tracking = Workspace(Path(folder)), TrackingConfig()
    connection = connect(tracking, workspace)
    case = case_of(connection, workspace, tracking, registry.get(connection, "toy-topic", number), "ada")
    against = ("base", {"p": 0.01}) if kind == "promote" else ()
    decision = Decision("toy-topic", kind, number, case.before, number, "better", "ada", *against)
    carrying.carry_out(case, kind, decision)

codes = {}
for folder, kind, number, step in json.loads(sys.argv[1]):
    child = os.fork()  # the parent has opened no store, and importing costs seconds
    if not child:
        promote(folder, kind, number, step)
        os._exit(0)
    codes[folder] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(codes))
"""


def decide(workspace: Workspace, number: str, who: str, kind: str = "promote") -> Decision:
    connection = connect(TRACKING, workspace)
    case = case_of(connection, workspace, TRACKING, registry.get(connection, NAME, number), who)
    decision = Decision(NAME, kind, number, case.before, number, "better", who, "base", {"p": 0.01})
    return carry_out(case, kind, decision)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> Path:
    """Copies of one store: in ``promote-STEP`` the first promotion died, in ``rollback-STEP`` the third decision."""
    root = tmp_path_factory.mktemp("killed")
    template = Workspace(root / "template")
    (template.root / "mlflow" / "store").mkdir(parents=True)
    shutil.copy(migrated_store, template.root / "mlflow" / "store" / "mlflow.db")
    client = connect(TRACKING, template).client
    client.create_registered_model(NAME)
    for number in range(3):
        client.create_model_version(NAME, "s3://none/x", tags={"graft.adapter": f"d{number}"}, await_creation_for=0)
    shutil.copytree(template.root, root / "twice")
    for number in ("1", "2"):
        decide(Workspace(root / "twice"), number, "ada")
    todo = []
    for step in (*BEFORE, *AFTER):
        shutil.copytree(template.root, root / f"promote-{step}")
        todo.append((str(root / f"promote-{step}"), "promote", "1", step))
    for step in ("written", *AFTER):
        shutil.copytree(root / "twice", root / f"rollback-{step}")
        todo.append((str(root / f"rollback-{step}"), "rollback", "1", step))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(todo)], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    assert set(codes.values()) == {-9}, codes
    return root


@pytest.fixture
def left(killed: Path, tmp_path: Path) -> Callable[[str], Workspace]:
    """``left("promote-claimed")``: a copy of what a killed process left, to finish from another clone.

    What has no slot is found again only by the clone that wrote it, so that is handed out as it is, to one test each.
    """

    def copy(name: str) -> Workspace:
        if not name.endswith(AFTER):
            return Workspace(killed / name)
        shutil.copytree(killed / name, tmp_path / name)
        return Workspace(tmp_path / name)

    return copy


def standing(workspace: Workspace) -> Standing:
    return reconciling.standing(workspace, registration=REGISTRATION, tracking=TRACKING)


def reconcile(workspace: Workspace) -> list[str]:
    return reconciling.reconcile(workspace, registration=REGISTRATION, tracking=TRACKING)


def is_whole(workspace: Workspace, champions: list[str]) -> None:
    """Alias, journal and the champion's tags agree, and ``champions`` is what the journal tells."""
    found = standing(workspace)
    stands = journal.standing(found.entries)[::-1]
    assert found.problem() == ""
    assert [one.after for one in stands] == champions
    assert found.alias == champions[-1]
    assert {one.state for one in found.entries} == {"done"}
    tags = registry.get(connect(TRACKING, workspace), NAME, champions[-1]).tags
    assert tags["graft.decision"] == str(len(champions))


@pytest.mark.parametrize("step", BEFORE)
def test_nothing_has_happened_before_the_slot_is_taken(left: Any, step: str) -> None:
    workspace = left(f"promote-{step}")
    found = standing(workspace)
    assert (found.alias, found.journaled, found.problem()) == (None, None, "")
    assert decide(workspace, "1", "ada").number == 1
    is_whole(workspace, ["1"])
    assert len(standing(workspace).entries) == 1


@pytest.mark.parametrize("step", AFTER)
def test_one_command_finishes_what_stands(left: Any, step: str) -> None:
    workspace = left(f"promote-{step}")
    if step == "closed":
        assert reconcile(workspace) == []
    else:
        said = standing(workspace).problem()
        assert said == (
            "decision 1, promote version 1 (champion none -> 1), by ada stands and is unfinished: "
            "`graft reconcile` finishes it"
        )
        assert reconcile(workspace) == ["finished decision 1, promote version 1 (champion none -> 1), by ada"]
    is_whole(workspace, ["1"])
    assert reconcile(workspace) == []


@pytest.mark.parametrize("step", AFTER)
def test_next_decision_finishes_the_one_before(left: Any, step: str) -> None:
    workspace = left(f"promote-{step}")
    decision = decide(workspace, "2", "bob")
    assert (decision.before, decision.after, decision.number) == ("1", "2", 2)
    is_whole(workspace, ["1", "2"])


@pytest.mark.parametrize("step", ["written", *AFTER])
def test_rollback_taken_again_is_not_a_second_one(left: Any, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`graft rollback` goes back one step: typed again after a crash it must not go back two."""
    from graft.publication import decisions

    monkeypatch.setattr(decisions, "check_artifact", lambda *_: None)
    workspace = left(f"rollback-{step}")
    if step == "closed":
        is_whole(workspace, ["1", "2", "1"])
        return
    again = decisions.rollback(workspace, registration=REGISTRATION, tracking=TRACKING, reason="better", who="ada")
    assert (again.before, again.after, again.number) == ("2", "1", 3)
    is_whole(workspace, ["1", "2", "1"])


def test_alias_moved_by_hand_over_an_unfinished_decision_is_left_to_a_person(left: Any) -> None:
    workspace = left("promote-claimed")
    connection = connect(TRACKING, workspace)
    connection.client.set_registered_model_alias(NAME, "champion", "3")
    with pytest.raises(PromotionConflict, match=r"decision 1, .* unfinished, and champion was moved by hand"):
        decide(workspace, "2", "bob")
    with pytest.raises(
        InputError, match="the journal says version 1, MLflow says version 3; `graft reconcile --adopt`"
    ):
        reconcile(workspace)
    book = journal.open_ledger(connection, TRACKING, workspace, NAME)
    with pytest.raises(PromotionConflict, match="unfinished"):
        settle(book)
    assert registry.champion_number(connection, NAME) == "3"


@pytest.mark.parametrize(("way", "champions"), [("adopt", ["1", "3"]), ("restore", ["1", "1"])])
@pytest.mark.parametrize("step", ["claimed", "closed"])
def test_person_settles_an_alias_that_was_moved_by_hand(
    left: Any, way: Any, champions: list[str], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    monkeypatch.setattr(reconciling, "check_artifact", lambda _, version: checked.append(version.version))
    workspace = left(f"promote-{step}")
    connect(TRACKING, workspace).client.set_registered_model_alias(NAME, "champion", "3")
    said = reconciling.reconcile(
        workspace, registration=REGISTRATION, tracking=TRACKING, way=way, reason="I did it", who="cem"
    )
    assert said == [f"decision 2: {way}: champion is version {champions[-1]}"]
    assert checked == [champions[-1]]
    is_whole(workspace, champions)
    newest = standing(workspace).newest
    assert newest is not None
    assert (newest.kind, newest.who, newest.why) == (way, "cem", "I did it")
