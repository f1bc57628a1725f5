from __future__ import annotations

import pytest

from graft.errors import InputError
from graft.tracking import TrackingConfig, registry
from graft.tracking.server import Connection, experiment_id
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
    with pytest.raises(InputError, match=rf"no model '{NAME}z' at .*; did you mean '{NAME}'\?"):
        registry.get(connection, f"{NAME}z", "@champion")
    with pytest.raises(InputError, match=r"no version '9'.*there are: 3, 2, 1"):
        registry.get(connection, NAME, "9")


def test_review_reads_what_people_type(connection: Connection, versions: list[registry.Version]) -> None:
    registry.set_tags(connection, versions[0], {"review": " Rejected"})
    registry.set_tags(connection, versions[1], {"review": "looks fine"})
    assert [registry.get(connection, NAME, number).review for number in ("1", "2", "3")] == ["rejected", None, None]
