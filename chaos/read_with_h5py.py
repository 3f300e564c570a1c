"""Reads day files with h5py, for a process that must not import it.

Asked and answered as `chaos.answering` says; the answer is how many items all
datasets hold.
"""

import h5py

from chaos.answering import answer_with


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


if __name__ == '__main__':
    answer_with(count_items)
