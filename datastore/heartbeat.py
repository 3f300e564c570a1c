"""The writer's sign of life, and what it says of its sweeps.

`<data_dir>/status/writer.json` is replaced at the start and at the end of each
sweep, and about every second of one, without an fsync.  When it was last
modified is the sign of life.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from datastore import durable
from datastore.config import Config
from datastore.wording import duration

# s; longer than one step of a sweep, the append to one file, takes on a disk
# that many others write to.
_LONGEST_STEP = 120.0


class Heartbeat(NamedTuple):
    """What the writer said last.

    `time` is when, in s since the epoch.  `said` has the keys `pid`, `once`
    (whether it sweeps only once), `stopped` (whether it meant to), `fault` (why
    it cannot read the spool, or None), and, as None or a dict of counts, the
    sweeps `current` (which it is at), `sweep` (the last that is finished) and
    `stored` (the last that stored an event).
    """

    time: float
    said: dict[str, Any]

    def is_fresh(self, now: float, sleep: float) -> bool:
        """Return whether a writer that pauses for `sleep` seconds is alive."""
        return not self.said['stopped'] and now - self.time <= stale_after(sleep)


def stale_after(sleep: float) -> float:
    """Return for how many seconds a writer may say nothing."""
    return sleep + _LONGEST_STEP


def status_directory(data_dir: Path) -> Path:
    """Return where programs say how they fare."""
    return data_dir / 'status'


def put_heartbeat(data_dir: Path, said: dict[str, Any]) -> None:
    """Replace what the writer said; where the disk is full, keep it as alive."""
    path = _path(data_dir)
    draft = path.with_suffix('.draft')
    try:
        durable.make_directory(path.parent)
        draft.write_text(json.dumps(said, indent=1), encoding='ascii')
        draft.chmod(durable.FILE_MODE)
        # A crash here leaves the draft, which the next heartbeat replaces.
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.utime(path)


def read_heartbeat(data_dir: Path) -> Heartbeat | None:
    """Return what the writer said last; None if it said nothing, or a power
    cut spoiled it.

    Raises OSError if the file cannot be read.
    """
    try:
        with open(_path(data_dir), encoding='ascii') as file:
            said = json.load(file)
            time = os.fstat(file.fileno()).st_mtime
        return Heartbeat(time, _EMPTY | said)
    except (FileNotFoundError, ValueError, TypeError):
        return None


def writer_status(config: Config, now: float) -> dict[str, Any]:
    """Return what is known of the writer; `alive` and `reason` say the most.

    `reason` is None if it is well.  Raises OSError.
    """
    heartbeat = read_heartbeat(config.data_dir)
    limit = stale_after(config.sleep)
    if heartbeat is None:
        return {
            'alive': False,
            'reason': 'the writer has never run here',
            'last_heartbeat': None,
            'stale_after': limit,
        }
    said = heartbeat.said
    age = max(0, now - heartbeat.time)
    alive = heartbeat.is_fresh(now, config.sleep)
    reason = None
    if said['stopped']:
        reason = f'the writer was stopped {duration(age)} ago'
    elif not alive:
        reason = f'the writer has said nothing for {duration(age)}'
    elif said['fault']:
        reason = f'the writer cannot read the spool: {said["fault"]}'
    return {
        'alive': alive,
        'reason': reason,
        'last_heartbeat': int(heartbeat.time),
        'stale_after': limit,
    } | said


_EMPTY = {
    'pid': None,
    'once': False,
    'stopped': False,
    'fault': None,
    'current': None,
    'sweep': None,
    'stored': None,
}


def _path(data_dir: Path) -> Path:
    return status_directory(data_dir) / 'writer.json'
