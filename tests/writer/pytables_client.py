"""Does with PyTables what analysis programs do to a file of ours.

    pytables_client.py FILE NATIVE

Prints a pickle of what it found in FILE, appends to its tables and blobs, and
writes the same tables to NATIVE as PyTables lays them out by itself.  A
program, because h5py and PyTables may not share a process.  Warnings are
errors: PyTables warns of a node that it cannot read, and goes on.
"""

import pickle
import sys
import warnings

import tables

GROUP = '/hisparc/cluster_a/station_510'


def describe(leaf):
    described = {'title': leaf.title}
    if isinstance(leaf, tables.Table):
        described['defaults'] = leaf.coldflts
        described['types'] = leaf.coltypes
    else:
        described['atom'] = type(leaf.atom).__name__
    return described


def query(file):
    events = file.get_node(GROUP, 'events')
    return {
        'read_where': events.read_where('(timestamp >= 2) & data_reduction'),
        'where': [row['event_id'] for row in events.where('event_rate < 0.5')],
        'len of children': {
            child._v_name: len(child) for child in file.get_node(GROUP)
        },
    }


def copy_to(native, leaf):
    where = leaf._v_parent._v_pathname
    if isinstance(leaf, tables.Table):
        copy = native.create_table(
            where, leaf.name, leaf.coldescrs, leaf.title, createparents=True
        )
        copy.append(leaf.read())
    else:
        atom = tables.VLStringAtom()
        copy = native.create_vlarray(
            where, leaf.name, atom, leaf.title, createparents=True
        )
        for blob in leaf:
            copy.append(blob)


def append(file):
    events = file.get_node(GROUP, 'events')
    blobs = file.get_node(GROUP, 'blobs')
    rows = events.read()[-1:]
    rows['event_id'] = len(events) + 1
    events.append(rows)
    row = events.row
    row['event_id'] = len(events) + 1
    row['traces'] = [len(blobs), -1, -1, -1]
    row['data_reduction'] = True
    row.append()
    events.flush()
    blobs.append(b'by PyTables')


warnings.simplefilter('error')
ours, native = sys.argv[1:]
with tables.open_file(ours) as file, tables.open_file(native, 'w') as copy:
    leaves = list(file.walk_nodes('/', 'Leaf'))
    found = {leaf._v_pathname: describe(leaf) for leaf in leaves}
    queried = query(file)
    for leaf in leaves:
        copy_to(copy, leaf)
with tables.open_file(ours, 'a') as file:
    append(file)
sys.stdout.buffer.write(pickle.dumps((found, queried)))
