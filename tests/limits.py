"""How long tests wait: a limit ends what hangs, and is no measure of slowness."""

from __future__ import annotations

#: Seconds for what others are to do, however busy the machine is. pytest's own limit
#: for a test is longer, so that the wait that failed is named.
HANG_S = 240.0
