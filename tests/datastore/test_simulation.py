"""The simulated events are those of a station: well-formed, distinct and true."""

import base64
import itertools
import math
import re
import statistics
import zlib
from collections import Counter
from datetime import date, datetime, time, timedelta

import numpy as np
import pytest

from datastore import simulation
from datastore.simulation import Simulation

START = datetime(2024, 5, 3, 11, 58)


def codes(prefix, names):
    return {prefix + name for name in names.split()}


CHANNELS = [f'{board}_CH{n}' for board in ('MAS', 'SLV') for n in (1, 2)]

# The dtypes of the archive's columns, by upload code; the first that matches.
DTYPES = [
    (r'RED|CFG_(TRIGANDOR|USEFILTER|USEFILTTHRES|REDUCE|STARTMODE|..._RESET)', 'bool'),
    (r'(BL|STDDEV|NP|PH)[1-4]', 'int16'),
    (r'IN[1-4]|(MAS|SLV)_CH[12]_(LOW|HIGH)', 'int32'),
    (r'TR[1-4]|CFG_(MAS_VERSION|SLV_VERSION|PASSWORD|BUFFER)', 'text'),
    (r'TRIGPATTERN|CFG_TRIG(LOWSIG|HIGHSIG|EXT)', 'uint32'),
    (r'WTR_(HUMIDITY_.*|WIND_DIR|WIND_SPEED|SOLAR_RAD|UV|HEAT_INDEX)', 'int16'),
    (r'EVENTRATE|WTR_.*', 'float32'),
    (r'CFG_DETNUM', 'uint16'),
    (r'CFG_SPAREBYTES|CFG_..._(CH[12](GAIN|OFF)(POS|NEG)|COMMOFF|INTVOLTAGE)', 'uint8'),
    (r'CFG_.*', 'float64'),
]
CIC_CODES = {'RED', 'EVENTRATE', 'TRIGPATTERN'} | {
    f'{code}{detector}'
    for code in ('BL', 'STDDEV', 'NP', 'PH', 'IN')
    for detector in (1, 2, 3, 4)
}
SIN_CODES = {f'{channel}_{level}' for channel in CHANNELS for level in ('LOW', 'HIGH')}
WTR_CODES = codes(
    'WTR_',
    """TEMP_INSIDE TEMP_OUTSIDE HUMIDITY_INSIDE HUMIDITY_OUTSIDE BAROMETER WIND_DIR
    WIND_SPEED SOLAR_RAD UV ET RAIN_RATE HEAT_INDEX DEW_POINT WIND_CHILL""",
)
CFG_CODES = codes(
    'CFG_',
    """GPS_LAT GPS_LONG GPS_ALT MAS_VERSION SLV_VERSION TRIGLOWSIG TRIGHIGHSIG TRIGEXT
    TRIGANDOR PRECTIME CTIME POSTCTIME DETNUM PASSWORD SPAREBYTES USEFILTER
    USEFILTTHRES REDUCE BUFFER STARTMODE DELAYSCREEN DELAYCHECK DELAYERROR""",
).union(
    *(
        codes(
            f'CFG_{board}_', 'COMPTHRLOW COMPTHRHIGH MAXVOLT RESET COMMOFF INTVOLTAGE'
        )
        for board in ('MAS', 'SLV')
    ),
    *(
        codes(
            f'CFG_{channel}',
            """THRLOW THRHIGH INTTIME VOLT CURR GAINPOS GAINNEG OFFPOS OFFNEG ADCGAIN
            ADCOFF COMPGAIN COMPOFF""",
        )
        for channel in CHANNELS
    ),
)


def event_type(event):
    return event['header']['eventtype_uploadcode']


def values_of(event):
    return {entry['data_uploadcode']: entry['data'] for entry in event['datalist']}


def moment_of(event):
    """Return whole ns since START."""
    since = event['header']['datetime'] - START
    return since // timedelta(seconds=1) * 10**9 + event['header']['nanoseconds']


def decode(trace):
    return [int(adc) for adc in zlib.decompress(base64.b64decode(trace)).split(b',')]


@pytest.fixture(scope='module', params=[2, 4], ids=['two detectors', 'four detectors'])
def detectors(request):
    return request.param


@pytest.fixture(scope='module')
def events(detectors):
    return Simulation(START, detectors=detectors, seed=510).take(300)


@pytest.fixture(scope='module')
def values(events):
    """The values of every event, by event type."""
    by_type = {'CFG': [], 'CIC': [], 'SIN': [], 'WTR': []}
    for event in events:
        by_type[event_type(event)].append(values_of(event))
    return by_type


@pytest.fixture(scope='module')
def showers(values, detectors):
    """The values of every air shower, with its decoded traces."""
    return [
        (shower, [decode(shower[f'TR{n}']) for n in range(1, detectors + 1)])
        for shower in values['CIC']
    ]


