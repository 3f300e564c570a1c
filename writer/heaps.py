"""Finds blobs that cannot be read, without HDF5, which some of them would hang.

A blob in a dataset is a reference: its length, the address of a global heap
collection, and its number in there.  HDF5 reads a collection object by object;
at one of number 0 and size 0, as in a page that the disk has lost, it stays for
ever (1.14.6 and 2.0.0).  So collections are walked here before HDF5 sees them.

Layout: HDF5 File Format Specification 3.0, III.E, "Disk Format: Level 1E -
Global Heap".
"""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

_REFERENCE = np.dtype([('length', '<u4'), ('address', '<u8'), ('number', '<u4')])
_HEAD = struct.Struct('<4sB3xQ')  # magic, version, size with this
_OBJECT = struct.Struct('<H6xQ')  # number, size without this, but with it if free

_LEAST = 4096  # bytes of a collection


def require_whole(
    dataset: h5py.Dataset, path: Path, chosen: Sequence[int] | None = None
) -> None:
    """Raise ValueError if blobs of a file, or the `chosen` ones, cannot be read."""
    if damaged := damaged_blobs(dataset, path, chosen):
        raise ValueError(
            f'{len(damaged)} of {len(dataset) if chosen is None else len(chosen)} '
            f'blobs in {dataset.name} cannot be read; the first is {damaged[0]}'
        )


def damaged_blobs(
    dataset: h5py.Dataset, path: Path, chosen: Sequence[int] | None = None
) -> list[int]:
    """Return which elements of `blobs`, or of the `chosen`, cannot be read.

    By their indices.  `path` is the file that `dataset` is in.  Nothing is found
    where the references themselves are compressed, which those of ours are not.
    Raises OSError if the disk fails.
    """
    if dataset.chunks is None or dataset.id.get_create_plist().get_nfilters():
        return []
    unit = dataset.id.get_type().get_super().get_size()
    damaged = []
    with path.open('rb', buffering=0) as file:
        references = _references(dataset, file.fileno())
        used = np.arange(len(references)) if chosen is None else np.asarray(chosen)
        used = used[references['length'][used] > 0]
        if not len(used):
            return []
        used = used[np.argsort(references['address'][used], kind='stable')]
        of_heap = references[used]
        addresses, starts = np.unique(of_heap['address'], return_index=True)
        for address, indices, wanted in zip(
            addresses.tolist(),
            np.split(used, starts[1:]),
            np.split(of_heap, starts[1:]),
            strict=True,
        ):
            sizes = _sizes(file.fileno(), address)
            numbers, lengths = wanted['number'].tolist(), wanted['length'].tolist()
            damaged += [
                index
                for index, number, length in zip(
                    indices.tolist(), numbers, lengths, strict=True
                )
                if sizes.get(number) != length * unit
            ]
    return sorted(damaged)


def _references(
    dataset: h5py.Dataset, descriptor: int
) -> np.ndarray[Any, np.dtype[Any]]:
    references = np.zeros(len(dataset), dtype=_REFERENCE)

    def add(chunk: Any) -> None:
        (start,) = chunk.chunk_offset
        content = os.pread(descriptor, chunk.size, chunk.byte_offset)
        found = np.frombuffer(content.ljust(chunk.size, b'\0'), dtype=_REFERENCE)
        # The last chunk has room for more than there are.
        found = found[: len(references) - start]
        references[start : start + len(found)] = found

    dataset.id.chunk_iter(add)
    return references


def _sizes(descriptor: int, address: int) -> dict[int, int]:
    """Return the sizes of a collection's objects by number; none if it is damaged."""
    length = os.fstat(descriptor).st_size
    if address > length - _HEAD.size:
        return {}
    content = os.pread(descriptor, _LEAST, address)
    magic, version, size = _HEAD.unpack_from(content)
    if (magic, version) != (b'GCOL', 1) or size > length - address:
        return {}
    if size > len(content):
        content = os.pread(descriptor, size, address)
    sizes: dict[int, int] = {}
    at, last = _HEAD.size, size - _OBJECT.size
    while at <= last:
        number, taken = _OBJECT.unpack_from(content, at)
        if number:
            sizes[number] = taken
            taken = _OBJECT.size + -(-taken // 8) * 8
        if not _OBJECT.size <= taken <= size - at:
            return {}
        at += taken
    return sizes
