"""The data contract: every part file against the task's fields, as Great Expectations suites with Data Docs.

The strict reader finds what cannot be read, the task what a row must not say, Great Expectations (``contract``) what
columns must be; every finding names its row as ``file:line``, and all are reported together. A row that breaks the
contract stops the chain, or is kept aside (``artifacts/quarantine``) and left out by every later stage, or is
reported, as ``validation.severity`` says.

Each part is inspected by itself (``inspecting``) in any process, and the result is kept by the part's content, so a new
part costs itself alone. What parts show together is told from these results (``assembling``). A part must fit into
memory, which is the price of one suite per part; a data set need not. Where rows have labels, parts are read twice:
those that all rows are held to are learnt from the training parts first, and a part is looked at again only where one
of its own becomes known, or unknown.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from graft.data import DataConfig
from graft.errors import ConfigError, DataError
from graft.part_results import Round
from graft.quarantine import in_words
from graft.tasks import TaskConfig
from graft.validation.assembling import Assembly, write_refusal
from graft.validation.changes import described, write_changes
from graft.validation.section import ValidationConfig, with_contract, with_line
from graft.validation.sources import Sources
from graft.validation.suite import suite
from graft.validation.test_sets import check_test_sets
from graft.workspace import Workspace, replaced, write_json

__all__ = ["ValidationConfig", "part_rounds", "validate", "with_contract"]

PRINTED_WARNINGS = 5
"""How many warnings are printed; the Data Docs list all."""


def validate(workspace: Workspace, *, task: TaskConfig, data: DataConfig, validation: ValidationConfig) -> None:
    """Hold every part file to the contract; write the verdict and the Data Docs.

    Raises:
        DataError: with the rows that break it; the report is in ``workspace.failed / "validate"``.
    """
    report = workspace.failed / "validate"
    try:
        sources = Sources(workspace, task, data, validation)
        state = sources.learn()
    except DataError as error:
        write_refusal(report, error)
        raise
    try:
        inspected = sources.inspect(state)
    except ConfigError as error:
        raise ConfigError(with_line(str(error), workspace)) from None
    assembly = Assembly(workspace, sources, state, inspected)
    assembly.across_parts()
    if any(split == "train" for split, _ in assembly.quarantine.parts):
        try:
            assembly.refuse_lost_labels()
            assembly.state = sources.learn(assembly.quarantine.places)
        except DataError as error:
            write_refusal(report, error, assembly.quarantine)
            raise
    assembly.end()
    if assembly.problems:
        with replaced(report) as folder:
            assembly.write_report(folder)
        total, page = assembly.total_problems, _shown(report / "data_docs" / "index.html", workspace)
        title = f"{workspace.data.name}: {in_words(total, 'problem')}; report: {page}"
        raise DataError.from_problems(title, [str(problem) for problem in assembly.problems], total=total)
    try:
        check_test_sets(workspace, task, data, assembly.state)
    except DataError as error:
        write_refusal(report, error)
        raise
    assembly.look_for_label_errors()
    with (
        replaced(workspace.validation) as verdict,
        replaced(workspace.data_docs) as docs,
        replaced(workspace.quarantine) as aside,
    ):
        write_json(verdict / "verdict.json", assembly.verdict())
        write_json(verdict / "suite.json", suite([check for check, _ in assembly.checked()], "rows"))
        assembly.write_warned(verdict / "warned.jsonl")
        write_changes(verdict, assembly.cleaning)
        assembly.write_composition(verdict)
        assembly.write_docs(docs)
        assembly.quarantine.write(aside)
    shutil.rmtree(report, ignore_errors=True)
    for line in assembly.warnings[:PRINTED_WARNINGS]:
        print(f"warning: {line}", flush=True)
    if assembly.warnings:
        count, where = len(assembly.warnings), _shown(workspace.data_docs / "index.html", workspace)
        more = f"; {count - PRINTED_WARNINGS} more in" if count > PRINTED_WARNINGS else ";"
        print(f"validate: {in_words(count, 'warning')}{more} {where}", flush=True)
    for line in assembly.quarantine.described():
        print(f"validate: {line}; {_shown(workspace.quarantine, workspace)}", flush=True)
    if assembly.composition and assembly.composition.note:
        print(f"validate: {assembly.composition.note}", flush=True)
    for line in described(assembly.cleaning):
        print(f"validate: {line}; {_shown(workspace.validation / 'cleaning.diff', workspace)}", flush=True)


def part_rounds(
    workspace: Workspace, *, task: TaskConfig, data: DataConfig, validation: ValidationConfig
) -> Iterator[Round]:
    """Yield what the stage makes of single parts: what training parts teach, then every part's inspection.

    Raises:
        DataError: the data folder is not one, or the task cannot be learnt from its rows.
    """
    sources = Sources(workspace, task, data, validation)
    yield sources.learning()
    yield sources.inspecting(sources.learn())


def _shown(path: Path, workspace: Workspace) -> str:
    """Return a path to show: from the root of the repository where it lies there, else in full."""
    root = workspace.repository
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
