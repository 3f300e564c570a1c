"""Reads day files with PyTables, for a process that must not import it.

Asked and answered as `chaos.answering` says; the answer is a list of rows, each
`(station, table, values...)` as in `chaos.events.row_key`.
"""

import re
import warnings
from typing import Any

import tables

from chaos.answering import answer_with
from datastore.upload_codes import TABLES

_COLUMNS = {table.name: table.columns for table in TABLES}
_GROUP = re.compile(r'/hisparc/cluster_[^/]+/station_(\d+)')


def read_rows(path: str) -> list[tuple[Any, ...]]:
    """Return the rows of all tables of a day file; raises whatever goes wrong."""
    rows: list[tuple[Any, ...]] = []
    with tables.open_file(path) as file:
        for table in file.walk_nodes('/hisparc', 'Table'):
            match = _GROUP.fullmatch(table._v_parent._v_pathname)
            if not match:
                raise ValueError(f'{table._v_pathname} is out of place')
            group = table._v_parent
            blobs = group.blobs.read() if 'blobs' in group else []
            content = table.read()
            ids = content['event_id'].tolist()
            if ids != list(range(1, len(ids) + 1)):
                raise ValueError(f'{table._v_pathname}: event ids are not 1, 2, ...')
            columns = []
            for column in _COLUMNS[table.name]:
                if column.name == 'event_id':
                    continue
                values = content[column.name].tolist()
                if column.is_blob:
                    values = [_look_up(blobs, value) for value in values]
                elif column.shape:
                    values = map(tuple, values)
                columns.append(values)
            station = int(match[1])
            rows += [(station, table.name, *row) for row in zip(*columns, strict=True)]
    return rows


def _look_up(blobs: list[bytes], index: Any) -> Any:
    if isinstance(index, list):
        return tuple(_look_up(blobs, each) for each in index)
    if index == -1:
        return None
    if not 0 <= index < len(blobs):
        raise ValueError(f'a row refers to blob {index} of {len(blobs)}')
    return bytes(blobs[index])


if __name__ == '__main__':
    # PyTables warns of a node that it cannot read, and goes on.
    warnings.simplefilter('error')
    answer_with(read_rows)
