"""The Typer application, its global options, and the exit codes: what every group of commands stands on.

Groups of commands are files beside this one. Their functions import the library inside, so that ``graft --help`` and
shell completion load Typer and nothing else of weight.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from graft.workspace import Workspace

EXIT_CODES = {
    0: "done, or nothing to do",
    1: "an unknown error (with its traceback)",
    2: "bad input or configuration",
    3: "a gate refused (a result, not a crash)",
    4: "a promotion lost a race",
    5: "training diverged",
    6: "integrity: bytes or identity differ",
    7: "a service or resource is missing",
    8: "locked by another process",
    75: "interrupted; the same command resumes",
    130: "stopped with Ctrl-C",
}

PROJECT = "Project and data"
RUN = "Run"
REVIEW = "Review and use"
CARE = "Services and care"


def examples(*lines: tuple[str, str]) -> str:
    """Return an epilog that shows commands, each with what it does."""
    return "\n\n".join(["[bold]Examples[/]", *(f"[cyan]{command}[/]   [dim]{what}[/]" for command, what in lines)])


def exit_codes() -> str:
    """Return the epilog that documents the exit codes."""
    codes = "   ".join(f"[cyan]{code}[/] {meaning}" for code, meaning in EXIT_CODES.items())
    return f"[bold]Exit codes[/]\n\n{codes}\n\nEvery command has examples: [cyan]graft COMMAND --help[/]"


app = typer.Typer(
    name="graft",
    help="Adapt pretrained language models with small adapters: a data set goes in, a tested, registered, "
    "promotable adapter comes out, and anyone can rebuild it.",
    epilog=exit_codes(),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_project: list[Path] = []


def workspace() -> Workspace:
    """Return the project that ``-C`` names, or the one at or above the current folder.

    Raises:
        ConfigError: there is none.
    """
    from graft.workspace import Workspace

    return Workspace.find(folder())


def folder() -> Path:
    """Return the folder that ``-C`` names, else the current one."""
    return _project[-1] if _project else Path.cwd()


def _version(wanted: bool) -> None:
    if wanted:
        from graft import __version__

        typer.echo(f"graft {__version__}")
        raise typer.Exit


@app.callback()
def options(
    project: Annotated[
        Path | None,
        typer.Option(
            "-C",
            "--project",
            metavar="DIR",
            help="Work on the project at DIR (or above it). Files that you name stay relative to where you are.",
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001 (its callback acts)
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before the command."""
    import os

    from graft.errors import ConfigError
    from graft.workspace import TYPED_VARIABLE

    _project.clear()
    os.environ.pop(TYPED_VARIABLE, None)
    if project is not None:
        if not project.is_dir():
            raise ConfigError(f"-C {project}: no such folder; `graft projects` lists the projects")
        _project.append(project.resolve())
        os.environ[TYPED_VARIABLE] = str(project)


JSON = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
