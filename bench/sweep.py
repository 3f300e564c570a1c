"""Sweeps of one writer, timed one by one: `python -m bench.sweep CONFIG ROUNDS`.

A program, so that its memory is its own.  Before each sweep the spool is
replaced by the one that was filled for it, `round<n>/incoming` beside the
configuration.  Prints, as JSON, for each sweep the seconds it took, and the
memory that the process had resident after it, and at most, in MB.
"""

import json
import os
import re
import sys
import threading
import time
from pathlib import Path

from writer.writer_app import writer


class _Rounds(threading.Event):
    """What the writer waits for between two sweeps."""

    def __init__(self, directory: Path, rounds: int) -> None:
        super().__init__()
        self._spools = [directory / f'round{n}' / 'incoming' for n in range(rounds)]
        self._incoming = directory / 'data' / 'incoming'
        self._started: float | None = None
        self.results: list[dict[str, float]] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether all is done; else have the next sweep started."""
        now = time.perf_counter()
        if self._started is not None:
            memory, peak = _memory()
            seconds = now - self._started
            self.results.append({'seconds': seconds, 'memory': memory, 'peak': peak})
        if not self._spools:
            return True
        filled = self._spools.pop(0)
        # With segments that are free by now.
        self._incoming.rename(filled.with_name(f'before-{time.time_ns()}'))
        filled.rename(self._incoming)
        Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
        os.sync()
        self._started = time.perf_counter()
        return False


def _memory() -> tuple[float, float]:
    status = Path('/proc/self/status').read_text()
    sizes = dict(re.findall(r'(VmRSS|VmHWM):\s+(\d+) kB', status))
    return int(sizes['VmRSS']) / 1024, int(sizes['VmHWM']) / 1024


def main() -> None:
    """Run the sweeps and print what they took."""
    configfile, rounds = Path(sys.argv[1]), int(sys.argv[2])
    stop = _Rounds(configfile.parent, rounds)
    writer(configfile, stop=stop)
    print(json.dumps(stop.results))


if __name__ == '__main__':
    main()
