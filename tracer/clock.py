"""One clock per process: wall time read once, everything after it from the monotonic clock.

Two spans of one process can then always be subtracted, whatever NTP does in between. The anchor is
recorded with the process, so a reader can map other monotonic times (an engine on the same host) into it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str | None:
    """Identity of this boot of this host: equal ids share one monotonic clock. `None` off Linux."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Clock:
    """Maps this process's monotonic clock to UTC by one pair of readings.

    Attributes:
        wall_ns: UTC at the anchor, ns since the epoch.
        monotonic_ns: the monotonic clock at the anchor, ns.
    """

    wall_ns: int
    monotonic_ns: int

    @classmethod
    def start(cls) -> Clock:
        """Read the anchor now."""
        return cls(wall_ns=time.time_ns(), monotonic_ns=time.monotonic_ns())

    def now_ns(self) -> int:
        """UTC in ns, monotonic within this process."""
        return self.wall_ns + time.monotonic_ns() - self.monotonic_ns

    def utc_ns(self, monotonic_ns: int) -> int:
        """UTC in ns of a monotonic reading of this host."""
        return self.wall_ns + monotonic_ns - self.monotonic_ns
