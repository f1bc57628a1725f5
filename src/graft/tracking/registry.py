"""The model registry: versions found by their adapter's digest, aliases that follow decisions.

MLflow's aliases have no compare-and-set: two promotions at once both succeed. So the alias ``champion`` decides
nothing: it follows the journal, whose entries are ordered by the database (``ledger.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graft.config import nearest
from graft.errors import InputError, shown
from graft.tracking.ledger import Ledger
from graft.tracking.server import Connection, shown_uri

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

ADAPTER = "graft.adapter"
MODEL_URI = "models:/"
REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<number>\d+)|(?P<alias>@[^/@]+))")
MOST_NAMES, SHOWN_NAMES = 1000, 20
CANDIDATE, CHAMPION = "candidate", "champion"
REVIEW = "review"
"""The tag that reviewers set in the MLflow UI: ``approved`` or ``rejected``."""


@dataclass(frozen=True)
class Version:
    """One model version. ``adapter`` is the digest of its adapter folder, as recorded when it was published."""

    name: str
    version: str
    adapter: str | None
    run_id: str | None
    source: str
    created_ms: int
    model_id: str | None = None
    """The logged model that it holds."""
    description: str = ""
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def review(self) -> str | None:
        """What a reviewer set in the UI: ``approved``, ``rejected`` or None."""
        value = self.tags.get(REVIEW, "").strip().lower()
        return value if value in ("approved", "rejected") else None


def parsed(reference: str) -> tuple[str, str]:
    """Return the name, and the number or ``@alias``, of a model reference.

    Raises:
        InputError: it is not of that form.
    """
    found = REFERENCE.fullmatch(reference)
    if found is None:
        raise InputError(f"{shown(reference)}: must be models:/NAME@ALIAS or models:/NAME/NUMBER")
    return found["name"], found["number"] or found["alias"]


def ensure_model(connection: Connection, name: str, *, description: str, tags: Mapping[str, str]) -> None:
    """Find or create the registered model; keep its description and tags as given, other tags as they are."""
    from mlflow.exceptions import MlflowException

    client = connection.client
    found = client.search_registered_models(f"name = '{name}'", max_results=1)
    if not found:
        try:
            client.create_registered_model(name, tags=dict(tags), description=description)
            return
        except MlflowException:  # another process was faster
            found = client.search_registered_models(f"name = '{name}'", max_results=1)
            if not found:
                raise
    if description and found[0].description != description:
        client.update_registered_model(name, description)
    for key, value in tags.items():
        if found[0].tags.get(key) != value:
            client.set_registered_model_tag(name, key, value)


def versions(connection: Connection, name: str) -> list[Version]:
    """Return all versions of a registered model, the newest first; none where it does not exist."""
    found = connection.client.search_model_versions(f"name = '{name}'", max_results=10_000)
    aliases: dict[str, list[str]] = {}
    if found:
        for alias, number in connection.client.get_registered_model(name).aliases.items():
            aliases.setdefault(str(number), []).append(alias)
    made = [_version(one, aliases.get(str(one.version), [])) for one in found]
    return sorted(made, key=lambda one: int(one.version), reverse=True)


def get(connection: Connection, name: str, version: str) -> Version:
    """Return one version, by number or as ``@alias``.

    Raises:
        InputError: there is none, or no such model; the message lists those that exist.
    """
    known = versions(connection, name)
    for one in known:
        if version == one.version or version.removeprefix("@") in one.aliases:
            return one
    if not known:
        refuse_unknown(connection, name)
    there = ", ".join(one.version for one in known) or "none"
    raise InputError(f"{name}: no version {version!r} at {shown_uri(connection.uri)}; there are: {there}")


def refuse_unknown(connection: Connection, name: str) -> None:
    """Refuse a name that no registered model has.

    Raises:
        InputError: with the name that was meant, or those that there are.
    """
    names = [one.name for one in connection.client.search_registered_models(max_results=MOST_NAMES)]
    if name not in names:
        near = nearest(name, names)
        said = f"did you mean {near!r}?" if near else f"there are {', '.join(names[:SHOWN_NAMES]) or 'none'}"
        raise InputError(f"no model {name!r} at {shown_uri(connection.uri)}; {said}")


def find(connection: Connection, name: str, adapter: str) -> Version | None:
    """Return the first version that holds the adapter of this digest, or None."""
    held = [one for one in versions(connection, name) if one.adapter == adapter]
    return held[-1] if held else None


def create(
    connection: Connection,
    name: str,
    *,
    model: LoggedModel,
    run_id: str,
    description: str,
    tags: Mapping[str, str],
) -> Version:
    """Create a version of a logged model. The caller holds the model's lock and has looked for one (``find``)."""
    # A store opened directly looks ``models:/<id>`` up at the process's global URI, which is not set here.
    source = f"{MODEL_URI}{model.model_id}" if connection.uri.startswith("http") else model.artifact_location
    made = connection.client.create_model_version(
        name, source, run_id, dict(tags), None, description, model_id=model.model_id, await_creation_for=0
    )
    return get(connection, name, str(made.version))


