"""What a run says: a known error once and without traceback, an unknown one with it; plain lines at a terminal."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from graft.errors import DataError
from pipelines import logs


@pytest.fixture
def task_log() -> Iterator[logging.Logger]:
    """The logger of task runs, with the filter, and without the handlers that would send to an API."""
    logger = logging.getLogger("prefect.task_runs")
    before = (logger.level, logger.handlers[:], logger.filters[:], logger.propagate)
    logger.handlers, logger.filters = [], []
    logger.setLevel(logging.INFO)
    logs.shorten_known_errors()
    yield logger
    logger.level, logger.handlers, logger.filters, logger.propagate = before


def fail(logger: logging.Logger, error: Exception, times: int = 1) -> None:
    try:
        raise error
    except Exception as raised:
        for _ in range(times):
            logger.exception("Task run failed with exception: %r", raised)


def test_a_known_error_is_its_message_once(task_log: logging.Logger, tmp_path: Path) -> None:
    with logs.kept_in(tmp_path / "log.txt"):
        fail(task_log, DataError("data/train/a.jsonl:7: label: unknown"), times=2)
    text = (tmp_path / "log.txt").read_text()
    assert text.count("DataError: data/train/a.jsonl:7: label: unknown") == 1
    assert "Traceback" not in text


def test_an_unknown_error_keeps_its_traceback(task_log: logging.Logger, tmp_path: Path) -> None:
    with logs.kept_in(tmp_path / "log.txt"):
        fail(task_log, ZeroDivisionError("division by zero"))
    assert "Traceback (most recent call last)" in (tmp_path / "log.txt").read_text()


def test_the_terminal_shows_the_stage_and_its_line(task_log: logging.Logger) -> None:
    stream = io.StringIO()
    with logs.terminal(stream):
        for line in (
            "Running stage 'train':",
            "> python -m graft stage train",
            "train: step 3/9",
            "other: 1",
            "ran (2.0 s)",
        ):
            task_log.info(line, extra={"task_run_name": "train"})
        task_log.info("Finished in state Completed()", extra={"task_run_name": "train"})
        fail(task_log, DataError("the command ends with this one"))
        logging.getLogger("some.library").warning("careful")
    assert stream.getvalue().splitlines() == [
        "train      step 3/9",
        "train      other: 1",
        "train      ran (2.0 s)",
        "careful",
    ]


def test_the_filter_is_installed_once(task_log: logging.Logger) -> None:
    logs.shorten_known_errors()
    assert len([one for one in task_log.filters if isinstance(one, logs.KnownErrors)]) == 1


def test_the_terminal_suggests_commands_with_the_project_that_was_named(
    task_log: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.launch import said

    monkeypatch.setenv("GRAFT_TYPED_PROJECT", "projects/x")
    stream = io.StringIO()
    with logs.terminal(stream):
        task_log.warning("MLflow: away; `graft sync` adds what is missing")
    assert stream.getvalue() == "MLflow: away; `graft -C projects/x sync` adds what is missing\n"
    assert said("error: run `graft lock`", 2) == 2
    assert capsys.readouterr().err == "error: run `graft -C projects/x lock`\n"
