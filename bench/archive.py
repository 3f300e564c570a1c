"""What is in an archive, counted by reading its files."""

from pathlib import Path

import h5py

from datastore import layout


def size_of_file(data_dir: Path) -> tuple[int, int]:
    """Return the size of the only day file, and of the rows and blobs in it."""
    (path,) = data_dir.glob(layout.STATION_FILES)
    content = 0
    with h5py.File(path, 'r') as file:
        for cluster in file['hisparc'].values():
            for station in cluster.values():
                for dataset in station.values():
                    if h5py.check_vlen_dtype(dataset.dtype):
                        content += sum(map(len, dataset[:]))
                    else:
                        content += dataset.size * dataset.dtype.itemsize
    return path.stat().st_size, content


def stored(data_dir: Path) -> int:
    """Return how many events the archive holds, by its digests."""
    total = 0
    for path in data_dir.glob(layout.STATION_FILES):
        with h5py.File(path, 'r') as file:
            total += len(file['ingest/digests'])
    return total
