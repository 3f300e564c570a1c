"""Makes up the events of a station: air showers, singles, weather, configuration.

The events have the form stations upload them in, `{'header': {...},
'datalist': [{'data_uploadcode': 'PH1', 'data': 12}, ...]}`, with values as
plain Python numbers and text.  The station is a HiSPARC III, whose baselines
are near 30 ADC counts, with its data reduction switched on: a trace keeps the
samples around the signal, not the whole readout window.

What is derived from a trace is true of the trace that is sent with it, by the
definitions of SAPPHiRE's `process_traces`, which are those of the stations:

    BL      mean of the 26 leading samples, rounded, in ADC counts
    STDDEV  standard deviation of the same samples, in milli ADC counts
    PH      maximum above the baseline, in ADC counts
    IN      sum of the samples more than 17 ADC counts above the baseline,
            less the baseline, in ADC counts x sample
    NP      rises of more than 52 ADC counts, each a peak, with a fall of as
            much between any two

A detector the station does not have reads -1 and has no trace.
"""

import base64
import heapq
import math
import zlib
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

Event = dict[str, Any]  # {'header': {...}, 'datalist': [{...}, ...]}
Traces = NDArray[np.int64]  # ADC counts, one row a detector, one column a sample

SECOND = 10**9  # ns; moments are whole ns since the simulation's start
SINGLES_INTERVAL = 2  # s
WEATHER_INTERVAL = 30  # s
# Showers a second, by number of detectors: about 1,100 an hour with two,
# and as in the recording of station 510 with four.
SHOWER_RATE = {2: 0.3, 4: 0.55}
EVENT_RATE_WINDOW = 60  # s over which a station averages its event rate

ADC_MAX = 4095  # 12 bits
MEAN_BASELINE = 29.5  # ADC counts
NOISE = (1.4, 1.9, 2.3, 1.6)  # ADC counts, of each detector
LEADING_SAMPLES = 26  # kept before the signal; baseline and noise only
PULSE_SAMPLES = 56  # by then a pulse has sunk to a thousandth
RISE_SAMPLES, DECAY_SAMPLES = 4.0, 8.0  # 10 and 20 ns, as 2.5 ns samples
LATE_PULSE_FRACTION = 0.05  # of traces that show a second particle

THRESHOLD_LOW, THRESHOLD_HIGH = 82, 150  # ADC counts, above zero
# The trigger, by number of detectors: so many signals above the low threshold,
# or so many (none: never) above the high one.
TRIGGER_LOW = {2: 2, 4: 3}
TRIGGER_HIGH = {2: 0, 4: 2}
# ADC counts above the baseline; enough for the trigger, whatever the noise.
MIN_PULSEHEIGHT = {2: 75, 4: 150}
MEAN_EXCESS = 100  # ADC counts above that, in a shower of ordinary size
INTEGRAL_THRESHOLD = 17  # ADC counts above the baseline
PEAK_THRESHOLD = 52  # ADC counts; the low threshold above a baseline of 30

# Trigger pattern: two bits a detector, low and high threshold, from bit 0 on.
# Source: HiSPARC firmware documentation, 'Message Structures'.
MASTER_BIT, SLAVE_PRESENT_BIT = 1 << 9, 1 << 10

LATITUDE, LONGITUDE, ALTITUDE = 52.3561, 4.9513, 56.2  # degrees, degrees, m


