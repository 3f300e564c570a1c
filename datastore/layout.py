"""Where the files of the archive are: `<Y>/<M>/<Y>_<M>_<D>/station_<number>.h5`.

As historic names have no zero padding, neither have these.
"""

from datetime import date
from pathlib import Path

# To look for them under `data_dir`, by glob.
DAYS = '[0-9]*/[0-9]*/*_*_*'
STATION_FILES = f'{DAYS}/station_*.h5'
JOURNALS = f'{STATION_FILES}.journal'
ORPHANS = f'{DAYS}/*.orphan'


def year_directory(data_dir: Path, year: int) -> Path:
    """Return where the files of a year are."""
    return data_dir / str(year)


def day_directory(data_dir: Path, day: date) -> Path:
    """Return where the station files of a day are."""
    name = f'{day.year}_{day.month}_{day.day}'
    return year_directory(data_dir, day.year) / str(day.month) / name


def station_file(data_dir: Path, day: date, station: int) -> Path:
    """Return where a station's events of a day are."""
    return day_directory(data_dir, day) / f'station_{station}.h5'