def set_tags(connection: Connection, version: Version, tags: Mapping[str, str]) -> None:
    """Set the version tags that are new or differ."""
    for key, value in tags.items():
        if version.tags.get(key) != value:
            connection.client.set_model_version_tag(version.name, version.version, key, value)


def describe(connection: Connection, version: Version, description: str) -> None:
    """Set the version's description if it differs."""
    if version.description != description:
        connection.client.update_model_version(version.name, version.version, description)


def set_candidate(connection: Connection, version: Version) -> None:
    """Let the alias ``candidate`` name the version that was published last."""
    if CANDIDATE not in version.aliases:
        connection.client.set_registered_model_alias(version.name, CANDIDATE, version.version)


def champion(connection: Connection, name: str) -> Version | None:
    """Return the version that the alias ``champion`` names, or None."""
    held = [one for one in versions(connection, name) if CHAMPION in one.aliases]
    return held[0] if held else None


def follow_ledger(book: Ledger) -> None:
    """Let the alias ``champion`` name the version that the newest decision says.

    The alias cannot be moved under a condition, so a process that was held up might move it back to an old decision.
    Whoever moves it therefore looks at the ledger again afterwards, and goes on until there is no newer decision.
    """
    while slots := book.slots():
        _set_champion(book.connection, book.name, slots[-1].after)
        if len(book.slots()) == len(slots):
            return


def _set_champion(connection: Connection, name: str, version: str | None) -> None:
    if champion_number(connection, name) == version:
        return
    if version is None:
        connection.client.delete_registered_model_alias(name, CHAMPION)
    else:
        connection.client.set_registered_model_alias(name, CHAMPION, version)


def champion_number(connection: Connection, name: str) -> str | None:
    """Return the number of the champion version, straight from the registered model."""
    found = connection.client.search_registered_models(f"name = '{name}'", max_results=1)
    number = found[0].aliases.get(CHAMPION) if found else None
    return None if number is None else str(number)


def _version(found: object, aliases: list[str]) -> Version:
    from mlflow.entities.model_registry import ModelVersion

    assert isinstance(found, ModelVersion)
    return Version(
        name=found.name,
        version=str(found.version),
        adapter=found.tags.get(ADAPTER),
        run_id=found.run_id or None,
        source=found.source or "",
        created_ms=int(found.creation_timestamp or 0),
        model_id=found.model_id or _model_id(found.source or ""),
        description=found.description or "",
        aliases=tuple(sorted(aliases)),
        tags=dict(found.tags),
    )


def _model_id(source: str) -> str | None:
    """Over HTTP a version's logged model is named by its source alone."""
    return source.removeprefix(MODEL_URI) if source.startswith(f"{MODEL_URI}m-") else None
