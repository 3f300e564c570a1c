"""Pickles event lists as Python 2 does, byte for byte like its cPickle.

Most stations in the field are written in Python 2 and pickle with protocol 0.
Python 3 pickles text otherwise, so a simulated station that is to be like them
needs this.

Opcodes: CPython, Lib/pickletools.py.
"""

import struct
from datetime import datetime
from typing import Any

_STATE = struct.Struct('>HBBBBB')
_HEADER = ('date', 'nanoseconds', 'datetime', 'time', 'eventtype_uploadcode')


def pickled_as_python_2(event_list: list[dict[str, Any]]) -> bytes:
    """Return the pickle of an event list, protocol 0.

    Its text must be latin-1: byte strings, as Python 2 has them.  The keys of
    an event's dicts are one object where they are the same text, as they are
    after a station has read the event back from its own database.
    """
    pickler = _Pickler()
    pickler.start('l')
    for event in event_list:
        pickler.keys.clear()
        pickler.save(event)
        pickler.write('a')
    return b''.join(pickler.pieces) + b'.'


def in_python_2_order(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event with its keys in the order of Python 2's dicts."""
    entries = [
        {key: entry[key] for key in ('data_uploadcode', 'data')}
        for entry in event['datalist']
    ]
    header = {key: event['header'][key] for key in _HEADER if key in event['header']}
    return {'datalist': entries, 'header': header}


class _Pickler:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.keys: dict[str, int] = {}
        self._numbers = 0
        self._datetime: int | None = None

    def write(self, text: str) -> None:
        self.pieces.append(text.encode('latin-1'))

    def start(self, kind: str) -> None:
        self.write(f'({kind}')
        self._put()

    def _put(self) -> int:
        number = self._numbers
        self._numbers += 1
        self.write(f'p{number}\n')
        return number

    def save(self, item: Any) -> None:
        if isinstance(item, dict):
            self.start('d')
            for key, value in item.items():
                self._save_key(key)
                self.save(value)
                self.write('s')
        elif isinstance(item, list):
            self.start('l')
            for value in item:
                self.save(value)
                self.write('a')
        elif isinstance(item, datetime):
            self._save_datetime(item)
        elif isinstance(item, str):
            self._save_text(item)
        elif item is None:
            self.write('N')
        elif isinstance(item, bool):
            self.write(f'I{item:02}\n')
        elif isinstance(item, int):
            self.write(f'I{item}\n')
        else:
            self.write(f'F{item!r}\n')

    def _save_text(self, text: str) -> int:
        # The repr of these bytes is what Python 2 shows of its str.
        self.write(f'S{text.encode("latin-1")!r}\n'.replace('Sb', 'S', 1))
        return self._put()

    def _save_key(self, key: str) -> None:
        if key in self.keys:
            self.write(f'g{self.keys[key]}\n')
        else:
            self.keys[key] = self._save_text(key)

    def _save_datetime(self, moment: datetime) -> None:
        if self._datetime is None:
            self.write('cdatetime\ndatetime\n')
            self._datetime = self._put()
        else:
            self.write(f'g{self._datetime}\n')
        state = _STATE.pack(*moment.timetuple()[:6])
        state += moment.microsecond.to_bytes(3, 'big')
        self.write('(')
        self._save_text(state.decode('latin-1'))
        self.write('t')
        self._put()
        self.write('R')
        self._put()
