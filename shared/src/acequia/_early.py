"""Imported first by each `__main__`: a SIGTERM that comes while the rest is still imported ends the process with 0.

Without it, that signal would end it with -15, and a process with id 1, as in a container, would not notice it at all.
`acequia.app.serve` puts its own handler in its place.
"""

import os
import signal
from types import FrameType


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)


signal.signal(signal.SIGTERM, _leave)
