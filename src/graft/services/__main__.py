"""``python -m graft.services COMMAND``: the guard of a server process."""

import sys

from graft.services.processes import guard

sys.exit(guard(sys.argv[1:]))
