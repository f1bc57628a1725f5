from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from graft.errors import InputError, PromotionConflict
from graft.tracking import TrackingConfig, journal, registry
from graft.tracking.journal import Entry
from graft.tracking.server import Connection, connect, experiment_id
from graft.workspace import Workspace

CONFIG = TrackingConfig(experiment="toy")
NAME = "toy-topic"


@pytest.fixture
def versions(workspace: Workspace, connection: Connection) -> list[registry.Version]:
    """Three versions of one registered model."""
    experiment = experiment_id(connection, CONFIG, workspace)
    registry.ensure_model(connection, NAME, description="Toy", tags={"task": "toy"})
    made = []
    for number in range(3):
        run_id = connection.client.create_run(experiment).info.run_id
        model = connection.client.create_logged_model(experiment, "model", run_id)
        made.append(
            registry.create(
                connection,
                NAME,
                model=model,
                run_id=run_id,
                description=f"number {number}",
                tags={registry.ADAPTER: f"digest-{number}"},
            )
        )
    return made


def test_versions_are_found_by_adapter(connection: Connection, versions: list[registry.Version]) -> None:
    assert [one.version for one in versions] == ["1", "2", "3"]
    found = registry.find(connection, NAME, "digest-1")
    assert found is not None
    assert found.version == "2"
    assert registry.find(connection, NAME, "other") is None
    assert registry.find(connection, "no-such-model", "digest-1") is None


def test_model_is_found_or_created_with_its_description(connection: Connection) -> None:
    for description in ("first", "second", "second"):
        registry.ensure_model(connection, NAME, description=description, tags={"task": "toy"})
    (model,) = connection.client.search_registered_models()
    assert model.description == "second"
    assert model.tags["task"] == "toy"


def test_get_takes_number_or_alias(connection: Connection, versions: list[registry.Version]) -> None:
    registry.set_candidate(connection, versions[1])
    assert registry.get(connection, NAME, "2").version == registry.get(connection, NAME, "@candidate").version == "2"
    with pytest.raises(InputError, match=r"no version '9'.*there are: 3, 2, 1"):
        registry.get(connection, NAME, "9")


def test_champion_moves_only_from_what_was_expected(connection: Connection, versions: list[registry.Version]) -> None:
    assert registry.champion(connection, NAME) is None
    registry.set_champion(connection, NAME, "1", expected_current=None)
    with pytest.raises(PromotionConflict, match=r"champion is version 1 by now.*against not set"):
        registry.set_champion(connection, NAME, "2", expected_current=None)
    registry.set_champion(connection, NAME, "2", expected_current="1")
    held = registry.champion(connection, NAME)
    assert held is not None
    assert (held.version, held.aliases) == ("2", ("champion",))


def test_one_of_many_promotions_at_once_wins(workspace: Workspace, versions: list[registry.Version]) -> None:
    outcomes: list[str] = []

    def promote(version: str) -> None:
        own = connect(CONFIG, workspace)
        try:
            registry.set_champion(own, NAME, version, expected_current=None)
            outcomes.append(version)
        except PromotionConflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=promote, args=(one.version,)) for one in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = [one for one in outcomes if one != "conflict"]
    assert len(winner) == 1
    assert registry.champion_number(connect(CONFIG, workspace), NAME) == winner[0]


def test_review_reads_what_people_type(connection: Connection, versions: list[registry.Version]) -> None:
    registry.set_tags(connection, versions[0], {"review": " Rejected"})
    registry.set_tags(connection, versions[1], {"review": "looks fine"})
    assert [registry.get(connection, NAME, number).review for number in ("1", "2", "3")] == ["rejected", None, None]


def entry(**more: object) -> Entry:
    made = Entry(NAME, "promote", "promote", "1", None, "1", "ada", "better", evidence={"p": 0.01, "difference": 0.2})
    return replace(made, **more)  # type: ignore[arg-type]


def test_same_decision_is_one_entry_and_later_ones_chain(workspace: Workspace, connection: Connection) -> None:
    first = entry()
    for _ in range(2):
        journal.close(connection, journal.open_entry(connection, CONFIG, workspace, first))
    second = entry(candidate="2", before="1", after="2", previous=first.key)
    journal.close(connection, journal.open_entry(connection, CONFIG, workspace, second))
    back = entry(kind="rollback", verdict="rollback", before="2", after="1", previous=second.key, evidence={})
    journal.close(connection, journal.open_entry(connection, CONFIG, workspace, back))
    again = entry(candidate="2", before="1", after="2", previous=back.key)
    journal.close(connection, journal.open_entry(connection, CONFIG, workspace, again))
    found = journal.history(connection, CONFIG, workspace, NAME)
    assert [(one.kind, one.before, one.after) for one in found] == [
        ("promote", "1", "2"),
        ("rollback", "2", "1"),
        ("promote", "1", "2"),
        ("promote", None, "1"),
    ]
    assert found[-1].evidence == {"p": 0.01, "difference": 0.2}
    assert found[-1].key == first.key
    assert {one.state for one in found} == {"done"}
    assert journal.last_champion(found) == "2"
    assert journal.history(connection, CONFIG, workspace, "other") == []


@pytest.mark.parametrize(("champion", "state"), [("1", "done"), (None, "overtaken")])
def test_open_entries_are_settled_by_where_the_alias_is(
    workspace: Workspace, connection: Connection, champion: str | None, state: str
) -> None:
    journal.open_entry(connection, CONFIG, workspace, entry())
    settled = journal.settle(connection, CONFIG, workspace, NAME, champion)
    assert len(settled) == (1 if state == "done" else 0)
    assert [one.state for one in journal.history(connection, CONFIG, workspace, NAME)] == [state]


def test_note_says_who_why_and_on_what(workspace: Workspace) -> None:
    text = journal.note(entry())
    assert "version 1: promote" in text
    assert "champion: none → version 1" in text
    assert "| difference | 0.2 |" in text
    assert "by ada" in text
