"""No process goes on that nobody waits for: a child ends with the process that started it."""

from __future__ import annotations

import os
import signal
import sys
import threading

INTERRUPTED = 75


def end_with_parent(parent: int | None = None) -> None:
    """End this process when the process that started it dies, also by SIGKILL: no orphan holds a GPU.

    Linux has a parent-death signal; elsewhere (and behind a shell that stays) a thread watches the parent's id.
    ``parent`` is that id where it was passed down: then a death before this call counts too.
    """
    parent = parent or os.getppid()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(INTERRUPTED)
        return
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            if os.getppid() != parent:
                os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