def test_every_type_comes_and_the_configuration_comes_once_and_first(events):
    counts = Counter(map(event_type, events))

    assert event_type(events[0]) == 'CFG'
    assert counts['CFG'] == 1
    assert min(counts['CIC'], counts['SIN']) > 50
    assert counts['WTR'] > 5


def test_about_one_event_a_second(events):
    assert 0.7 < len(events) / (moment_of(events[-1]) / 1e9) < 1.4


def test_headers_agree_on_date_and_time(events):
    for event in events:
        header = event['header']
        moment = header['datetime']

        assert set(event) == {'header', 'datalist'}
        assert moment.tzinfo is None and moment.microsecond == 0
        assert date.fromisoformat(header['date']) == moment.date()
        assert time.fromisoformat(header['time']) == moment.time()
        assert 0 <= header['nanoseconds'] < 10**9


def test_only_air_showers_have_nanoseconds(events):
    for event in events:
        assert event_type(event) == 'CIC' or event['header']['nanoseconds'] == 0


def test_events_are_distinct_and_in_order_of_time(events):
    moments = [moment_of(event) for event in events]

    assert moments == sorted(moments)
    assert (
        len({(m, event_type(e)) for m, e in zip(moments, events, strict=True)}) == 300
    )


def test_every_upload_code_is_sent_once(events, detectors):
    traces = {f'TR{n}' for n in range(1, detectors + 1)}
    expected = {
        'CIC': CIC_CODES | traces,
        'SIN': SIN_CODES,
        'WTR': WTR_CODES,
        'CFG': CFG_CODES,
    }
    for event in events:
        sent = [entry['data_uploadcode'] for entry in event['datalist']]
        assert len(sent) == len(set(sent))
        assert set(sent) == expected[event_type(event)]


def test_every_value_fits_its_column(events):
    for event in events:
        for code, value in values_of(event).items():
            dtype = next(d for pattern, d in DTYPES if re.fullmatch(pattern, code))
            if dtype == 'text':
                assert type(value) is str and value.isascii()
            elif dtype == 'bool':
                assert type(value) is bool
            elif dtype.startswith('float'):
                assert type(value) is float and math.isfinite(value), code
            else:
                assert type(value) is int, code
                assert np.iinfo(dtype).min <= value <= np.iinfo(dtype).max, code


def test_traces_look_as_recorded_ones_do(showers):
    for shower, traces in showers:
        for n, trace in enumerate(traces, 1):
            packed = base64.b64decode(shower[f'TR{n}'], validate=True)
            assert packed[:2] == b'\x78\x9c'
            assert re.fullmatch(rb'\d+(,\d+)*', zlib.decompress(packed))
            assert min(trace) >= 0 and max(trace) < 4096
        assert len({len(trace) for trace in traces}) == 1
        assert 80 <= len(traces[0]) <= 1000


def test_baseline_and_its_deviation_are_those_of_the_leading_samples(showers):
    for shower, traces in showers:
        for n, trace in enumerate(traces, 1):
            assert shower[f'BL{n}'] == round(statistics.mean(trace[:26]))
            deviation = 1000 * statistics.pstdev(trace[:26])
            assert shower[f'STDDEV{n}'] == pytest.approx(deviation, abs=0.51)


def test_pulse_height_and_integral_are_those_of_the_trace(showers):
    for shower, traces in showers:
        for n, trace in enumerate(traces, 1):
            signal = [adc - shower[f'BL{n}'] for adc in trace]
            assert shower[f'PH{n}'] == max(signal)
            assert shower[f'IN{n}'] == sum(adc for adc in signal if adc > 17)


def turning_points(levels):
    """Return the levels without those passed on the way up or down."""
    distinct = [level for level, _ in itertools.groupby(levels)]
    inner = zip(distinct, distinct[1:], distinct[2:], strict=False)
    turns = [b for a, b, c in inner if (a < b) != (b < c)]
    return distinct[:1] + turns + distinct[1:][-1:]


def peaks_left_without_small_swings(signal):
    """Count the rises that are left when all swings up to 52 have been taken out."""
    turns = turning_points([0] + [max(adc, 0) for adc in signal])
    while len(turns) > 1:
        swings = [abs(b - a) for a, b in itertools.pairwise(turns)]
        least = swings.index(min(swings))
        if swings[least] > 52:
            break
        at_an_end = least in (0, len(swings) - 1)
        first = least + 1 if least and at_an_end else least
        del turns[first : first + (1 if at_an_end else 2)]
        turns = turning_points(turns)
    return sum(b > a for a, b in itertools.pairwise(turns))


