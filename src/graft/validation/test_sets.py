"""Test sets from elsewhere, held to what every row must be: readable, of the task's fields, with known labels.

They are checked here, before anything is trained, so that a night's training does not end at a typing error in a file
that only evaluate reads. Lengths, duplicates and drift are no matter: these rows are meant to be different.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graft import tasks
from graft.cleaning import Cleaning
from graft.data import TEST_SETS, DataConfig, Problem, parts_of_test_sets, read_part
from graft.errors import DataError
from graft.tasks import TaskConfig
from graft.workspace import Workspace


def check_test_sets(workspace: Workspace, task: TaskConfig, data: DataConfig, state: Mapping[str, Any]) -> None:
    """Read all rows of ``data/test_sets``.

    Raises:
        DataError: with every row that is wrong, at its ``file:line``.
    """
    files = [path for paths in parts_of_test_sets(workspace.data).values() for path in paths]
    problems = [str(one) for path in files for one in _problems(path, workspace.root, task, data, state)]
    if problems:
        raise DataError.from_problems(
            f"{workspace.data.name}/{TEST_SETS}: {len(problems)} problem{'s' if len(problems) > 1 else ''}",
            [data.privacy.in_message(problem) for problem in problems],
        )


def _problems(
    path: Path, root: Path, task: TaskConfig, data: DataConfig, state: Mapping[str, Any]
) -> Iterator[Problem]:
    one = tasks.get(task.name)
    for found in read_part(path, root, one.fields_of(task), data, Cleaning(data.clean, data.privacy)):
        if isinstance(found, Problem):
            yield found
            continue
        for problem in one.check_row(task, found.row, state):
            column = data.columns.get(problem.field, problem.field)
            yield Problem(found.place, column, problem.expected, problem.found)
