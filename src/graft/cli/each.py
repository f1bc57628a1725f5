"""`graft run --each`: the chain for each group of users, one after the other, and one table at the end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.errors import GraftError, Interrupted

if TYPE_CHECKING:
    from graft.groups import Group, Outcome
    from graft.params import Params
    from graft.workspace import Workspace


def run_each(template: Workspace, pattern: str, flags: Sequence[str], start: Path) -> int:
    """Run the chain of every group; return the exit code.

    A group that fails, or is killed, does not stop the others. ``flags`` go to each flow.

    Raises:
        ConfigError: the project's params are wrong, its base is not locked, or the pattern matches nothing.
        Interrupted: this process was told to stop; the same command goes on with the groups that are left.
    """
    from graft import base, groups, params, tasks
    from graft.cli import printing

    config = params.load(template.params)
    base.locked(template, config.base)
    found = groups.found(template, pattern, start)
    outcomes = []
    for number, group in enumerate(found, start=1):
        # A file's name may be bytes that are no text.
        source = os.fsencode(group.source.name).decode("utf-8", "replace")
        printing.heading(f"group {group.name} ({number} of {len(found)}): {source} in {group.workspace.name}")
        with _typed(group):
            outcomes.append(_run(template, config, group, flags))
    print()
    printing.table(*groups.table(outcomes, tasks.get(config.task.name).headline))
    bad = sum(one.exit_code != 0 for one in outcomes)
    print(f"{len(outcomes) - bad} of {len(outcomes)} groups have their adapter" + (f", {bad} failed" if bad else ""))
    return groups.exit_code(outcomes)


@contextlib.contextmanager
def _typed(group: Group) -> Iterator[None]:
    """Let the commands that messages suggest name the group's project, and not the one that the user typed."""
    from graft.workspace import TYPED_VARIABLE

    before = os.environ.get(TYPED_VARIABLE)
    os.environ[TYPED_VARIABLE] = os.path.relpath(group.workspace.root)
    try:
        yield
    finally:
        del os.environ[TYPED_VARIABLE]
        if before is not None:
            os.environ[TYPED_VARIABLE] = before


def _run(template: Workspace, config: Params, group: Group, flags: Sequence[str]) -> Outcome:
    from graft import groups
    from graft.cli.child import run_module
    from graft.cli.current import current
    from graft.cli.running import refuse_problems
    from graft.workspace import suggested

    place, passed_on = group.workspace, list[int]()
    try:
        groups.prepare(template, config, group)
        if not flags and current(place) is not None:
            print("nothing to do: data, parameters, code and base are those of its version")
            return groups.outcome(group, config, new=False)
        refuse_problems(place)
        code = run_module(place, "pipelines.finetune", ["--project", str(place.root), *flags], passed_on)
    except GraftError as error:
        if passed_on:
            raise
        said = suggested(str(error))
        print(f"error: {said}", flush=True)
        return groups.failed(group, said, error.exit_code)
    if passed_on:
        raise Interrupted(f"group {group.name}: interrupted; the same command goes on from here")
    if code:
        return groups.failed(group, _error_of(place), code)
    return groups.outcome(group, config, new=True)


def _error_of(place: Workspace) -> str:
    """Return what the newest run of a project ended with."""
    from graft import runs

    newest = runs.listed(place)[:1]
    return str(newest[0].facts.get("error") or "") if newest else ""
