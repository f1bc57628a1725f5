"""Promotions of several processes at once, from clones that share no lock: one wins, the others are told."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graft.tracking import TrackingConfig, journal, registry
from graft.tracking.server import connect
from graft.workspace import Workspace

NAME = "toy-topic"
VERSIONS = 3
CONTENDER = """
import sys
from pathlib import Path
from graft.errors import PromotionConflict
from graft.publication.carrying import carry_out
from graft.publication.cases import Decision, case_of
from graft.tracking import TrackingConfig, registry
from graft.tracking.server import connect
from graft.workspace import Workspace

folder, uri, name, who = sys.argv[1:]
workspace, tracking = Workspace(Path(folder)), TrackingConfig(uri=uri, artifacts="artifacts")
connection = connect(tracking, workspace)
print("ready", flush=True)
for line in sys.stdin:
    kind, number = line.split()
    case = case_of(connection, workspace, tracking, registry.get(connection, name, number), who)
    verdict = "undecided" if kind == "keep" else kind
    after = case.before if kind == "keep" else number
    decision = Decision(name, verdict, number, case.before, after, "better", who, "base", {"p": 0.01})
    print("read", flush=True)
    sys.stdin.readline()
    try:
        done = carry_out(case, "rollback" if kind == "rollback" else "promote", decision)
        print("won", done.number, flush=True)
    except PromotionConflict as error:
        print("lost", str(error).splitlines()[0], flush=True)
"""


class Contender:
    """A process that promotes, from a clone of its own."""

    def __init__(self, folder: Path, uri: str, who: str) -> None:
        folder.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(folder), uri, NAME, who],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def said(self) -> str:
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline()).startswith(("ready", "read", "won", "lost")):
            assert line, f"ended with {self.process.wait()}"
        return line.strip()


Race = Callable[..., "tuple[list[list[str]], TrackingConfig, Workspace]"]


@pytest.fixture
def race(tmp_path: Path) -> Iterator[Race]:
    """``race(uri, rounds, people)``: each round all decide on the same state; returns what each was told."""
    started: list[Contender] = []

    def run(uri: str, rounds: int, people: int = 2) -> tuple[list[list[str]], TrackingConfig, Workspace]:
        workspace = Workspace(tmp_path / "observer")
        workspace.root.mkdir()
        tracking = TrackingConfig(uri=uri, artifacts="artifacts")
        client = connect(tracking, workspace).client
        client.create_registered_model(NAME)
        for number in range(VERSIONS):
            tags = {registry.ADAPTER: f"digest-{number}"}
            client.create_model_version(NAME, "s3://none/x", tags=tags, await_creation_for=0)
        started.extend(Contender(tmp_path / f"clone-{one}", uri, f"person-{one}") for one in range(people))
        assert {one.said() for one in started} == {"ready"}
        return [_round(started, client, number) for number in range(rounds)], tracking, workspace

    yield run
    for one in started:
        one.end()


def _round(people: list[Contender], client: Any, number: int) -> list[str]:
    aliases = client.get_registered_model(NAME).aliases
    champion = int(aliases.get("champion", 0))
    others = [one for one in range(1, VERSIONS + 1) if one != champion]
    kind = "rollback" if number % 2 and champion else "promote"
    for place, one in enumerate(people):
        one.tell(f"{kind if place else 'promote'} {others[place % len(others)]}")
    assert {one.said() for one in people} == {"read"}
    for one in people:
        one.tell("go")
    return [one.said() for one in people]


def check(told: list[list[str]], tracking: TrackingConfig, workspace: Workspace) -> None:
    """One winner in each round, the journal has all, in order, and the alias is where the last one put it."""
    connection = connect(tracking, workspace)
    entries = journal.history(connection, NAME)
    stands = journal.standing(entries)[::-1]
    for number, answers in enumerate(told, start=1):
        assert sorted(one.split()[0] for one in answers) == ["lost"] * (len(answers) - 1) + ["won"], answers
        place = next(index for index, one in enumerate(answers) if one.startswith("won"))
        assert answers[place] == f"won {number}"
        assert stands[number - 1].who == f"person-{place}"
        assert all("another decision was faster" in one or "by now" in one for one in answers if "won" not in one)
    assert [one.number for one in stands] == list(range(1, len(told) + 1))
    assert {(one.state, one.altered) for one in stands} == {("done", False)}
    assert [one.before for one in stands] == [None, *(one.after for one in stands[:-1])]
    assert Counter(one.state for one in entries) == {"done": len(told), "overtaken": sum(len(one) - 1 for one in told)}
    assert registry.champion_number(connection, NAME) == stands[-1].after
    held = registry.get(connection, NAME, str(stands[-1].after))
    assert held.tags["graft.decision"] == str(len(told))
    assert f"[decision {len(told)}]" in held.description


@pytest.mark.slow
def test_one_of_two_processes_wins_on_sqlite(race: Race, workspace: Workspace) -> None:
    check(*race(f"sqlite:///{workspace.root}/mlflow/store/mlflow.db", rounds=5))


@pytest.mark.slow
def test_one_of_two_processes_wins_on_postgresql(race: Race, postgres: str) -> None:
    check(*race(postgres, rounds=5))


@pytest.mark.slow
def test_one_of_three_processes_wins_through_a_server(race: Race, server: Any) -> None:
    check(*race(server.uri, rounds=5, people=3))


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_one_of_three_processes_wins_a_hundred_times_on_sqlite(race: Race, workspace: Workspace) -> None:
    check(*race(f"sqlite:///{workspace.root}/mlflow/store/mlflow.db", rounds=100, people=3))


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_one_of_three_processes_wins_a_hundred_times_on_postgresql(race: Race, fresh_postgres: str) -> None:
    check(*race(fresh_postgres, rounds=100, people=3))


@pytest.fixture
def fresh_postgres() -> Iterator[str]:
    from tests.postgres import cluster

    with cluster() as uri:
        yield uri


@pytest.mark.slow
def test_decision_that_moves_nothing_is_journaled_after_the_faster_one(race: Race, workspace: Workspace) -> None:
    """Two refusals at once both stand: neither moved the champion that the other was compared with."""
    uri = f"sqlite:///{workspace.root}/mlflow/store/mlflow.db"
    _, tracking, place = race(uri, rounds=1)
    people = [Contender(place.root.parent / f"keeper-{one}", uri, f"keeper-{one}") for one in range(2)]
    try:
        assert {one.said() for one in people} == {"ready"}
        for one in people:
            one.tell("keep 3")
        assert {one.said() for one in people} == {"read"}
        for one in people:
            one.tell("go")
        assert sorted(one.said() for one in people) == ["won 2", "won 3"]
    finally:
        for one in people:
            one.end()
    stands = journal.standing(journal.history(connect(tracking, place), NAME))
    assert [one.number for one in stands] == [3, 2, 1]
    assert len({one.after for one in stands}) == 1
