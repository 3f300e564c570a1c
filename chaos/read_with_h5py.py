"""Reads day files with h5py, for a process that must not import it.

Asked and answered as `chaos.read_with_pytables`; instead of rows the answer is
how many items all datasets hold.
"""

import os
import pickle
import struct
import sys

import h5py


def count_items(path: str) -> int:
    """Read everything in an HDF5 file; raises whatever goes wrong."""
    items = 0

    def read(name: str, node: h5py.Group | h5py.Dataset) -> None:
        nonlocal items
        dict(node.attrs)
        if isinstance(node, h5py.Dataset):
            items += len(node[()])

    with h5py.File(path, 'r') as file:
        file.visititems(read)
    return items


def main() -> None:
    """Answer until standard input ends."""
    output = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)  # whatever else is printed is no answer
    for line in sys.stdin:
        answer: object
        try:
            answer = count_items(line.rstrip('\n'))
        except Exception as error:
            # Nothing narrower: h5py raises all kinds.
            answer = f'{type(error).__name__}: {error}'
        pickled = pickle.dumps(answer)
        output.write(struct.pack('<Q', len(pickled)) + pickled)
        output.flush()


if __name__ == '__main__':
    main()
