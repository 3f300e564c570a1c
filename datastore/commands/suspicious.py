"""`datastore suspicious`: what is kept for a person, and what becomes of it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

from datastore.commands.options import (
    CommandError,
    add_config,
    add_json,
    add_station_and_days,
    check_data_dir,
    check_owner,
    iso,
    moment,
    pick,
    print_json,
    print_table,
    printable,
    utc,
    whole_number,
)
from datastore.config import Config, read_config
from datastore.decisions import Decisions, OthersDecide
from datastore.selection import ALL, Selection, Summary, id_of, summaries
from datastore.suspicious import DocumentError, Documents, Kept

if TYPE_CHECKING:
    # It imports numpy, which takes a while; functions that need it do so.
    from datastore.review import Outcome, Review

_REASONS_SHOWN = 2  # of a file, in a line of the list
_LONGEST_VALUE = 60  # characters of a value that are shown

_HELD_SHOWN = 5  # events of a file that cannot be released

_HINT = 'datastore suspicious list'


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `suspicious` to the commands of the command line."""
    parser = commands.add_parser(
        'suspicious',
        help='look at suspicious events; have them stored, or discard them',
        description=(
            'Look after the suspicious events: what the endpoint or the writer '
            'flagged and kept for a person.'
        ),
    )
    actions = parser.add_subparsers(metavar='ACTION', required=True)
    _add_list(actions)
    _add_show(actions)
    _add_release(actions)
    _add_discard(actions)
    _add_restore(actions)


def _add_list(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        'list',
        help='list the files, or the decisions that were made',
        description=(
            'List the files with suspicious events, the last one last. Reasons '
            'that differ in their numbers alone are counted together, and the '
            'first is shown. Exit status 1 if a file cannot be read.'
        ),
    )
    _add_filters(parser)
    parser.add_argument(
        '--limit', type=whole_number, metavar='N', help='only the last N'
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        '--discarded', action='store_true', help='list what was discarded'
    )
    which.add_argument(
        '--decisions', action='store_true', help='list what was decided, and by whom'
    )
    add_config(parser)
    add_json(parser)
    parser.set_defaults(run=lambda arguments: _list(parser, arguments))


def _add_show(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        'show',
        help='print the events of a file',
        description='Print the events of a file, each with the reasons.',
    )
    parser.add_argument('id', metavar='ID', help='as `list` gives it, or how it starts')
    parser.add_argument(
        '--event', type=whole_number, metavar='N', help='only the Nth event'
    )
    parser.add_argument(
        '--discarded', action='store_true', help='of what was discarded'
    )
    add_config(parser)
    add_json(parser)
    parser.set_defaults(run=_show)


def _add_release(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        'release',
        help='have events stored in spite of the flag',
        description=(
            'Put events into the spool, from which the writer stores them. What '
            'the archive holds already, or what is released twice, is stored '
            'once. What can never become a row stays kept. Exit status 1 if '
            'anything that was asked for could not be done.'
        ),
    )
    _add_choice(parser)

    def act(review: Review, name: str, arguments: argparse.Namespace) -> Outcome:
        return review.release(name, _selection(arguments), arguments.pretend)

    parser.set_defaults(
        run=lambda arguments: _decide(parser, arguments, act, 'release')
    )


def _add_discard(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        'discard',
        help='set events aside; `restore` brings them back',
        description=(
            'Move events to suspicious/discarded/, from where `restore` brings '
            'them back. With --purge they are deleted for good.'
        ),
    )
    _add_choice(parser)
    parser.add_argument(
        '--purge', action='store_true', help='delete them for good instead'
    )
    parser.add_argument(
        '--discarded',
        action='store_true',
        help='with --purge: of what was discarded before',
    )

    def act(review: Review, name: str, arguments: argparse.Namespace) -> Outcome:
        selection, pretend = _selection(arguments), arguments.pretend
        if not arguments.purge:
            return review.discard(name, selection, pretend)
        return review.purge(_directory(review, arguments), name, selection, pretend)

    def run(arguments: argparse.Namespace) -> int:
        if arguments.discarded and not arguments.purge:
            parser.error('--discarded goes with --purge; what is there is discarded')
        verb = 'purge' if arguments.purge else 'discard'
        return _decide(parser, arguments, act, verb)

    parser.set_defaults(run=run)


