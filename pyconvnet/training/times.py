"""Where the time of an epoch goes."""

from __future__ import annotations

import time


class Times:
    """Seconds of an epoch by what they were spent on, without gaps: the parts add up to the whole.

    - ``data``: waiting for the loader;
    - ``copy``: drawing crops and colours, and handing the batch to the device; on a host device, which copies
      nothing across a bus, the augmentation itself;
    - ``compute``: forward, backward, update;
    - ``checkpoint``: copying the values of a checkpoint, and waiting for the one before;
    - ``other``: figures, log, signals.

    The host's clock alone is read, five times a step: on a GPU, which works while the host prepares, a part
    is what the host spent on it, waits for the device included wherever they fall.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin, or begin again, at zero."""
        self._seconds = dict.fromkeys(("data", "copy", "compute", "checkpoint", "other"), 0.0)
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Count the seconds since the last lap for a part."""
        now = time.perf_counter()
        self._seconds[part] += now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part."""
        return {part: round(value, 4) for part, value in self._seconds.items()}