def test_number_of_peaks_is_that_of_the_trace(showers):
    counts = Counter()
    for shower, traces in showers:
        for n, trace in enumerate(traces, 1):
            signal = [adc - shower[f'BL{n}'] for adc in trace]
            assert shower[f'NP{n}'] == peaks_left_without_small_swings(signal)
            counts[shower[f'NP{n}']] += 1
    assert counts[2] > 0


@pytest.mark.parametrize(
    ('signal', 'peaks'),
    [
        pytest.param([0] * 20, 0, id='nothing'),
        pytest.param([0, 52, 0], 0, id='up to the threshold'),
        pytest.param([0, 53], 1, id='just over, and cut off'),
        pytest.param([0, 200, 148, 200, 0], 1, id='too shallow a dip'),
        pytest.param([0, 200, 147, 200, 0], 2, id='a dip deep enough'),
        pytest.param([0, 200, 147, 199, 0], 1, id='too low a second rise'),
        pytest.param([-60, 40, -60], 0, id='below the baseline does not count'),
        pytest.param([0, 100, 0, 100, 0, 100], 3, id='three'),
    ],
)
def test_peaks_are_rises_with_falls_between(signal, peaks):
    traces = np.array([[30] * 26 + [30 + adc for adc in signal]])

    assert peaks_left_without_small_swings(signal) == peaks
    assert simulation.observables(traces)['NP1'] == peaks


def test_trigger_pattern_tells_which_detectors_reached_which_threshold(
    showers, detectors
):
    for shower, traces in showers:
        lows = [max(trace) >= 82 for trace in traces]
        highs = [max(trace) >= 150 for trace in traces]
        bits = shower['TRIGPATTERN']

        assert [bool(bits & 1 << 2 * n) for n in range(4)][:detectors] == lows
        assert [bool(bits & 2 << 2 * n) for n in range(4)][:detectors] == highs
        assert bits >> 2 * detectors == (0b110 if detectors == 4 else 0b100000)
        assert sum(lows) >= 2 if detectors == 2 else sum(highs) >= 2 or sum(lows) >= 3


def test_event_rate_is_that_of_the_last_minute(events):
    showers = [event for event in events if event_type(event) == 'CIC']
    moments = [moment_of(shower) for shower in showers]
    for moment, shower in zip(moments, showers, strict=True):
        last_minute = sum(moment - 60 * 10**9 < m <= moment for m in moments)
        assert values_of(shower)['EVENTRATE'] == pytest.approx(last_minute / 60)


def test_missing_detectors_are_minus_one_and_have_no_trace():
    for event in Simulation(START, detectors=2, seed=1).take(100):
        values = values_of(event)
        if event_type(event) == 'CIC':
            missing = [code for code in CIC_CODES if code[-1] in '34']
            assert len(missing) == 10
            assert {values[code] for code in missing} == {-1}
        elif event_type(event) == 'SIN':
            missing = [code for code in SIN_CODES if code.startswith('SLV')]
            assert {values[code] for code in missing} == {-1}


def test_what_crosses_the_high_threshold_crosses_the_low_one(values, detectors):
    for singles in values['SIN']:
        for channel in CHANNELS[:detectors]:
            assert singles[f'{channel}_LOW'] >= singles[f'{channel}_HIGH'] >= 0


def test_weather_varies_slowly_within_what_is_natural():
    weather = simulation.Weather(np.random.default_rng(3))
    hours = [weather.at(START + timedelta(hours=n)) for n in range(0, 8760, 5)]
    minute = [weather.at(START + timedelta(seconds=n)) for n in (0, 60)]
    bounds = {
        'WTR_TEMP_INSIDE': (15, 30),
        'WTR_TEMP_OUTSIDE': (-20, 40),
        'WTR_HUMIDITY_INSIDE': (20, 80),
        'WTR_HUMIDITY_OUTSIDE': (20, 100),
        'WTR_BAROMETER': (950, 1050),
        'WTR_WIND_DIR': (0, 359),
        'WTR_WIND_SPEED': (0, 40),
        'WTR_SOLAR_RAD': (0, 1200),
        'WTR_UV': (0, 12),
        'WTR_ET': (0, 2),
        'WTR_RAIN_RATE': (0, 100),
        'WTR_HEAT_INDEX': (-20, 45),
        'WTR_DEW_POINT': (-30, 30),
        'WTR_WIND_CHILL': (-40, 40),
    }
    for code, (low, high) in bounds.items():
        measured = [hour[code] for hour in hours]
        assert low <= min(measured) < max(measured) <= high, code
        assert abs(minute[1][code] - minute[0][code]) <= (high - low) / 20, code


