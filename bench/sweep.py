"""One sweep of a writer, timed: `python -m bench.sweep CONFIG`.

A program, so that its peak memory is its own.  Prints, as JSON, the seconds
that the sweep took, without the start of Python, and the peak memory in MB.
"""

import json
import resource
import sys
import time

from writer.writer_app import writer

started = time.perf_counter()
writer(sys.argv[1], once=True)
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({'seconds': seconds, 'peak': peak}))
