"""``python -m graft``: stages directly, everything else through the CLI."""

import sys

if sys.argv[1:2] == ["stage"]:
    from graft.stages import main as run_stage

    sys.exit(run_stage(sys.argv[2:]))

from graft.cli import main

main()
