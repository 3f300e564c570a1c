"""How long and how large things are, as people read it."""

_UNITS = ((86400, 'days'), (3600, 'h'), (60, 'min'))  # s


def duration(seconds: float) -> str:
    """Return about how long that is: `3 s`, `12 min`, `5 h`, `9 days`."""
    for length, unit in _UNITS:
        if seconds >= 2 * length:
            return f'{seconds / length:.0f} {unit}'
    return f'{seconds:.0f} s'


def size(count: float) -> str:
    """Return about how many bytes that is: `4 bytes`, `1.5 GiB`."""
    if count < 1024:
        return f'{count:.0f} bytes'
    for unit in ('KiB', 'MiB', 'GiB'):
        count /= 1024
        if count < 1024:
            return f'{count:.1f} {unit}'
    return f'{count / 1024:.1f} TiB'
