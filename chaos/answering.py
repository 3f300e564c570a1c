"""The loop of a process that reads files for another one.

Each line of standard input is the path of a file; each answer on standard
output is a pickle, preceded by its length as 8 bytes, of what was read, or of
the text that says why the file cannot be read.
"""

import os
import pickle
import struct
import sys
from collections.abc import Callable


def answer_with(read: Callable[[str], object]) -> None:
    """Answer until standard input ends; `read` raises whatever goes wrong."""
    output = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)  # whatever else is printed is no answer
    for line in sys.stdin:
        answer: object
        try:
            answer = read(line.rstrip('\n'))
        except Exception as error:
            # Nothing narrower: the libraries raise all kinds.
            answer = f'{type(error).__name__}: {error}'
        pickled = pickle.dumps(answer)
        output.write(struct.pack('<Q', len(pickled)) + pickled)
        output.flush()
