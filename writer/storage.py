"""The HDF5 layout: opens a station's day file and appends to it.

Files are laid out as PyTables lays them out (PyTables User's Guide, appendix
"PyTables File Format"), so that PyTables, SAPPHiRE and h5py read them alike:

    /hisparc/cluster_<cluster>/station_<number>/<table>, .../blobs
    /ingest/digests     what identifies the events that are stored

Only groups, tables and `blobs` are children of a station's group: consumers
call len() on each of them.
"""

import contextlib
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t

from datastore import durable, layout
from datastore.event import EPOCH
from datastore.upload_codes import Column, Table
from writer.digests import DIGEST_SIZE, DigestIndex
from writer.journal import (
    FileBusy,
    Finish,
    Identity,
    JournaledFile,
    identity_of,
    journal_path,
    set_aside,
)
from writer.rows import Rows

logger = logging.getLogger(__name__)

# Versions of the PyTables format; 2.1 files are what PyTables 3 writes.
_FILE_VERSION = '2.1'
_GROUP_VERSION = '1.0'
_TABLE_VERSION = '2.7'
_VLARRAY_VERSION = '1.4'

_CHUNK_BYTES = 16 * 2**10  # of a table: a commit rewrites a chunk or two of each
# A chunk of 4096 16-byte references is a quarter of what PyTables would choose:
# each commit rewrites one.
_BLOBS_CHUNK = 2048

_DIGESTS = Table(
    '',
    'digests',
    'Digests of the events stored in this file',
    (Column('digest', 'uint8', shape=(DIGEST_SIZE,)),),
)

# Digests kept in memory, over all files: 80 MB.
_MAX_DIGESTS = 8 * 10**6


class DamagedFile(Exception):
    """The file does not open as HDF5, or holds something else than it should."""


class Archive:
    """The day files under `data_dir`.

    Raises, from every method that opens a file: FileBusy if somebody reads
    it, DamagedFile, or OSError if the disk fails.  Then nothing was changed.
    """

    def __init__(
        self,
        data_dir: Path,
        finish: Finish,
        on_replay: Callable[[], None] = lambda: None,
    ) -> None:
        """`finish` removes batches, by name, that are stored for good.

        `on_replay` is told of each journal that was left over and is replayed.
        """
        self._data_dir = data_dir
        self._tmp = data_dir / 'tmp'
        self._finish = finish
        self._on_replay = on_replay
        # With what the file was when these were its digests; None for no file.
        self._digests: OrderedDict[Path, tuple[Identity | None, DigestIndex]] = (
            OrderedDict()
        )

    def path(self, station: int, day: int) -> Path:
        """Return where a station's events of a day are.

        `day` counts from 1970-01-01.
        """
        date = EPOCH + timedelta(days=day)
        return layout.station_file(self._data_dir, date, station)

    def journals(self) -> list[Path]:
        """Return the journals that a crash left beside day files."""
        return sorted(self._data_dir.glob(layout.JOURNALS))

    def digests(self, station: int, day: int) -> DigestIndex:
        """Return which events the day file holds already."""
        path = self.path(station, day)
        if path in self._digests:
            found, index = self._digests[path]
            # Somebody may have taken the file away, or put an older one there:
            # what it does not hold any more is not to be taken for a duplicate.
            if found == _identity_now(path):
                self._digests.move_to_end(path)
                return index
        index, found = DigestIndex(np.empty((0, DIGEST_SIZE), dtype='u1')), None
        if path.exists():
            with JournaledFile(path, self._finish, self._on_replay) as file:
                index, found = _read_digests(path, file), file.identity
        self._remember(path, found, index)
        return index

    def _remember(self, path: Path, found: Identity | None, index: DigestIndex) -> None:
        self._digests[path] = found, index
        while len(self._digests) > 1 and self._count_remembered() > _MAX_DIGESTS:
            self._digests.popitem(last=False)

    def _count_remembered(self) -> int:
        return sum(len(index) for _, index in self._digests.values())

    def append(
        self,
        station: int,
        cluster: str,
        day: int,
        tables: Sequence[Rows],
        digests: Sequence[bytes],
        known: DigestIndex,
        covers: Sequence[str],
    ) -> None:
        """Append rows and blobs to a day file, all or nothing, durably.

        `digests` identify the events; none of them is in `known`, which are
        those in the file: if that holds more by now, it is busy.  `covers` names
        the batches that are stored for good with this, and are removed.
        """
        path = self.path(station, day)
        found: Identity | None
        group = f'/hisparc/cluster_{cluster.lower()}/station_{station}'
        # Not known to be right until the commit has succeeded.
        self._digests.pop(path, None)
        if path.exists():
            with JournaledFile(path, self._finish, self._on_replay) as file:
                _append(path, file, 'r+', group, tables, digests, len(known))
                file.commit(covers)
                found = file.identity
        else:
            if len(known):
                raise FileBusy(f'{path} was removed by another program')
            if (journal := journal_path(path)).exists():
                set_aside(journal, 'has no file any more')
            buffer = BytesIO()
            _append(path, buffer, 'w', group, tables, digests, 0)
            durable.make_directory(path.parent)
            tmp = durable.place_for_drafts(path, self._tmp)
            durable.put(path, buffer.getvalue(), tmp)
            found = _identity_now(path)
            self._finish(covers)
        known.add(digests)
        self._remember(path, found, known)