def test_sun_shines_by_day_only():
    weather = simulation.Weather(np.random.default_rng(3))
    noon, midnight = datetime(2024, 6, 21, 12), datetime(2024, 6, 21)

    assert weather.at(noon)['WTR_SOLAR_RAD'] > 200
    assert weather.at(midnight)['WTR_SOLAR_RAD'] == 0


def test_derived_weather_follows_from_what_is_sent_with_it():
    weather = simulation.Weather(np.random.default_rng(3))
    for n in range(0, 8760, 50):
        sent = weather.at(START + timedelta(hours=n))
        outside, humidity = sent['WTR_TEMP_OUTSIDE'], sent['WTR_HUMIDITY_OUTSIDE']

        # The dew point is where what is in the air now would saturate it.
        pressure = humidity / 100 * math.exp(17.62 * outside / (243.12 + outside))
        dew = sent['WTR_DEW_POINT']
        saturated = math.exp(17.62 * dew / (243.12 + dew))
        assert saturated == pytest.approx(pressure, rel=0.01)
        assert dew <= outside
        assert sent['WTR_WIND_CHILL'] <= outside


@pytest.mark.parametrize(
    ('computed', 'published'),
    [
        pytest.param(simulation.dew_point(20, 50), 9.3, id='dew point'),
        pytest.param(simulation.dew_point(15, 100), 15, id='dew point of fog'),
        pytest.param(simulation.wind_chill(-10, 30 / 3.6), -20, id='wind chill'),
        pytest.param(simulation.wind_chill(-10, 1), -10, id='calm'),
        pytest.param(simulation.wind_chill(11, 10), 11, id='too warm for wind chill'),
        pytest.param(
            simulation.heat_index((90 - 32) / 1.8, 70),
            (106 - 32) / 1.8,
            id='heat index',
        ),
        pytest.param(simulation.heat_index(20, 50), 19.4, id='heat index of no heat'),
    ],
)
def test_weather_formulas_give_the_published_values(computed, published):
    assert computed == pytest.approx(published, abs=0.6)


def test_absent_slave_is_configured_with_zeros():
    configuration = simulation.configuration(2)
    slave = {c: v for c, v in configuration.items() if c.startswith('CFG_SLV')}

    assert not any(v for c, v in slave.items() if c != 'CFG_SLV_VERSION')
    assert slave['CFG_SLV_VERSION'] == 'Hardware: 0 FPGA: 0'


def test_same_seed_makes_the_same_events(detectors, events):
    assert Simulation(START, detectors=detectors, seed=510).take(300) == events


def test_batches_of_any_size_hold_the_same_events(detectors, events):
    again = Simulation(START, detectors=detectors, seed=510)
    cut = again.take(7) + again.until(START + timedelta(seconds=100)) + again.take(40)

    assert cut == events[: len(cut)]
    assert len(cut) > 100


def test_other_seed_or_none_makes_other_events(detectors, events):
    for seed in (511, None):
        other = Simulation(START, detectors=detectors, seed=seed).take(300)
        assert not [event for event in other[1:] if event in events]


def test_events_up_to_now_and_no_later_are_returned():
    run = Simulation(START, seed=1)
    first = run.until(START + timedelta(seconds=30))
    second = run.until(START + timedelta(seconds=60, microseconds=1))

    assert moment_of(first[-1]) <= 30 * 10**9 < moment_of(second[0])
    assert moment_of(second[-1]) <= 60 * 10**9 + 1000 < moment_of(run.take(1)[0])
    assert run.until(START) == []


def test_no_more_events_are_returned_than_asked_for():
    now = START + timedelta(seconds=60)
    run, whole = Simulation(START, seed=1), Simulation(START, seed=1).until(now)

    assert run.until(now, at_most=20) == whole[:20]
    assert run.until(now, at_most=1000) == whole[20:]


@pytest.mark.parametrize('count', [1, 2, 100])
@pytest.mark.parametrize('seed', [5, None])
def test_last_of_the_events_asked_for_is_from_just_before_now(count, seed):
    now = START + timedelta(microseconds=400_000)
    run = Simulation.ending(now, count, seed=seed)
    last = run.take(count)[-1]

    assert now - timedelta(seconds=2) < START + timedelta(
        microseconds=moment_of(last) / 1000
    )
    assert moment_of(last) <= 400_000_000


def test_fraction_of_the_starting_second_is_dropped():
    first = Simulation(START + timedelta(microseconds=999_999)).take(1)[0]

    assert first['header']['datetime'] == START


@pytest.mark.parametrize(
    ('start', 'detectors'),
    [
        pytest.param(START.astimezone(), 4, id='time zone'),
        pytest.param(START, 3, id='three detectors'),
    ],
)
def test_impossible_station_raises_value_error(start, detectors):
    with pytest.raises(ValueError):
        Simulation(start, detectors=detectors)
