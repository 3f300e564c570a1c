"""`python -m bench`: prints the table of bench/README.md."""

import platform
import sys
import tempfile
import time
from pathlib import Path

from bench import endpoint, uploads, writer

ROW = '| {:<44} | {:>10} | {:>10} | {:>6} | {:>8} |'


def main() -> int:
    """Run all of it and return the exit status."""
    started = time.monotonic()
    what, _ = uploads.batch_of_100()
    print(f'{platform.platform()}, {platform.python_version()}; {what}\n')
    print(ROW.format('what', 'ours', 'limit', 'ratio', 'peak MB'))
    print(ROW.format(*('-' * width for width in (44, 10, 10, 6, 8))), flush=True)
    with tempfile.TemporaryDirectory(prefix='bench-') as name:
        directory = Path(name)
        _endpoint(directory)
        _writer(directory)
    print(f'\n{time.monotonic() - started:.0f} s in all')
    return 0


def _endpoint(directory: Path) -> None:
    rounds = [uploads.bodies_of_batches(300, 1 + 300 * n) for n in range(3)]
    _show_endpoint('100 events', endpoint.measure(directory / 'batches', rounds))
    rounds = [uploads.bodies_of_events(2000, 1 + 2000 * n) for n in range(3)]
    _show_endpoint('1 event', endpoint.measure(directory / 'events', rounds))


def _show_endpoint(what: str, measured: endpoint.Measured) -> None:
    ours, bare, peak = measured
    _show(f'uploads of {what} /s', ours.per_second, bare.per_second, peak)
    print(
        ROW.format(
            f'  latency: median {ours.median:.1f} ms, p99 {ours.p99:.1f} ms',
            '',
            '',
            f'x{ours.p99 / ours.median:.1f}',
            '',
        ),
        flush=True,
    )


def _writer(directory: Path) -> None:
    configfile = endpoint.configure(directory / 'writer')
    data_dir = configfile.parent / 'data'
    writer.sweep(configfile, batches=1200, size=100, first=1)
    (path,) = data_dir.glob('[0-9]*/[0-9]*/*/station_*.h5')
    size = path.stat().st_size
    print(ROW.format(f'  the day file is {size / 1e6:.0f} MB now', '', '', '', ''))
    swept = writer.sweep(configfile, batches=400, size=100, first=2000)
    _show('events stored /s, of batches of 100', *swept)
    swept = writer.sweep(configfile, batches=8000, size=1, first=10_000)
    _show('events stored /s, of batches of 1', *swept)


def _show(what: str, ours: float, limit: float, peak: float) -> None:
    print(
        ROW.format(
            what, f'{ours:,.0f}', f'{limit:,.0f}', f'{ours / limit:.1%}', f'{peak:.0f}'
        ),
        flush=True,
    )


if __name__ == '__main__':
    sys.exit(main())
