"""What two versions of a model differ in: data, params, code, base, environment, and how they answer the test rows.

A side is a commit: a model version's, a git revision, or a snapshot of the working tree. Everything but the data's rows
and the evaluation is text that git has; those two come by content hash from the DVC cache or its remote, the evaluation
of a version also from its MLflow run. Whether a difference of the metric is real is asked of the stored predictions by
the paired test that promotions use, where both sides answered the same test rows; one test, of the headline metric: a
test of each metric would find a difference sooner or later.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from graft.errors import ConfigError, GraftError
from graft.evaluation.intervals import Drawn
from graft.identity import LOCK_FILE
from graft.repository import Repository
from graft.repository.objects import Tracked, output
from graft.repository.status import flat
from graft.reproduction import Recorded, parsed, recorded
from graft.revisions import WORKING_TREE, revision
from graft.workspace import Workspace, read_json

if TYPE_CHECKING:
    from graft.evaluation.comparison import Comparison
    from graft.tracking import TrackingConfig

ALPHA = 0.05
METRICS, TABLE = "metrics.json", "predictions/adapter.parquet"
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)\s*(;.*)?$")
MISSING = "(none)"
Changes = dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Side:
    """One side: its commit, and what stands there."""

    name: str
    commit: str
    repository: Repository
    of: Recorded | None = None
    """What the registry records, of a model version."""

    @property
    def workspace(self) -> Workspace:
        return self.repository.workspace

    def text(self, path: Path) -> str:
        """Return a file of the commit; empty where it has none."""
        try:
            return self.repository.git.read(self.commit, path.relative_to(self.workspace.repository).as_posix())
        except ConfigError:
            return ""

    def tree(self, path: Path) -> dict[str, Any]:
        """Return a YAML or JSON mapping of the commit; empty where it has none."""
        try:
            found = yaml.safe_load(self.text(path))
        except yaml.YAMLError:
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Metrics:
    """How both sides answer their test rows."""

    same_rows: bool
    """Whether they were scored on the same test rows: only then is there a test."""
    rows: tuple[int, int]
    values: dict[str, tuple[dict[str, Any], dict[str, Any]]]
    """Metric -> value, low and high of each side."""
    headline: str
    comparison: dict[str, Any] | None
    """The paired comparison of the stored predictions by the headline metric, b against a."""
    p: float | None
    """Two-sided."""
    real: bool | None
    """Whether the difference is beyond what chance shows on these rows at ``ALPHA``; None: not tested."""


@dataclass(frozen=True)
class VersionDiff:
    """All of it; pairs are (a, b), None where a side has nothing of the kind."""

    a: dict[str, Any]
    b: dict[str, Any]
    data: dict[str, Any]
    params: Changes
    code: Changes
    """Files that the stages depend on, by git's digest of their content."""
    log: list[str]
    """The commits between, which touch those files; ``-``: only on the side of a, ``+``: only on that of b."""
    base: Changes
    environment: Changes
    metrics: Metrics | None
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        return asdict(self)

    @property
    def is_empty(self) -> bool:
        """Whether nothing that a version is made of differs."""
        same_data = self.data["a"] == self.data["b"]
        return same_data and not (self.params or self.code or self.base or self.environment)


def compare(workspace: Workspace, a: str, b: str | None, *, tracking: TrackingConfig) -> VersionDiff:
    """Compare two model versions or git revisions; ``b`` None: the working tree.

    Raises:
        InputError: no such version or revision.
        IntegrityError: a version records no commit.
        ResourceMissing: a commit cannot be had.
    """
    before, after = (_side(workspace, name, tracking) for name in (a, b))
    notes: list[str] = []
    code = _differing(_code(before), _code(after))
    return VersionDiff(
        a=_named(before),
        b=_named(after),
        data=_data(workspace, before, after, (a, b), notes),
        params=_differing(flat(before.tree(workspace.params)), flat(after.tree(workspace.params))),
        code=code,
        log=_log(before, after, list(code)),
        base=_differing(_base(before), _base(after)),
        environment=_differing(_pins(before), _pins(after)),
        metrics=_metrics(before, after, notes),
        notes=notes,
    )


def _side(workspace: Workspace, name: str | None, tracking: TrackingConfig) -> Side:
    from graft.revisions import commit_named

    repository = Repository(workspace)
    if name is None:
        return Side(WORKING_TREE, repository.snapshot(), repository)
    if not name.startswith("models:"):
        return Side(name, commit_named(repository, workspace, name), repository)
    from graft.tracking import registry
    from graft.tracking.server import connect, reported

    connection = connect(tracking, workspace)
    with reported(connection.uri):
        of = recorded(connection, registry.get(connection, *parsed(name)))
    repository.fetch_snapshot(of.commit)
    return Side(name, of.commit, repository, of)