def _identity_now(path: Path) -> Identity | None:
    try:
        return identity_of(os.stat(path))
    except FileNotFoundError:
        return None


def _read_digests(path: Path, file: JournaledFile) -> DigestIndex:
    with as_damage(path), h5py.File(file, 'r') as h5:
        stored = h5['ingest/digests'][:]['digest'] if 'ingest' in h5 else []
        return DigestIndex(np.reshape(stored, (-1, DIGEST_SIZE)).astype('u1'))


def _append(
    path: Path,
    file: JournaledFile | BytesIO,
    mode: str,
    group_path: str,
    tables: Sequence[Rows],
    digests: Sequence[bytes],
    digests_known: int,
) -> None:
    identities = np.frombuffer(b''.join(digests), dtype=_DIGESTS.row_dtype)
    with as_damage(path), h5py.File(file, mode) as h5:
        if mode == 'w':
            describe_root(h5)
        group = require_group(h5, group_path)
        for table, rows, blobs in tables:
            append_table(group, table, _renumber(group, table, rows))
            _append_blobs(group, blobs)
        ingest = require_group(h5, '/ingest')
        if _length(ingest, 'digests') != digests_known:
            raise FileBusy(f'{path} was changed by another program')
        append_table(ingest, _DIGESTS, identities)


@contextlib.contextmanager
def as_damage(path: Path) -> Iterator[None]:
    """Raise DamagedFile for whatever is raised because of what the file holds."""
    try:
        yield
    except (FileBusy, MemoryError):
        raise
    except Exception as error:
        # Nothing narrower: h5py raises anything where a file is not what it
        # should be.  Its own OSErrors have no errno; those of the disk have one.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamagedFile(f'{path}: {error}') from error


# Datasets are opened by h5py's low-level interface: its objects cost three times
# what HDF5 itself takes for a commit of 100 events.


def _open(group: h5py.Group, name: str) -> h5d.DatasetID | None:
    encoded = name.encode()
    if not group.id.links.exists(encoded):
        return None
    return h5d.open(group.id, encoded)


def _length(group: h5py.Group, name: str) -> int:
    dataset = _open(group, name)
    return 0 if dataset is None else dataset.shape[0]


def _renumber(
    group: h5py.Group, table: Table, rows: np.ndarray[Any, np.dtype[Any]]
) -> np.ndarray[Any, np.dtype[Any]]:
    """Return rows with the event ids and blob indices they have in the file."""
    rows = rows.copy()
    rows['event_id'] = _length(group, table.name) + 1 + np.arange(len(rows))
    blobs = _length(group, 'blobs')
    for name in table.blob_columns:
        indices = rows[name]
        indices[indices >= 0] += blobs
    return rows


def append_table(
    group: h5py.Group, table: Table, rows: np.ndarray[Any, np.dtype[Any]]
) -> None:
    """Append rows, of the table's row dtype, to a table that may not be there yet."""
    dataset = _open(group, table.name)
    if dataset is None:
        dataset = _create_table(group, table)
    elif dataset.get_type() != _disk_type(table) and dataset.dtype != table.row_dtype:
        raise ValueError(f'{group.name}/{table.name} has other columns than it should')
    length = _extend(dataset, rows, dataset.get_type())
    h5a.open(dataset, b'NROWS').write(np.array(length, dtype='i8'))


def _append_blobs(group: h5py.Group, blobs: Sequence[bytes]) -> None:
    if not blobs:
        return
    dataset = _open(group, 'blobs') or _create_blobs(group)
    # One call for all, and HDF5's own structures instead of an array for each:
    # 0.8 us a blob, where h5py takes 1.5, and 41 with a call for each.  What the
    # structures point to must live until they are written.
    joined = np.frombuffer(b''.join(blobs), dtype='u1')
    views = np.empty(len(blobs), dtype=_VIEW)
    views['len'] = list(map(len, blobs))
    views['p'] = joined.ctypes.data + np.cumsum(views['len']) - views['len']
    _extend(dataset, views, h5t.vlen_create(h5t.NATIVE_UINT8))


def _extend(
    dataset: h5d.DatasetID, items: np.ndarray[Any, np.dtype[Any]], mtype: h5t.TypeID
) -> int:
    """Append to a dataset of one dimension; return its new length.

    `dataset[n:m] = items` of h5py takes a single blob for an array of numbers.
    """
    start = dataset.shape[0]
    dataset.set_extent((start + len(items),))
    space = dataset.get_space()
    space.select_hyperslab((start,), (len(items),))
    dataset.write(h5s.create_simple((len(items),)), space, items, mtype)
    return start + len(items)


