"""All faults, in the order of the table."""

from chaos.faults import (
    calls,
    followers,
    full_disk,
    io_errors,
    kills,
    power,
    resends,
)

FAULTS = {
    fault.name: fault
    for module in (kills, calls, full_disk, io_errors, power, followers, resends)
    for fault in module.FAULTS
}