class Simulation:
    """One station's events, from `start` on, in order of time.

    `start` is naive, as stations' own times are; a fraction of a second is
    dropped.  The first event is the configuration, at `start`; about one a
    second follows.  The same arguments give the same events, however they
    are cut into batches; without a `seed` they are different ones each time.

    Raises ValueError if `start` has a time zone, or `detectors` is not 2 or 4.
    """

    def __init__(
        self, start: datetime, *, detectors: int = 4, seed: int | None = None
    ) -> None:
        if start.tzinfo is not None:
            raise ValueError('start must not have a time zone')
        if detectors not in SHOWER_RATE:
            raise ValueError('a station has 2 or 4 detectors')
        self.start = start.replace(microsecond=0)
        self.detectors = detectors
        # Apart, so that the times can be gone through without the values.
        schedule, values, weather = np.random.SeedSequence(seed).spawn(3)
        self._rng = np.random.default_rng(values)
        self._weather = Weather(np.random.default_rng(weather))
        self._schedule = _schedule(np.random.default_rng(schedule), detectors)
        self._next = next(self._schedule)
        self._showers: deque[int] = deque()  # moments in the event rate's window

    @classmethod
    def ending(
        cls,
        now: datetime,
        count: int,
        *,
        detectors: int = 4,
        seed: int | None = None,
    ) -> 'Simulation':
        """Return the simulation whose event number `count` is the last before `now`.

        That event is less than two seconds old.  Raises ValueError as above.
        """
        if seed is None:
            # Drawn here, because the times are gone through twice.
            seed = int(np.random.default_rng().integers(2**63))
        simulation = cls(now, detectors=detectors, seed=seed)
        for _ in range(count - 1):
            simulation._next = next(simulation._schedule)
        duration = -(-simulation._next[0] // SECOND)  # whole seconds, upwards
        start = now - timedelta(seconds=duration)
        return cls(start, detectors=detectors, seed=seed)

    def take(self, count: int) -> list[Event]:
        """Return the next `count` events."""
        return [self._take() for _ in range(count)]

    def until(self, now: datetime, at_most: int | None = None) -> list[Event]:
        """Return the next events up to `now`, `at_most` so many; there may be none."""
        end = (now - self.start) // timedelta(microseconds=1) * 1000
        events: list[Event] = []
        while self._next[0] <= end and len(events) != at_most:
            events.append(self._take())
        return events

    def _take(self) -> Event:
        moment, event_type = self._next
        self._next = next(self._schedule)
        if event_type == 'CIC':
            values = self._shower(moment)
        elif event_type == 'SIN':
            values = singles(self._rng, self.detectors)
        elif event_type == 'WTR':
            values = self._weather.at(self._datetime(moment))
        else:
            values = configuration(self.detectors)
        return self._event(event_type, moment, values)

    def _shower(self, moment: int) -> dict[str, Any]:
        # The event rate, in Hz, starts near 0 and is settled after a minute.
        self._showers.append(moment)
        while self._showers[0] <= moment - EVENT_RATE_WINDOW * SECOND:
            self._showers.popleft()
        return {
            'RED': True,
            'EVENTRATE': len(self._showers) / EVENT_RATE_WINDOW,
            **observables(make_traces(self._rng, self.detectors)),
        }

    def _datetime(self, moment: int) -> datetime:
        return self.start + timedelta(seconds=moment // SECOND)

    def _event(self, event_type: str, moment: int, values: dict[str, Any]) -> Event:
        second = self._datetime(moment)
        return {
            'header': {
                'eventtype_uploadcode': event_type,
                'datetime': second,
                'nanoseconds': moment % SECOND,
                'date': second.date().isoformat(),
                'time': second.time().isoformat(),
            },
            'datalist': [
                {'data_uploadcode': code, 'data': value}
                for code, value in values.items()
            ],
        }


def _schedule(rng: np.random.Generator, detectors: int) -> Iterator[tuple[int, str]]:
    """Yield moment and event type of every event, without end; no two are alike."""
    yield 0, 'CFG'
    yield from heapq.merge(
        _shower_times(rng, SHOWER_RATE[detectors]),
        _regular_times(SINGLES_INTERVAL, 'SIN'),
        _regular_times(WEATHER_INTERVAL, 'WTR'),
    )


def _shower_times(rng: np.random.Generator, rate: float) -> Iterator[tuple[int, str]]:
    moment = 0
    while True:
        # 10 us at least: a station reads out one shower before the next.
        moment += 10_000 + int(rng.exponential(SECOND / rate))
        yield moment, 'CIC'


def _regular_times(interval: int, event_type: str) -> Iterator[tuple[int, str]]:
    moment = SECOND
    while True:
        yield moment, event_type
        moment += interval * SECOND


def make_traces(rng: np.random.Generator, detectors: int) -> Traces:
    """Return the traces of one air shower, int64[detectors, samples].

    In ADC counts, 0 to 4095, one sample each 2.5 ns.  At least two detectors
    were hit, hard enough for the trigger; the others show noise only.
    """
    hit = rng.permutation(detectors) < 2 + rng.binomial(detectors - 2, 0.1)
    excess = rng.lognormal(0, 0.8) * rng.exponential(MEAN_EXCESS, detectors)
    heights = np.where(hit, MIN_PULSEHEIGHT[detectors] + excess, 0)
    starts = LEADING_SAMPLES + rng.exponential(6, detectors).clip(max=200)
    late = hit & (rng.random(detectors) < LATE_PULSE_FRACTION)
    late_heights = late * rng.exponential(MEAN_EXCESS, detectors)
    late_starts = starts + late * rng.uniform(10, 400, detectors)

    length = math.ceil(late_starts.max()) + PULSE_SAMPLES
    samples = np.arange(length + length % 2)
    adc = rng.normal(MEAN_BASELINE, 1.2, (detectors, 1))
    adc = adc + rng.normal(0, NOISE[:detectors], (samples.size, detectors)).T
    adc += heights[:, None] * _pulse(samples - starts[:, None])
    adc += late_heights[:, None] * _pulse(samples - late_starts[:, None])
    return np.rint(adc).clip(0, ADC_MAX).astype(np.int64)


def _pulse(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a photomultiplier's pulse of height 1, that many samples after its start.

    The difference of two exponentials, which is highest, at 1/4, where
    exp(-t / DECAY_SAMPLES) is 1/2.
    """
    t = samples.clip(min=0)
    return 4 * (np.exp(-t / DECAY_SAMPLES) - np.exp(-t / RISE_SAMPLES))


def observables(traces: Traces) -> dict[str, Any]:
    """Return what a station derives from its traces, and the traces, by upload code.

    TRIGPATTERN, then STDDEV, BL, NP, PH and IN of four detectors, -1 where
    there are fewer, and TR of those there are.  By the definitions above.
    """
    leading = traces[:, :LEADING_SAMPLES]
    baselines = np.rint(leading.mean(axis=1)).astype(np.int64)
    signals = traces - baselines[:, None]
    integrals = np.where(signals > INTEGRAL_THRESHOLD, signals, 0).sum(axis=1)
    per_detector = {
        'STDDEV': np.rint(1000 * leading.std(axis=1)).astype(np.int64).tolist(),
        'BL': baselines.tolist(),
        'NP': [_count_peaks(signal) for signal in signals],
        'PH': signals.max(axis=1).tolist(),
        'IN': integrals.tolist(),
    }
    missing = [-1] * (4 - len(traces))
    values: dict[str, Any] = {'TRIGPATTERN': _trigger_pattern(traces)}
    for code, measured in per_detector.items():
        for detector, value in enumerate(measured + missing, 1):
            values[f'{code}{detector}'] = value
    for detector, trace in enumerate(traces, 1):
        values[f'TR{detector}'] = encode_trace(trace)
    return values


def _trigger_pattern(traces: Traces) -> int:
    pattern = MASTER_BIT
    if len(traces) > 2:
        pattern |= SLAVE_PRESENT_BIT
    for detector, highest in enumerate(traces.max(axis=1).tolist()):
        pattern |= (highest >= THRESHOLD_LOW) << (2 * detector)
        pattern |= (highest >= THRESHOLD_HIGH) << (2 * detector + 1)
    return pattern


def _count_peaks(signal: NDArray[np.int64]) -> int:
    if signal.max() <= PEAK_THRESHOLD:
        return 0
    peaks, in_peak, turn = 0, False, 0
    for adc in signal.tolist():
        if in_peak:
            turn = max(turn, adc)
            if turn - adc > PEAK_THRESHOLD:
                in_peak, turn = False, max(adc, 0)
        else:
            turn = max(min(turn, adc), 0)
            if adc - turn > PEAK_THRESHOLD:
                peaks, in_peak, turn = peaks + 1, True, adc
    return peaks


def encode_trace(trace: NDArray[np.int64]) -> str:
    """Return a trace as stations upload it: base64 of zlib of '29,30,...,28'."""
    text = ','.join(map(str, trace.tolist()))
    return base64.b64encode(zlib.compress(text.encode('ascii'))).decode('ascii')


def singles(rng: np.random.Generator, detectors: int) -> dict[str, int]:
    """Return how often each detector's signal crossed its thresholds in a second.

    Channels of a slave the station does not have read -1.
    """
    values = {}
    for channel in range(4):
        high = low = -1
        if channel < detectors:
            high = int(rng.poisson(100))
            low = high + int(rng.poisson(245))  # what crosses the high crosses the low
        board = 'MAS' if channel < 2 else 'SLV'
        values[f'{board}_CH{channel % 2 + 1}_LOW'] = low
        values[f'{board}_CH{channel % 2 + 1}_HIGH'] = high
    return values


class Weather:
    """The weather above one station; a smooth function of time."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._phases = rng.uniform(0, 2 * math.pi, 8).tolist()

    def at(self, moment: datetime) -> dict[str, float]:
        """Return the weather at a moment, by upload code.

        Temperatures in degrees Celsius, humidity in %, barometer in hPa, wind
        in degrees and m/s, solar radiation in W/m2, rain in mm/h.
        """
        days = (moment - datetime(2000, 1, 1)) / timedelta(days=1)

        def swing(number: int, period: float) -> float:  # -1 to 1, period in days
            return math.sin(2 * math.pi * days / period + self._phases[number])

        season = math.sin(2 * math.pi * (days - 110) / 365.25)  # highest end of July
        afternoon = math.sin(2 * math.pi * (days - 0.375))  # highest at 15:00
        wet = swing(0, 3.1)
        outside = 10.5 + 7.5 * season + 4 * afternoon + 3 * swing(1, 4.3)
        outside = round(outside + 0.5 * swing(2, 0.11), 1)
        inside = round(20.5 + 1.5 * season + 0.8 * afternoon, 1)
        humidity = round(74 - 9 * afternoon + 15 * wet + swing(2, 0.11))
        wind_speed = round(max(0.0, 5 + 3 * swing(3, 2.3) + 2 * swing(4, 0.13)))
        wind_dir = round(225 + 80 * swing(5, 3.7) + 15 * swing(6, 0.09)) % 360
        solar_rad = round(1000 * _sun(days) * (0.65 - 0.35 * wet))
        return {
            'WTR_TEMP_INSIDE': inside,
            'WTR_TEMP_OUTSIDE': outside,
            'WTR_HUMIDITY_INSIDE': round(45 + 8 * wet),
            'WTR_HUMIDITY_OUTSIDE': humidity,
            'WTR_BAROMETER': round(1013 - 8 * wet + 5 * swing(7, 6.7), 1),
            'WTR_WIND_DIR': wind_dir,
            'WTR_WIND_SPEED': wind_speed,
            'WTR_SOLAR_RAD': solar_rad,
            'WTR_UV': solar_rad // 120,
            'WTR_ET': round(solar_rad * 4e-4, 2),
            'WTR_RAIN_RATE': round(max(0.0, wet - 0.8) * 25, 1),
            'WTR_HEAT_INDEX': round(heat_index(outside, humidity)),
            'WTR_DEW_POINT': round(dew_point(outside, humidity), 1),
            'WTR_WIND_CHILL': round(wind_chill(outside, wind_speed), 1),
        }


def _sun(days: float) -> float:
    """Return the sine of the sun's height above the station, 0 when it is below."""
    latitude = math.radians(LATITUDE)
    declination = math.radians(23.44) * math.sin(2 * math.pi * (days - 80) / 365.25)
    hour_angle = 2 * math.pi * (days - 0.5) + math.radians(LONGITUDE)
    sine = math.sin(latitude) * math.sin(declination)
    sine += math.cos(latitude) * math.cos(declination) * math.cos(hour_angle)
    return max(0.0, sine)


def dew_point(temperature: float, humidity: float) -> float:
    """Return the dew point in degrees Celsius.

    From degrees Celsius and % relative humidity, above 0.  Source: the Magnus
    formula with the constants of the WMO's guide to instruments (WMO-No. 8).
    """
    exponent = math.log(humidity / 100) + 17.62 * temperature / (243.12 + temperature)
    return 243.12 * exponent / (17.62 - exponent)


def wind_chill(temperature: float, wind_speed: float) -> float:
    """Return the wind chill in degrees Celsius.

    From degrees Celsius and m/s.  Above 10 degrees, or in less wind than 4.8
    km/h, where it is not defined, the temperature itself.  Source: the joint
    index of Environment Canada and the US National Weather Service, 2001.
    """
    speed = 3.6 * wind_speed  # km/h
    if temperature > 10 or speed < 4.8:
        return temperature
    power = speed**0.16
    return 13.12 + 0.6215 * temperature - 11.37 * power + 0.3965 * temperature * power


def heat_index(temperature: float, humidity: float) -> float:
    """Return the heat index in degrees Celsius.

    From degrees Celsius and % relative humidity.  Source: the US National
    Weather Service, SR 90-23: Rothfusz' regression from 80 degrees Fahrenheit
    on, Steadman's simple formula below; without its adjustments for very dry
    and very humid heat.
    """
    t, rh = 1.8 * temperature + 32, humidity  # the formulas take Fahrenheit
    simple = 0.5 * (t + 61 + 1.2 * (t - 68) + 0.094 * rh)
    index = (simple + t) / 2
    if index >= 80:
        index = -42.379 + 2.04901523 * t + 10.14333127 * rh - 0.22475541 * t * rh
        index += -6.83783e-3 * t**2 - 5.481717e-2 * rh**2
        index += 1.22874e-3 * t**2 * rh + 8.5282e-4 * t * rh**2
        index += -1.99e-6 * t**2 * rh**2
    return (index - 32) / 1.8


def configuration(detectors: int) -> dict[str, Any]:
    """Return the settings of a station with 2 or 4 detectors, by upload code.

    Those of a slave the station does not have are 0.
    """
    slave_version = 'Hardware: 211 FPGA: 19' if detectors > 2 else 'Hardware: 0 FPGA: 0'
    return {
        'CFG_GPS_LAT': LATITUDE,
        'CFG_GPS_LONG': LONGITUDE,
        'CFG_GPS_ALT': ALTITUDE,
        'CFG_MAS_VERSION': 'Hardware: 210 FPGA: 19',
        'CFG_SLV_VERSION': slave_version,
        'CFG_TRIGLOWSIG': TRIGGER_LOW[detectors],
        'CFG_TRIGHIGHSIG': TRIGGER_HIGH[detectors],
        'CFG_TRIGEXT': 0,
        'CFG_TRIGANDOR': TRIGGER_HIGH[detectors] > 0,
        'CFG_PRECTIME': 1.0,
        'CFG_CTIME': 1.5,
        'CFG_POSTCTIME': 3.5,
        'CFG_DETNUM': detectors,
        'CFG_PASSWORD': '',
        'CFG_SPAREBYTES': 3,
        'CFG_USEFILTER': False,
        'CFG_USEFILTTHRES': False,
        'CFG_REDUCE': True,
        'CFG_BUFFER': 'localhost',
        'CFG_STARTMODE': True,
        'CFG_DELAYSCREEN': 1.0,
        'CFG_DELAYCHECK': 10.0,
        'CFG_DELAYERROR': 60.0,
        **_board('CFG_MAS', present=True),
        **_board('CFG_SLV', present=detectors > 2),
    }


def _board(prefix: str, *, present: bool) -> dict[str, Any]:
    """Return the settings of one electronics board, which reads two detectors."""
    channels: dict[str, Any] = {
        'THRLOW': float(THRESHOLD_LOW),
        'THRHIGH': float(THRESHOLD_HIGH),
        'INTTIME': 255.0,
        'VOLT': 780.0,
        'CURR': 3.2,
        'GAINPOS': 132,
        'GAINNEG': 127,
        'OFFPOS': 121,
        'OFFNEG': 118,
        'ADCGAIN': 1.0,
        'ADCOFF': 0.0,
        'COMPGAIN': 1.0,
        'COMPOFF': 0.0,
    }
    board: dict[str, Any] = {
        'COMPTHRLOW': 88.0,
        'COMPTHRHIGH': 230.0,
        'MAXVOLT': 1500.0,
        'RESET': False,
        'COMMOFF': 17,
        'INTVOLTAGE': 150,
    }
    for channel in (1, 2):
        board |= {f'CH{channel}{code}': value for code, value in channels.items()}
    return {
        f'{prefix}_{code}': value if present else type(value)(0)
        for code, value in board.items()
    }