# PyTables' layout, written through h5py's low-level interface because h5py
# would store strings, booleans and compounds in forms of its own.

_VIEW = np.dtype([('len', np.uintp), ('p', np.uintp)])  # hvl_t of HDF5, H5Tpublic.h


def describe_root(h5: h5py.File) -> None:
    """Give a new file the attributes by which PyTables knows it."""
    _set_text(h5.id, 'CLASS', 'GROUP')
    _set_text(h5.id, 'TITLE', '')
    _set_text(h5.id, 'VERSION', _GROUP_VERSION)
    _set_text(h5.id, 'PYTABLES_FORMAT_VERSION', _FILE_VERSION)


def require_group(h5: h5py.File, path: str) -> h5py.Group:
    """Return the group at `path`, made on the way there if it is missing."""
    group: h5py.Group = h5
    if path in h5:
        return h5[path]
    for name in path.strip('/').split('/'):
        if name not in group:
            created = group.create_group(name)
            _set_text(created.id, 'CLASS', 'GROUP')
            _set_text(created.id, 'TITLE', '')
            _set_text(created.id, 'VERSION', _GROUP_VERSION)
        group = group[name]
    return group


def _create_table(group: h5py.Group, table: Table) -> h5d.DatasetID:
    chunk = max(1, _CHUNK_BYTES // table.row_dtype.itemsize)
    dataset = _create_dataset(group, table.name, _disk_type(table), chunk)
    _set_text(dataset, 'CLASS', 'TABLE')
    _set_text(dataset, 'VERSION', _TABLE_VERSION)
    _set_text(dataset, 'TITLE', table.title)
    # Appendix, "Table": every field has a fill; PyTables gives up without it.
    for number, column in enumerate(table.columns):
        _set_text(dataset, f'FIELD_{number}_NAME', column.name)
        fill = np.array(column.default, dtype=column.row_dtype)
        _set_scalar(dataset, f'FIELD_{number}_FILL', fill, _element_type(column))
    _set_scalar(dataset, 'NROWS', np.array(0, dtype='i8'), h5t.STD_I64LE)
    return dataset


def _create_blobs(group: h5py.Group) -> h5d.DatasetID:
    dataset = _create_dataset(
        group, 'blobs', h5t.vlen_create(h5t.STD_U8LE), _BLOBS_CHUNK
    )
    _set_text(dataset, 'CLASS', 'VLARRAY')
    _set_text(dataset, 'PSEUDOATOM', 'vlstring')
    _set_text(dataset, 'VERSION', _VLARRAY_VERSION)
    _set_text(dataset, 'TITLE', 'HiSPARC binary data')
    return dataset


def _create_dataset(
    group: h5py.Group, name: str, type_id: h5t.TypeID, chunk: int
) -> h5d.DatasetID:
    space = h5s.create_simple((0,), (h5s.UNLIMITED,))
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk((chunk,))
    return h5d.create(group.id, name.encode(), type_id, space, properties)


def _element_type(column: Column) -> h5t.TypeID:
    if column.dtype == 'bool':
        return h5t.STD_B8LE  # a bitfield, which PyTables reads as a bool
    return h5t.py_create(column.row_dtype)


@lru_cache(maxsize=64)
def _disk_type(table: Table) -> h5t.TypeID:
    compound = h5t.create(h5t.COMPOUND, table.row_dtype.itemsize)
    for column in table.columns:
        element = _element_type(column)
        if column.shape:
            element = h5t.array_create(element, column.shape)
        assert table.row_dtype.fields is not None
        offset = table.row_dtype.fields[column.name][1]
        compound.insert(column.name.encode(), offset, element)
    return compound


def _set_text(node: h5g.GroupID | h5d.DatasetID, name: str, text: str) -> None:
    """Set an attribute as PyTables does: fixed length, UTF-8, null-terminated.

    An empty one has size 1 and no value.
    """
    encoded = text.encode('utf-8')
    type_id = h5t.C_S1.copy()
    type_id.set_size(max(1, len(encoded)))
    type_id.set_cset(h5t.CSET_UTF8)
    type_id.set_strpad(h5t.STR_NULLTERM)
    space = h5s.create(h5s.SCALAR if encoded else h5s.NULL)
    attribute = h5a.create(node, name.encode(), type_id, space)
    if encoded:
        attribute.write(np.array(encoded), mtype=type_id)


def _set_scalar(
    node: h5d.DatasetID, name: str, value: np.ndarray[Any, Any], type_id: h5t.TypeID
) -> None:
    attribute = h5a.create(node, name.encode(), type_id, h5s.create(h5s.SCALAR))
    attribute.write(value, mtype=type_id)
