"""Checks that a day file is whole: layout, rows, blobs and digests agree."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from datastore.upload_codes import TABLES, Table
from writer.heaps import require_whole
from writer.journal import FileBusy, Finish, JournaledFile, journal_path

_BLOBS_AT_ONCE = 10_000

_TABLES = {table.name: table for table in TABLES}


class Verdict(NamedTuple):
    """What a check of one file found.

    `busy` says that somebody writes to it, and it could not be checked.
    """

    path: Path
    rows: int
    blobs: int
    replayed: bool
    faults: list[str]
    busy: bool = False


def verify_file(path: Path, finish: Finish) -> Verdict:
    """Check one day file, after replaying a journal that a crash left.

    `finish` removes batches, by name, that the replay finds to be stored.
    Every row and every blob is read.
    """
    replayed = journal_path(path).exists()
    try:
        with JournaledFile(path, finish) as file, h5py.File(file, 'r') as h5:
            groups = list(_station_groups(h5))
            faults = [f for group in groups for f in _check_station(group, path)]
            rows = sum(len(t) for group in groups for t in _tables(group))
            blobs = sum(len(group['blobs']) for group in groups if 'blobs' in group)
            faults += _check_digests(h5, rows)
    except FileBusy:
        return Verdict(path, 0, 0, False, [], busy=True)
    # Nothing narrower: a damaged file raises whatever it made h5py stumble on.
    except Exception as error:
        return Verdict(path, 0, 0, replayed, [f'cannot be read: {error}'])
    return Verdict(path, rows, blobs, replayed, faults)


def _station_groups(h5: h5py.File) -> Iterator[h5py.Group]:
    for cluster in h5['hisparc'].values():
        yield from cluster.values()


def _tables(group: h5py.Group) -> Iterator[h5py.Dataset]:
    return (child for name, child in group.items() if name in _TABLES)


def _check_station(group: h5py.Group, path: Path) -> Iterator[str]:
    for name in group:
        if name not in _TABLES and name != 'blobs':
            yield f'{group.name} holds {name}, which is no table of ours'
    for dataset in _tables(group):
        yield from _check_table(dataset, _TABLES[dataset.name.rpartition('/')[2]])
    if 'blobs' in group:
        # Before they are read: damage of some kinds would hang HDF5.
        require_whole(group['blobs'], path)
        for start in range(0, len(group['blobs']), _BLOBS_AT_ONCE):
            group['blobs'][start : start + _BLOBS_AT_ONCE]


def _check_table(dataset: h5py.Dataset, table: Table) -> Iterator[str]:
    if dataset.dtype != table.row_dtype:
        yield f'{dataset.name} has other columns than it should'
        return
    rows = dataset[:]
    if dataset.attrs['NROWS'] != len(rows):
        yield f'{dataset.name} has {len(rows)} rows, its NROWS is another number'
    if not np.array_equal(rows['event_id'], np.arange(1, len(rows) + 1)):
        yield f'{dataset.name} is not numbered from 1 in event_id'
    blobs = len(dataset.parent.get('blobs', []))
    used = [rows[name].ravel() for name in table.blob_columns]
    indices = np.concatenate([np.empty(0, dtype='i4'), *used])
    indices = indices[indices != -1]
    if ((indices < 0) | (indices >= blobs)).any():
        yield f'{dataset.name} refers to blobs that are not there'
    if len(np.unique(indices)) < len(indices):
        yield f'{dataset.name} refers to a blob more than once'


def _check_digests(h5: h5py.File, rows: int) -> Iterator[str]:
    digests = h5['ingest/digests'][:]['digest'] if 'ingest' in h5 else []
    if len(digests) != rows:
        yield f'there are {len(digests)} digests of {rows} rows'
    elif len(np.unique(digests, axis=0)) < len(digests):
        yield 'an event is stored more than once'
