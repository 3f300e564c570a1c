"""Prints, as JSON, what SAPPHiRE makes of one station's events in a file.

A program, because SAPPHiRE uses PyTables, and h5py and PyTables may not share
a process.  Arguments: the file, the station's group, and a file for results.
"""

import json
import sys

import tables
from sapphire.analysis.process_events import (
    ProcessEventsFromSource,
    ProcessSinglesFromSource,
    ProcessWeatherFromSource,
)

source, group, results = sys.argv[1:]
with tables.open_file(source) as data, tables.open_file(results, 'w') as out:
    for process in (
        ProcessEventsFromSource,
        ProcessSinglesFromSource,
        ProcessWeatherFromSource,
    ):
        process(data, out, group, '/s', progress=False).process_and_store_results()
    counts = {table.name: len(table) for table in out.walk_nodes('/s', 'Table')}
    events = out.root.s.events
    timed = sum(any(t >= 0 for t in (e['t1'], e['t2'])) for e in events)
print(json.dumps({'counts': counts, 'events with arrival times': timed}))
