"""Tells the service manager how the writer is doing; follows sd_notify(3).

Under systemd the writer is ready when it has its lock and has mended what a
crash left; it is alive while it gets on with stations and commits.  Nothing
here runs in a thread of its own, so a disk that hangs is not hidden: the signs
of life stop, and after `WatchdogSec=` systemd starts the writer again.

Without `NOTIFY_SOCKET`, as in a terminal, nobody is told and nothing is done.
"""

import os
import threading
import time
from collections.abc import Callable

from sdnotify import SystemdNotifier

Pending = Callable[[], dict[int, list[str]]]

# Signs of life in the time that the manager does without one; commits are more.
_SIGNS = 4


class Service:
    """What the service manager is told; it need not be there to hear it.

    The environment says whether there is one, and with `WATCHDOG_USEC` how long
    it does without a sign of life.
    """

    def __init__(self) -> None:
        self._notifier = SystemdNotifier() if os.environ.get('NOTIFY_SOCKET') else None
        patience = _watchdog_timeout()
        # Seconds between two signs of life; None if nobody waits for any.
        self._interval = patience / _SIGNS if self._notifier and patience else None
        self._last = float('-inf')

    def ready(self) -> None:
        """Say that the writer sweeps from now on."""
        self._notify('READY=1')

    def alive(self) -> None:
        """Say that the writer has got on with something."""
        # Not by the clock on the wall, which may be set back by an hour.
        now = time.monotonic()
        if self._interval is not None and now - self._last >= self._interval:
            self._last = now
            self._notify('WATCHDOG=1')

    def swept(self, seconds: float, pending: Pending) -> None:
        """Say how long a sweep took, and how much waits after it.

        `pending` returns the waiting batches of each station; it reads a
        directory, so it is called only if somebody is told.
        """
        if self._notifier:
            moment = time.strftime('%H:%M:%S')
            waiting = pending()
            batches = sum(map(len, waiting.values()))
            self._notify(
                f'STATUS=sweep of {seconds:.1f} s ended at {moment}, '
                f'{batches} batches of {len(waiting)} stations wait'
            )

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Wait until `stop` is set, giving signs of life; return whether it is.

        Returns False when the seconds have passed.
        """
        if self._interval is None:
            return stop.wait(seconds)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.alive()
            if stop.wait(min(left, self._interval)):
                return True
        return False

    def stopping(self) -> None:
        """Say that the writer was told to stop, and does."""
        self._notify('STOPPING=1')

    def _notify(self, state: str) -> None:
        if self._notifier:
            # Errors stay in there: a service manager that has gone away is no
            # reason to leave a batch where it is.
            self._notifier.notify(state)


def _watchdog_timeout() -> float | None:
    """Return the seconds the manager waits for a sign of life, if it does."""
    microseconds = os.environ.get('WATCHDOG_USEC', '')
    meant_for = os.environ.get('WATCHDOG_PID', str(os.getpid()))
    if not microseconds.isdecimal() or meant_for != str(os.getpid()):
        return None
    return int(microseconds) / 1e6
