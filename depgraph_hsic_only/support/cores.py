"""How many cores somebody has given to this process: read where the package is imported.

Ultralytics puts OMP_NUM_THREADS=1 into the environment when it is imported, unless it is set. So a 1 that is there when
Ultralytics came first is taken to be its own.
"""

import os
import sys

_VARIABLE = "OMP_NUM_THREADS"
_FOUND = os.environ.get(_VARIABLE, "").split(",")[0]  # one number for each level of nesting
_GIVEN = "" if _FOUND == "1" and "ultralytics" in sys.modules else _FOUND


def cores() -> int:
    """As many as OMP_NUM_THREADS says, by which somebody shares the machine out among processes; else every one."""
    return int(_GIVEN) if _GIVEN.isdecimal() and int(_GIVEN) else os.cpu_count() or 1