def _add_restore(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        'restore',
        help='bring discarded events back',
        description='Move discarded events back to where they can be released.',
    )
    _add_choice(parser)

    def act(review: Review, name: str, arguments: argparse.Namespace) -> Outcome:
        return review.restore(name, _selection(arguments), arguments.pretend)

    parser.set_defaults(
        run=lambda arguments: _decide(parser, arguments, act, 'restore'),
        discarded=True,
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    filters = add_station_and_days(
        parser,
        'Only events that pass them all.',
        "of this day and later, by the event's own date",
        'of this day and earlier',
    )
    filters.add_argument(
        '--received-since',
        type=moment,
        metavar='TIME',
        help='that arrived then or later, in UTC: 2026-11-21 or 2026-11-21T14:30',
    )
    filters.add_argument(
        '--reason', metavar='TEXT', help='with a reason that holds this text'
    )


def _add_choice(parser: argparse.ArgumentParser) -> None:
    """Add what names the events to decide about, and whether to do it."""
    parser.add_argument(
        'ids',
        nargs='*',
        metavar='ID',
        help='as `list` gives it, or how it starts; with filters, what passes them',
    )
    _add_filters(parser)
    parser.add_argument('--all', action='store_true', help='every file')
    parser.add_argument(
        '--dry-run',
        dest='pretend',
        action='store_true',
        help='say what would be done, and do nothing',
    )
    parser.add_argument(
        '--yes',
        action='store_true',
        help='do it; needed where no ID is given',
    )
    add_config(parser)
    add_json(parser)


def _selection(arguments: argparse.Namespace) -> Selection:
    return Selection(
        frozenset(arguments.station or ()),
        arguments.first,
        arguments.last,
        arguments.received_since,
        arguments.reason,
    )


def _list(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    config = read_config(arguments.config)
    if arguments.decisions:
        return _list_decisions(parser, config, arguments)
    documents = _documents(config, arguments.discarded)
    found = list(summaries(documents, _selection(arguments), arguments.limit))
    found.sort(key=lambda summary: (summary.received, summary.name))
    if arguments.json:
        print_json([_summary_as_json(summary) for summary in found])
    elif found:
        header = ('ID', 'received (UTC)', 'events', 'days', 'reasons')
        print_table(header, map(_summary_as_row, found))
        print(_total(found))
    else:
        print(f'No suspicious events in {documents.directory}.')
    return int(any(summary.fault for summary in found))


def _total(found: list[Summary]) -> str:
    text = f'{len(found):,} files, {sum(s.meant for s in found):,} events'
    if unreadable := sum(s.fault is not None for s in found):
        text += f', {unreadable:,} files cannot be read'
    return text


def _summary_as_json(summary: Summary) -> dict[str, Any]:
    if summary.fault:
        return {'id': id_of(summary.name), 'fault': summary.fault}
    return {
        'id': id_of(summary.name),
        'station': summary.station,
        'cluster': summary.cluster,
        'received': iso(summary.received // 10**9),
        'events': summary.meant,
        'events_in_file': summary.events,
        'first': summary.first and summary.first.isoformat(),
        'last': summary.last and summary.last.isoformat(),
        'reasons': [{'reason': text, 'events': n} for text, n in summary.reasons],
        'fault': None,
    }


def _summary_as_row(summary: Summary) -> tuple[object, ...]:
    name = printable(id_of(summary.name))
    if summary.fault:
        return name, None, None, None, f'CANNOT BE READ: {printable(summary.fault)}'
    meant: object = summary.meant
    if summary.meant < summary.events:
        meant = f'{summary.meant:,} of {summary.events:,}'
    shown = summary.reasons[:_REASONS_SHOWN]
    reasons = [f'{count:,}x {printable(reason)}' for reason, count in shown]
    if more := len(summary.reasons) - len(shown):
        reasons.append(f'and {more} more')
    days = _days(summary.first, summary.last)
    return name, utc(summary.received // 10**9), meant, days, '; '.join(reasons)


def _days(first: date | None, last: date | None) -> str | None:
    if first == last:
        return first.isoformat() if first else None
    return f'{first} to {last}'


def _list_decisions(
    parser: argparse.ArgumentParser, config: Config, arguments: argparse.Namespace
) -> int:
    stations, filters = arguments.station, _selection(arguments)
    if filters._replace(stations=frozenset()) != ALL:
        parser.error('--decisions goes with --station and --limit, no other filter')
    made = Decisions(config.data_dir / 'suspicious').all()
    if stations:
        made = [each for each in made if each.get('station') in stations]
    made = made[-(arguments.limit or 0) :]
    if arguments.json:
        print_json(made)
        return 0
    rows = []
    for each in made:
        reasons = each.get('reasons')
        if isinstance(reasons, dict):
            texts = [f'{n}x {printable(text)}' for text, n in reasons.items()]
            reasons = '; '.join(texts)
        keys = ('when', 'who', 'decision', 'id')
        words = [printable(str(each.get(key))) for key in keys]
        rows.append((*words, each.get('events'), reasons))
    if rows:
        print_table(('when', 'who', 'decision', 'ID', 'events', 'reasons'), rows)
    else:
        print('Nothing has been decided.')
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from datastore.review import sort_releasable

    config = read_config(arguments.config)
    documents = _documents(config, arguments.discarded)
    (name,) = _named([arguments.id], documents, arguments.discarded)
    try:
        document = documents.load(name)
        chosen = dict(enumerate(document.events))
        if arguments.event:
            chosen = {n: k for n, k in chosen.items() if n == arguments.event - 1}
        held = sort_releasable(chosen).held
    except DocumentError as error:
        raise CommandError(f'{documents.directory / name}: {error}') from error
    except FileNotFoundError:
        raise CommandError(f'{id_of(name)} is gone; see: {_HINT}') from None
    if not chosen and arguments.event:
        raise CommandError(
            f'{id_of(name)} has {len(document.events)} events, no event '
            f'{arguments.event}'
        )
    if arguments.json:
        events = [
            {
                'number': position + 1,
                'reasons': list(kept.reasons),
                'cannot_be_released': list(held.get(position, ())),
                'event': kept.encoded,
            }
            for position, kept in chosen.items()
        ]
        print_json(
            {
                'id': id_of(name),
                'station': document.station,
                'cluster': document.cluster,
                'received': iso(document.received // 10**9),
                'events': events,
            }
        )
        return 0
    print(f'{id_of(name)}: station {document.station}', end=', ')
    print(f'cluster {printable(document.cluster)}', end=', ')
    print(f'received {utc(document.received // 10**9)} UTC')
    for position, kept in chosen.items():
        print(f'\nEvent {position + 1} of {len(document.events)}')
        for line in _event_lines(kept, held.get(position, ())):
            print(f'  {line}')
    return 0


def _event_lines(kept: Kept, held: tuple[str, ...]) -> Iterator[str]:
    for reason in kept.reasons:
        yield f'suspicious: {printable(reason)}'
    for reason in held:
        yield f'cannot be released: {printable(reason)}'
    event = kept.event
    header = event.get('header') if isinstance(event, dict) else None
    datalist = event.get('datalist') if isinstance(event, dict) else None
    if not isinstance(header, dict) or not isinstance(datalist, list):
        # Of a form that no event has: as it is stored.
        yield from json.dumps(kept.encoded, indent=1).splitlines()
        return
    values = dict(header)
    for number, entry in enumerate(datalist):
        if isinstance(entry, dict) and entry.keys() == {'data_uploadcode', 'data'}:
            # A code that is sent twice is shown twice.
            values[entry['data_uploadcode'], number] = entry['data']
        else:
            values[f'entry {number + 1}', number] = entry
    for key in event.keys() - {'header', 'datalist'}:
        values[key] = event[key]
    names = [str(key[0] if isinstance(key, tuple) else key) for key in values]
    width = max(map(len, names), default=0)
    for name, value in zip(names, values.values()):
        yield f'{printable(name).ljust(width)}  {_shown(value)}'


def _shown(value: object) -> str:
    """Return a value in one line, long ones abbreviated."""
    text = repr(value) if isinstance(value, str | list | dict) else str(value)
    if len(text) <= _LONGEST_VALUE:
        return text
    what = f'{len(value):,} characters' if isinstance(value, str) else type(value)
    return f'{text[:_LONGEST_VALUE]}... ({what})'


def _decide(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    act: Callable[[Review, str, argparse.Namespace], Outcome],
    verb: str,
) -> int:
    """Do what was asked for, file by file, and say what became of each."""
    from datastore.review import Review

    selection = _selection(arguments)
    if arguments.all and arguments.ids:
        parser.error('name IDs or give --all, not both')
    if not (arguments.ids or arguments.all or selection != ALL):
        parser.error('name an ID, or give a filter, or --all')
    config = read_config(arguments.config)
    check_data_dir(config)
    check_owner(config.data_dir)
    asked = bool(arguments.ids or arguments.yes or arguments.pretend)
    arguments.pretend = arguments.pretend or not asked
    review = Review(config.data_dir)
    try:
        with review.alone():
            outcomes = _outcomes(review, arguments, act, selection)
    except OthersDecide as error:
        raise CommandError(str(error)) from error

    if arguments.json:
        documents = [_outcome_as_json(outcome) for outcome in outcomes]
        action = {'action': verb, 'done': not arguments.pretend}
        print_json(action | {'documents': documents})
    else:
        for outcome in outcomes:
            for line in _outcome_lines(outcome, verb, arguments.pretend):
                print(line)
        print(_conclusion(outcomes, verb, arguments.pretend))
    sys.stdout.flush()
    for outcome in outcomes:
        if outcome.fault:
            name = printable(id_of(outcome.name))
            print(f'datastore: {name}: {outcome.fault}', file=sys.stderr)
    if not asked and outcomes:
        print(
            f'datastore: nothing was done; to {verb} these, add --yes', file=sys.stderr
        )
    failed = any(outcome.fault or outcome.held for outcome in outcomes)
    return int(failed or (not asked and bool(outcomes)))


def _outcomes(
    review: Review,
    arguments: argparse.Namespace,
    act: Callable[[Review, str, argparse.Namespace], Outcome],
    selection: Selection,
) -> list[Outcome]:
    """Act on each file; those without an event that is meant are left out."""
    from datastore.review import Outcome

    documents = _directory(review, arguments)
    if arguments.ids:
        discarded = documents is review.suspicious.discarded
        names = _named(arguments.ids, documents, discarded)
    else:
        names = [name for name in documents.names() if selection.may_take(name)]
    outcomes = []
    for name in names:
        try:
            outcome = act(review, name, arguments)
        except FileNotFoundError:
            outcome = Outcome(name, fault='it is gone')
        except DocumentError as error:
            outcome = Outcome(name, fault=str(error))
        except OSError as error:
            outcome = Outcome(name, fault=error.strerror or str(error))
        if outcome.fault or outcome.held or outcome.events or arguments.ids:
            outcomes.append(outcome)
    return outcomes


_DONE = {
    'release': 'released',
    'discard': 'discarded',
    'purge': 'deleted for good',
    'restore': 'restored',
}


def _outcome_lines(outcome: Outcome, verb: str, pretend: bool) -> Iterator[str]:
    name = printable(id_of(outcome.name))
    if outcome.fault:
        return  # said on stderr
    would = 'would be ' if pretend else ''
    yield f'{name}  {outcome.events:,} events {would}{_DONE[verb]}'
    if outcome.new_name and outcome.new_name != outcome.name:
        yield f'  as {id_of(outcome.new_name)}'
    if outcome.unknown_codes:
        codes = ', '.join(f'{code!r:.40}' for code in outcome.unknown_codes[:10])
        yield f'  not archived, as no column takes them: the values of {codes}'
    for position, reasons in outcome.held[:_HELD_SHOWN]:
        because = '; '.join(map(printable, reasons))
        yield f'  event {position + 1} cannot be released: {because}'
    if len(outcome.held) > _HELD_SHOWN:
        yield f'  nor can {len(outcome.held) - _HELD_SHOWN:,} more'
    if outcome.kept_as not in (None, outcome.name):
        yield f'  the others stay kept as {id_of(outcome.kept_as or "")}'


def _conclusion(outcomes: list[Outcome], verb: str, pretend: bool) -> str:
    events = sum(outcome.events for outcome in outcomes)
    files = sum(outcome.events > 0 for outcome in outcomes)
    would = 'would be ' if pretend else ''
    text = f'{events:,} events of {files:,} files {would}{_DONE[verb]}'
    if held := sum(len(outcome.held) for outcome in outcomes):
        text += f', {held:,} cannot be'
    if pretend or not events:
        return text
    if verb == 'release':
        return f'{text}; the writer stores them at its next sweep'
    if verb == 'discard':
        return f'{text}; `datastore suspicious restore` brings them back'
    return text


def _outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        'id': id_of(outcome.name),
        'events': outcome.events,
        'spooled_as': outcome.spooled_as,
        'new_id': outcome.new_name and id_of(outcome.new_name),
        'kept_as': outcome.kept_as and id_of(outcome.kept_as),
        'held': [
            {'number': position + 1, 'reasons': list(reasons)}
            for position, reasons in outcome.held
        ],
        'unknown_codes': list(outcome.unknown_codes),
        'fault': outcome.fault,
    }


def _directory(review: Review, arguments: argparse.Namespace) -> Documents:
    discarded = getattr(arguments, 'discarded', False)
    return review.suspicious.discarded if discarded else review.suspicious


def _documents(config: Config, discarded: bool) -> Documents:
    """Return the documents to read, without making a directory."""
    check_data_dir(config)
    directory = config.data_dir / 'suspicious'
    if discarded:
        directory /= 'discarded'
    return Documents(directory, config.data_dir / 'tmp')


def _named(ids: list[str], documents: Documents, discarded: bool) -> list[str]:
    """Return the files that IDs, or their beginnings, name, each once."""
    names = {id_of(name): name for name in documents.names()}
    hint = f'{_HINT} --discarded' if discarded else _HINT
    ids = [id_of(text) for text in ids]  # a shell completes it to a file's name
    for text in ids:
        # How the only file of a station starts, today; tomorrow there are more.
        if text.isdigit() and text not in names:
            raise CommandError(
                f'{text} is a station rather than an ID; see: {hint} --station {text}'
            )
    return [names[known] for known in pick(ids, list(names), hint)]
