"""Stations that send everything twice, and again in other batches and orders."""

from chaos.bench import Bench
from chaos.fault import Fault, repeat
from chaos.load import Load


def resend(bench: Bench) -> None:
    """Upload everything several times while the writer sweeps."""
    bench.start_uwsgi()
    bench.start_writer()
    load = Load(bench, resends=True)
    bench.run.pause(5 if bench.run.long else 1.5)
    load.finish()
    bench.drain()


def resend_later(bench: Bench) -> None:
    """Upload everything several times before the writer sweeps once."""
    bench.start_uwsgi()
    load = Load(bench, resends=True)
    bench.run.pause(3 if bench.run.long else 0.7)
    load.finish()
    bench.drain()


FAULTS = (
    Fault(
        'resend',
        'Everything is uploaded twice, and again in other cuts and orders.',
        lambda run: [
            *repeat(run, resend, short=1, long=5),
            *(
                trial._replace(name=f'later-{trial.name}')
                for trial in repeat(run, resend_later, short=1, long=3)
            ),
        ],
    ),
)
