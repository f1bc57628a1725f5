"""`graft doctor` and `graft gc`: what is wrong with this clone and machine, and what can go.

Both look first and name what they found; only :func:`remove` changes anything. The trade-off of a doctor that asks
everything itself (no daemon, no cache) is about a second of work per call.
"""

from graft.housekeeping.doctor import doctor, stray_processes
from graft.housekeeping.waste import Waste, remove, waste

__all__ = ["Waste", "doctor", "remove", "stray_processes", "waste"]
