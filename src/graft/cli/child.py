"""Start a pipeline as a process of its own: its lines go to the user, signals go to it, its exit code comes back.

The child leads a session of its own, so that Ctrl-C reaches it once, from here, and not a second time from the
terminal while it cleans up. If this process is killed, the kernel asks the child to end (Linux).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from graft.errors import Interrupted
from graft.workspace import Workspace

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_module(workspace: Workspace, module: str, arguments: Sequence[str], passed_on: list[int] | None = None) -> int:
    """Run ``python -m module`` with the code of the project's clone; return its exit code.

    ``passed_on`` gets the signals that came here meanwhile: without any, what ended the process came from elsewhere.

    Raises:
        Interrupted: the process was killed.
    """
    command = [*_python(workspace.repository), "-m", module, *arguments]
    environment = {**os.environ, "GRAFT_PYTHON": os.environ.get("GRAFT_PYTHON", sys.executable)}
    process = subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=_end_with_parent)

    def pass_on(number: int, _: object) -> None:
        if passed_on is not None:
            passed_on.append(number)
        if process.poll() is None:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in FORWARDED}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code < 0:
        name = signal.Signals(-code).name
        raise Interrupted(f"the run was ended by {name}; the same command resumes")
    return code


def _python(repository: Path) -> list[str]:
    """Return the command of a Python that takes its code from ``repository``, also if this one's is elsewhere."""
    launcher = repository / "infra" / "python"
    return ["sh", str(launcher)] if launcher.is_file() else [sys.executable]


def _end_with_parent() -> None:
    """Run in the child before it becomes Python: SIGTERM when the parent dies, which a flow takes as a cancel."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
