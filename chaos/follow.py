"""Reads day files while they grow, over and over, as a scientist's program might.

    python -m chaos.follow h5py|pytables DATA_DIR

Until SIGTERM; then prints, as JSON, how often a file was read, how often it
was locked, and what was wrong in each other case.  A file of which rows
disappear, are not numbered, or refer to traces it does not hold, is torn as
well.
"""

import json
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datastore import layout

PAUSE = 0.03  # s at most between two files: one who never lets go stops the writer
LOCKED = ('unable to lock file', 'Resource temporarily unavailable')

ZLIB = b'x'  # what every compressed trace starts with

Shape = dict[str, int]  # rows, by the path of the table
Read = Callable[[str], Shape]


def with_h5py() -> Read:
    """Return what reads a file with h5py."""
    import h5py

    def read(path: str) -> Shape:
        shape: Shape = {}
        with h5py.File(path, 'r') as file:

            def visit(name: str, node: Any) -> None:
                if isinstance(node, h5py.Dataset):
                    rows = node[()]
                    shape[name] = len(rows)
                    if rows.dtype.names:
                        _check(rows, node.parent.get('blobs'))

            file.visititems(visit)
        return shape

    return read


def with_pytables() -> Read:
    """Return what reads a file with PyTables."""
    import warnings

    import tables

    warnings.simplefilter('error')

    def read(path: str) -> Shape:
        shape: Shape = {}
        with tables.open_file(path) as file:
            for leaf in file.walk_nodes('/', 'Leaf'):
                rows = leaf.read()
                shape[leaf._v_pathname.lstrip('/')] = len(rows)
                if isinstance(leaf, tables.Table):
                    group = leaf._v_parent
                    _check(rows, group.blobs if 'blobs' in group else None)
        return shape

    return read


def _check(rows: Any, blobs: Any) -> None:
    """Raise AssertionError if rows are not what somebody has written."""
    if 'event_id' in rows.dtype.names:
        ids = rows['event_id'].tolist()
        assert ids == list(range(1, len(ids) + 1)), 'rows are not numbered'
    if 'traces' in rows.dtype.names:
        indices = [index for index in rows['traces'].ravel().tolist() if index != -1]
        traces = blobs[:] if indices else []
        for index in indices:
            assert bytes(traces[index][:1]) == ZLIB, 'a trace is missing'


def main() -> None:
    """Read until told to stop, and say how it went."""
    library, data_dir = sys.argv[1], Path(sys.argv[2])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    read = with_h5py() if library == 'h5py' else with_pytables()
    seen: dict[str, Shape] = {}
    reads = locked = 0
    torn = []
    while not stop.is_set():
        time.sleep(random.uniform(0, PAUSE))
        for file in sorted(data_dir.glob(layout.STATION_FILES)):
            path = str(file)
            try:
                shape = read(path)
                for name, rows in seen.get(path, {}).items():
                    assert shape[name] >= rows, f'{name} had {rows} rows'
            except Exception as error:
                # Nothing narrower: the libraries raise all kinds.
                if any(text in str(error) for text in LOCKED):
                    locked += 1
                else:
                    torn.append(f'{path}: {type(error).__name__}: {error}'[:500])
            else:
                seen[path] = shape
                reads += 1
            time.sleep(random.uniform(0, PAUSE))
    print(json.dumps({'reads': reads, 'locked': locked, 'torn': torn}))


if __name__ == '__main__':
    main()
