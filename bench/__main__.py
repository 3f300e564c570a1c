"""`python -m bench`: prints the table of bench/README.md."""

import os
import platform
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench import archive, endpoint, load, uploads, writer
from bench.writer import Round, Swept

_WIDTHS = (46, 10, 10, 7, 8)
_ROW = '| {:<46} | {:>10} | {:>10} | {:>7} | {:>8} |'
_MB = 10**6


def main() -> int:
    """Run all of it and return the exit status."""
    started = time.monotonic()
    print(_machine())
    print(f'{uploads.description()}, sent by {load.SENDER}\n')
    print(_ROW.format('what', 'ours', 'limit', 'ratio', 'peak MB'))
    print(_ROW.format(*('-' * width for width in _WIDTHS)), flush=True)
    # What is deleted slows down what ext4 creates in the next minutes, so that
    # all of it is deleted at the end.
    with tempfile.TemporaryDirectory(prefix='bench-') as name:
        directory = Path(name)
        for part in (_endpoint, _writer, _stations, _backlog):
            part(directory)
    print(f'\n{time.monotonic() - started:.0f} s in all')
    return 0


def _machine() -> str:
    model = re.search(r'model name\s*: (.*)', Path('/proc/cpuinfo').read_text())
    kind = model[1] if model else platform.machine()
    return (
        f'{os.cpu_count()} x {kind}, {platform.platform()}, '
        f'Python {platform.python_version()}'
    )


def _endpoint(directory: Path) -> None:
    rounds = [uploads.bodies_of_batches(420, 1 + 420 * n) for n in range(9)]
    _show_endpoint('100 events', endpoint.measure(directory / 'batches', rounds, 100))
    rounds = [uploads.bodies_of_events(2100, 1 + 2100 * n) for n in range(9)]
    _show_endpoint('1 event', endpoint.measure(directory / 'events', rounds, 1))


def _show_endpoint(what: str, measured: endpoint.Measured) -> None:
    ours, bare, peak = measured
    _show(f'uploads of {what} /s', ours.per_second, bare.per_second, peak)
    _show_times('  latency in ms, 99th percentile and median', ours.p99, ours.median)


def _writer(directory: Path) -> None:
    configfile = endpoint.configure(directory / 'writer')
    data_dir = configfile.parent / 'data'
    writer.grow(configfile, 50 * _MB)
    hundreds = writer.sweep(configfile, [Round(400, 100)] * 3, first=200_000)
    _show_swept('events stored /s, of batches of 100', hundreds, data_dir)
    singles = writer.sweep(configfile, [Round(8000, 1)] * 3, first=300_000)
    _show_swept('events stored /s, of batches of 1', singles, data_dir)
    size, content = archive.size_of_file(data_dir)
    _show_times(
        '  MB of the day file, and of rows and blobs', size / _MB, content / _MB
    )
    _growth(configfile, endpoint.configure(directory / 'small'))


def _growth(configfile: Path, small_configfile: Path) -> None:
    writer.grow(configfile, 500 * _MB)
    writer.grow(small_configfile, 1 * _MB)
    large: list[Swept] = []
    small: list[Swept] = []
    # The first sweep reads which events the file has, once for a writer.
    rounds = [Round(1, 100), Round(30, 100)]
    # In turn, as the machine may be another one in a minute.
    for number in range(5):
        for sweeps, which in ((large, configfile), (small, small_configfile)):
            _, measured = writer.sweep(which, rounds, first=400_000 + 100 * number)
            sweeps.append(measured)
    _show_times(
        'us an event, into a file of 500 MB and of 1 MB', _cost(large), _cost(small)
    )


def _show_swept(what: str, sweeps: list[Swept], directory: Path) -> None:
    swept = sorted(sweeps, key=Swept.cost)[len(sweeps) // 2]
    raw = writer.raw_write(directory, swept.size)
    peak = max(each.peak for each in sweeps)
    _show(what, swept.per_second(), swept.events / raw, peak)


def _cost(sweeps: list[Swept]) -> float:
    return statistics.median(each.cost() for each in sweeps)


def _stations(directory: Path) -> None:
    events = 50
    configfile = endpoint.configure(directory / 'one')
    _, *ones = writer.sweep(configfile, [Round(1, events)] * 21, first=1)
    one = _cost(ones)
    configfile = endpoint.configure(directory / 'many')
    every = Round(1, events, stations=2000)
    created, many = writer.sweep(configfile, [every, every], first=1)
    what = 'us an event, of 2,000 stations and of 1'
    _show_times(what, many.cost(), one, many.peak)
    what = '  memory in MB, after 200,000 events and 100,000'
    _show_times(what, many.memory, created.memory)


def _backlog(directory: Path) -> None:
    configfile = endpoint.configure(directory / 'backlog')
    few, many = writer.sweep(
        configfile, [Round(10, 1), Round(200, 1, stations=500)], first=1
    )
    what = 'us an event, of 100,000 batches and of 10'
    _show_times(what, many.cost(), few.cost(), many.peak)


def _show(what: str, ours: float, limit: float, peak: float) -> None:
    print(
        _ROW.format(
            what, f'{ours:,.0f}', f'{limit:,.0f}', f'{ours / limit:.1%}', f'{peak:.0f}'
        ),
        flush=True,
    )


def _show_times(what: str, one: float, other: float, peak: float | None = None) -> None:
    """Show two figures of ours, and how many times the other the one is."""
    memory = '' if peak is None else f'{peak:.0f}'
    print(
        _ROW.format(
            what, f'{one:,.1f}', f'{other:,.1f}', f'x {one / other:.2f}', memory
        ),
        flush=True,
    )


if __name__ == '__main__':
    sys.exit(main())