def _named(side: Side) -> dict[str, Any]:
    return {"name": side.name, "commit": side.commit, "adapter": side.of.adapter if side.of else None}


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    return {
        name: (before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    }


# -- data


def _data(
    workspace: Workspace, before: Side, after: Side, names: tuple[str, str | None], notes: list[str]
) -> dict[str, Any]:
    """Return the digests of the data, and where they differ how many rows of each split do."""
    from graft.data_diff import compare as compare_data

    digests = [_data_digest(side) for side in (before, after)]
    found: dict[str, Any] = {"a": digests[0], "b": digests[1], "splits": {}}
    if digests[0] == digests[1]:
        return found
    try:
        with revision(workspace, names[0]) as one, revision(workspace, names[1]) as other:
            rows = compare_data(workspace, one, other)
    except GraftError as error:
        notes.append(f"data: the rows cannot be compared: {error}")
        return found
    counted = {
        split: {"rows": each.rows, "added": each.added, "removed": each.removed, "changed": each.changed}
        for split, each in rows.splits.items()
    }
    return {**found, "splits": counted, "moved": rows.moved}


def _data_digest(side: Side) -> str | None:
    outs = side.tree(side.workspace.data_dvc).get("outs") or [{}]
    return outs[0].get("md5") if isinstance(outs[0], dict) else None


# -- code, base, environment


def _code(side: Side) -> dict[str, str]:
    """Return ``{path in the repository: digest}`` of the code that the commit's stages depend on."""
    prefixes = set(_code_places(side))
    found = {}
    for line in side.repository.git.run("ls-tree", "-r", side.commit).splitlines():
        facts, _, path = line.partition("\t")
        if any(path == one or path.startswith(f"{one}/") for one in prefixes):
            found[path] = facts.split()[2]
    return found


def _code_places(side: Side) -> Iterator[str]:
    """Yield the files and folders of code among the dependencies of the commit's dvc.yaml."""
    task = flat(side.tree(side.workspace.params)).get("task.name")
    root, repository = side.workspace.root, side.workspace.repository
    for stage in (side.tree(root / "dvc.yaml").get("stages") or {}).values():
        for dep in stage.get("deps") or ():
            path = Path(str(dep).replace("${task.name}", str(task)))
            place = _normal(root / path)
            made = place.is_relative_to(side.workspace.artifacts) or place.is_relative_to(side.workspace.data)
            if not made and place.name != LOCK_FILE and place.is_relative_to(repository):
                yield place.relative_to(repository).as_posix()


def _normal(path: Path) -> Path:
    """Return a path without ``..``; the files need not be there."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return Path(*parts)


def _log(before: Side, after: Side, paths: list[str]) -> list[str]:
    """Return the commits on either side alone that touch some of the files."""
    if not paths or before.commit == after.commit:
        return []
    arguments = ("log", "--left-right", "--format=%m %h %s", f"{before.commit}...{after.commit}", "--", *paths)
    lines = before.repository.git.run(*arguments).splitlines()
    return [line.replace("<", "-", 1).replace(">", "+", 1) for line in lines]


def _base(side: Side) -> dict[str, Any]:
    """Return what sources.lock pins of the base, its files by digest."""
    return flat({"base": side.tree(side.workspace.sources_lock).get("base") or {}})


def _pins(side: Side) -> dict[str, str]:
    """Return ``{package: version}`` of the lock file; pins that hold for some machines alone with their condition."""
    found = {}
    for line in side.text(side.workspace.repository / LOCK_FILE).splitlines():
        if match := PINNED.match(line.strip()):
            found[" ".join(filter(None, (match[1], match[3])))] = match[2]
    return found


# -- metrics


def _metrics(before: Side, after: Side, notes: list[str]) -> Metrics | None:
    from graft import tasks

    with tempfile.TemporaryDirectory(prefix="graft-diff-") as folder:
        sides = []
        for number, side in enumerate((before, after)):
            fetch = _evaluation(side, Path(folder) / str(number))
            try:
                sides.append((read_json(fetch(METRICS)), fetch))
            except (GraftError, KeyError, OSError):
                notes.append(f"{side.name}: no evaluation is recorded that the DVC cache, its remote or MLflow has")
                return None
        (ours, _), (theirs, _) = sides
        names = [name for name in theirs["metrics"] if name in ours["metrics"]]
        values = {name: (ours["adapter"][name], theirs["adapter"][name]) for name in names}
        same = ours["test"]["digest"] == theirs["test"]["digest"]
        headline = str(theirs["headline"])
        rows = (ours["test"]["rows"], theirs["test"]["rows"])
        tested = None
        if same and headline in names:
            task = str(flat(after.tree(after.workspace.params)).get("task.name"))
            try:
                tested = _tested(tasks.get(task).metric(headline), *(fetch(TABLE) for _, fetch in sides))
            except (GraftError, KeyError, OSError) as error:
                notes.append(f"the stored predictions cannot be compared: {error}")
    p = min(1.0, 2 * min(tested.p_better, tested.p_worse)) if tested else None
    real = None if p is None else p <= ALPHA
    return Metrics(same, rows, values, headline, tested.as_json() if tested else None, p, real)


def _tested(metric: Any, before: Path, after: Path) -> Comparison:
    from graft.evaluation import prediction
    from graft.evaluation.comparison import compare as compare_tables

    return compare_tables(metric, prediction.read(after), prediction.read(before), Drawn())


def _evaluation(side: Side, folder: Path) -> Callable[[str], Path]:
    """Return what finds a file of a side's evaluation: by the hash in its dvc.lock, else in its MLflow run."""
    from graft.reproduction.records import EVALUATION

    data = _data_digest(side)
    lock = side.text(side.workspace.dvc_lock)
    tracked = output(lock, "evaluate", "artifacts/evaluation", data) if data else None
    listing: dict[str, str] = {}
    if tracked:
        with contextlib.suppress(GraftError):
            listing = side.repository.dvc.listing(Tracked(tracked.digest))

    def find(name: str) -> Path:
        if name in listing:
            with contextlib.suppress(GraftError):
                return side.repository.dvc.fetch([listing[name]], None)[listing[name]]
        if side.of is None or side.of.download is None:
            raise KeyError(name)
        folder.mkdir(exist_ok=True)
        return side.of.download(f"{EVALUATION}/{name}", folder)

    return find
