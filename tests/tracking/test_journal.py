"""The journal of decisions on a real SQLite store; promotions of several processes are in test_promotions_at_once."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from graft.errors import ConfigError, IntegrityError, PromotionConflict
from graft.tracking import TrackingConfig, journal, ledger, registry
from graft.tracking.journal import Entry
from graft.tracking.ledger import Ledger
from graft.tracking.server import Connection, connect
from graft.workspace import Workspace

CONFIG = TrackingConfig(experiment="toy")
NAME = "toy-topic"


@pytest.fixture
def book(workspace: Workspace, connection: Connection) -> Ledger:
    return journal.open_ledger(connection, CONFIG, workspace, NAME)


def entry(**more: object) -> Entry:
    evidence = {"p": 0.01, "difference": 0.2}
    made = Entry(NAME, "promote", "promote", "1", None, "1", "ada", "better", evidence=evidence, number=1)
    return replace(made, **more)  # type: ignore[arg-type]


def decided(book: Ledger, workspace: Workspace, one: Entry) -> Entry:
    """Write, claim and close."""
    claimed = journal.claim(book, journal.write(book, workspace, one))
    journal.close(book, claimed.run_id)
    return claimed


def chain(book: Ledger, workspace: Workspace) -> list[Entry]:
    """Journal a promotion, a second one, a rollback and the second one again; return them, the oldest first."""
    made: list[Entry] = []
    for number, more in enumerate(
        (
            {},
            {"candidate": "2", "before": "1", "after": "2"},
            {"kind": "rollback", "verdict": "rollback", "before": "2", "after": "1", "evidence": {}},
            {"candidate": "2", "before": "1", "after": "2"},
        ),
        start=1,
    ):
        previous = made[-1].key if made else journal.FIRST
        made.append(decided(book, workspace, entry(**more, number=number, previous=previous)))
    return made


def test_decisions_are_numbered_and_read_back_as_they_were(
    book: Ledger, workspace: Workspace, connection: Connection
) -> None:
    made = chain(book, workspace)
    found = journal.history(connection, NAME)
    assert [(one.number, one.kind, one.before, one.after) for one in found] == [
        (4, "promote", "1", "2"),
        (3, "rollback", "2", "1"),
        (2, "promote", "1", "2"),
        (1, "promote", None, "1"),
    ]
    assert [one.key for one in reversed(found)] == [one.key for one in made]
    assert [one.previous for one in found] == [*(one.key for one in found[1:]), journal.FIRST]
    assert found[-1].evidence == {"p": 0.01, "difference": 0.2}
    assert {(one.state, one.altered) for one in found} == {("done", False)}
    assert journal.last_champion(found) == "2"
    assert journal.history(connection, "other") == []


def test_same_decision_taken_again_after_a_crash_is_one_entry(book: Ledger, workspace: Workspace) -> None:
    first = journal.write(book, workspace, entry())
    assert [one.state for one in journal.read(book)] == ["proposed"]
    again = journal.claim(book, journal.write(book, workspace, entry()))
    assert again.run_id == first.run_id
    assert journal.claim(book, journal.write(book, workspace, entry())).key == again.key  # its answer was lost
    assert [(one.number, one.state) for one in journal.read(book)] == [(1, "open")]


def test_second_decision_on_the_same_state_does_not_stand(book: Ledger, workspace: Workspace) -> None:
    decided(book, workspace, entry())
    late = journal.write(book, workspace, entry(candidate="2", after="2", who="bob"))
    with pytest.raises(PromotionConflict, match=r"another decision was faster: decision 1, promote version 1 .*by ada"):
        journal.claim(book, late)
    assert [(one.who, one.state) for one in journal.read(book)] == [("bob", "overtaken"), ("ada", "done")]
    assert [one.who for one in journal.standing(journal.read(book))] == ["ada"]


def test_entry_whose_process_died_before_it_had_a_slot_is_abandoned(book: Ledger, workspace: Workspace) -> None:
    journal.write(book, workspace, entry(candidate="2", after="2", who="bob"))
    decided(book, workspace, entry())
    assert [(one.who, one.state) for one in journal.read(book)] == [("bob", "abandoned"), ("ada", "done")]


def test_of_many_threads_one_makes_the_ledger_and_one_has_the_slot(workspace: Workspace) -> None:
    won: list[str] = []
    books: list[Ledger] = []
    start = threading.Barrier(4)

    def decide(who: str) -> None:
        own = connect(CONFIG, workspace)
        start.wait()
        book = journal.open_ledger(own, CONFIG, workspace, NAME)
        books.append(book)
        written = journal.write(book, workspace, entry(who=who))
        start.wait()
        try:
            journal.claim(book, written)
            won.append(who)
        except PromotionConflict:
            pass

    threads = [threading.Thread(target=decide, args=(who,)) for who in ("ada", "bob", "cem", "dan")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(book.experiment, book.run) for book in books}) == 1
    assert len(won) == 1
    states = sorted((one.state, one.who) for one in journal.read(books[0]))
    assert states[0] == ("open", won[0])
    assert [state for state, _ in states] == ["open", "overtaken", "overtaken", "overtaken"]
    active = books[0].connection.client.search_experiments(filter_string=f"name LIKE '{NAME}%'")
    assert [one.name for one in active] == [f"{NAME}-decisions"]


def test_answer_that_was_lost_is_asked_for(book: Ledger, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    real = MlflowClient.log_param

    def no_answer(self: Any, *arguments: Any, **more: Any) -> None:
        real(self, *arguments, **more)
        raise MlflowException("timed out")

    written = journal.write(book, workspace, entry())
    monkeypatch.setattr(MlflowClient, "log_param", no_answer)
    assert journal.claim(book, written).state == "open"
    monkeypatch.setattr(MlflowClient, "log_param", lambda *_, **__: (_ for _ in ()).throw(MlflowException("down")))
    with pytest.raises(MlflowException, match="down"):
        journal.claim(book, journal.write(book, workspace, entry(number=2, previous=written.key)))


def test_changed_and_deleted_entries_are_seen(book: Ledger, workspace: Workspace, connection: Connection) -> None:
    made = chain(book, workspace)
    client = connection.client
    client.set_tag(made[0].run_id, "decision.after", "9")
    client.set_tag(made[1].run_id, "decision.who", "eve")
    client.delete_run(made[2].run_id)
    found = journal.history(connection, NAME)
    assert [(one.number, one.altered) for one in found] == [(4, False), (3, False), (2, True), (1, True)]
    assert [(one.after, one.who) for one in found] == [("2", "ada"), ("1", "ada"), ("2", "ada"), ("1", "ada")]
    assert [one.key for one in reversed(found)] == [one.key for one in made]


def test_entry_whose_run_is_gone_stays_in_short(book: Ledger, workspace: Workspace, connection: Connection) -> None:
    made = chain(book, workspace)
    runs = {run.info.run_id: run for run in connection.client.search_runs([book.experiment])}
    found = journal._standing(NAME, book.slots()[1], 2, None)
    assert (found.after, found.who, found.altered, found.key) == ("2", "ada", True, made[1].key)
    assert made[1].run_id in runs


def test_ledger_lets_nobody_change_or_skip_a_slot(book: Ledger, workspace: Workspace, connection: Connection) -> None:
    from mlflow.exceptions import MlflowException

    chain(book, workspace)
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        connection.client.log_param(book.run, "000002", "mine")
    connection.client.log_param(book.run, "000009", "mine")
    with pytest.raises(IntegrityError, match=r"ledger of decisions .* holds a parameter that is no decision"):
        book.slots()


def test_ledger_that_was_deleted_says_what_to_restore(book: Ledger, connection: Connection) -> None:
    connection.client.delete_run(book.run)
    with pytest.raises(ConfigError, match=rf"the run {book.run} .*restore it"):
        ledger.find(connection, NAME)
    connection.client.restore_run(book.run)
    connection.client.delete_experiment(book.experiment)
    with pytest.raises(ConfigError, match=r"'toy-topic-decisions' was deleted and holds the decisions; restore it"):
        ledger.find(connection, NAME)


def test_experiment_of_another_kind_is_not_taken_for_a_journal(connection: Connection) -> None:
    connection.client.create_experiment(f"{NAME}-decisions")
    with pytest.raises(ConfigError, match="is not a journal of decisions about toy-topic; rename it"):
        ledger.find(connection, NAME)


def test_alias_follows_the_newest_decision_whoever_moves_it(
    book: Ledger, workspace: Workspace, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was held up sets the alias late; it looks again and leaves what the newest decision says."""
    registry.ensure_model(connection, NAME, description="Toy", tags={})
    for _ in range(2):
        connection.client.create_model_version(NAME, "s3://none/x", await_creation_for=0)
    decided(book, workspace, entry())
    real = registry._set_champion
    late: list[Entry] = []

    def held_up(*arguments: Any) -> None:
        if not late:
            late.append(
                decided(book, workspace, entry(candidate="2", before="1", after="2", number=2, previous=entry_key))
            )
            real(connection, NAME, "2")
        real(*arguments)

    entry_key = book.slots()[0].key
    monkeypatch.setattr(registry, "_set_champion", held_up)
    registry.follow_ledger(book)
    assert late
    assert registry.champion_number(connection, NAME) == "2"


def test_key_of_an_entry_does_not_hang_on_fields_that_it_does_not_use() -> None:
    """A field that a later version adds, empty in old entries, must not make them look altered."""
    import hashlib
    import json

    used = {
        "name": NAME,
        "kind": "promote",
        "verdict": "promote",
        "candidate": "1",
        "after": "1",
        "who": "ada",
        "why": "better",
        "evidence": {"p": 0.01, "difference": 0.2},
        "previous": "none",
    }
    text = json.dumps(used, sort_keys=True, separators=(",", ":"))
    assert entry().key == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_note_says_who_why_and_on_what() -> None:
    text = journal.note(entry())
    assert "version 1: promote" in text
    assert "champion: none → version 1" in text
    assert "| difference | 0.2 |" in text
    assert "by ada" in text
