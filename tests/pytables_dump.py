"""Prints a pickle of all that PyTables finds in an HDF5 file.

A program, because h5py and PyTables may not share a process.  Warnings are
errors: PyTables warns of a node that it cannot read, and goes on.
"""

import pickle
import sys
import warnings

import tables

warnings.simplefilter('error')
found = {}
with tables.open_file(sys.argv[1]) as file:
    for leaf in file.walk_nodes('/', 'Leaf'):
        if isinstance(leaf, tables.Table | tables.VLArray):
            found[leaf._v_pathname] = leaf.read()
        else:
            raise TypeError(f'{leaf} is neither a Table nor a VLArray')
sys.stdout.buffer.write(pickle.dumps(found))
