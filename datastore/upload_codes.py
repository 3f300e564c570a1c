"""The archive's tables: event type -> table, upload code -> column.

The only place a column is named.  A station announces each event with the
upload code of its type (`CIC`) and each of its values with an upload code of
its own (`PH1`).  Here stands which table and column these go to, as which
dtype, what a row reads where the station sent nothing, and in which unit.

Sentinels: -1 means that the detector, or the blob, is absent; -999 that the
station could not determine the value.  Where the field's data descriptions
give no unit, none is given here.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

DETECTORS = 4  # columns with one value a detector hold four, present or not


@dataclass(frozen=True)
class Column:
    """One column of a table.

    `dtype` is a numpy name; `bool` is stored as an 8-bit bitfield.  `shape`
    is () or (4,), one value a detector.  `upload_code` is empty for columns
    that come from the event's header; a column of shape (4,) is sent as four
    codes, with the detector's number 1-4 appended.  A blob's column holds
    its index in the station's `blobs`, int32; `encoding` says how the blob
    itself is uploaded.
    """

    name: str
    dtype: str
    upload_code: str = ''
    default: float = 0
    unit: str = ''
    shape: tuple[int, ...] = ()
    encoding: str = ''

    @property
    def is_blob(self) -> bool:
        """Whether the values are byte strings kept in `blobs`."""
        return bool(self.encoding)

    @property
    def row_dtype(self) -> np.dtype[Any]:
        """The dtype of one element in a row; a bool is a byte, as on disk."""
        return np.dtype('u1' if self.dtype == 'bool' else self.dtype)


@dataclass(frozen=True)
class Field:
    """Where the value of one upload code goes: a column, or one element of it."""

    column: Column
    detector: int | None = None  # 0-based; None for a column of shape ()


@dataclass(frozen=True)
class Table:
    """One table of a station: all events of one type."""

    event_type: str
    name: str
    title: str
    columns: tuple[Column, ...]

    @cached_property
    def fields(self) -> dict[str, Field]:
        """Every upload code of this event type, and where its value goes."""
        fields = {}
        for column in self.columns:
            if column.shape:
                for detector in range(DETECTORS):
                    code = f'{column.upload_code}{detector + 1}'
                    fields[code] = Field(column, detector)
            elif column.upload_code:
                fields[column.upload_code] = Field(column)
        return fields

    @cached_property
    def has_nanoseconds(self) -> bool:
        """Whether rows are stamped to the nanosecond, not only to the second."""
        return any(column.name == 'nanoseconds' for column in self.columns)

    @cached_property
    def row_dtype(self) -> np.dtype[Any]:
        """The packed dtype of a row, of the same layout as on disk."""
        return np.dtype([(c.name, c.row_dtype, c.shape) for c in self.columns])

    @cached_property
    def blob_columns(self) -> tuple[str, ...]:
        """The columns that hold indices into `blobs`."""
        return tuple(column.name for column in self.columns if column.is_blob)

    @cached_property
    def empty_row(self) -> np.ndarray[Any, np.dtype[Any]]:
        """The row of an event that sent no values: every column's default, shape ()."""
        row = np.zeros((), dtype=self.row_dtype)
        for column in self.columns:
            row[column.name] = column.default
        return row


def _per_detector(name: str, dtype: str, upload_code: str, unit: str = '') -> Column:
    return Column(name, dtype, upload_code, default=-1, unit=unit, shape=(DETECTORS,))


def _traces(name: str, upload_code: str) -> Column:
    """Blobs sent as base64 of zlib-compressed text, stored still compressed."""
    return Column(
        name,
        'int32',
        upload_code,
        default=-1,
        shape=(DETECTORS,),
        encoding='base64',
    )


def _text(name: str, upload_code: str) -> Column:
    """A blob sent as text, stored as latin-1 bytes."""
    return Column(name, 'int32', upload_code, default=-1, encoding='latin-1')


# GPS time counted as if it were Unix time; stations do not count leap seconds.
_TIME = (
    Column('event_id', 'uint32'),  # 1-based number of the row in its table
    Column('timestamp', 'int64', unit='s'),
)
_TIME_WITH_NANOSECONDS = (
    *_TIME,
    Column('nanoseconds', 'uint32', unit='ns'),
    Column('ext_timestamp', 'uint64', unit='ns'),  # timestamp * 10^9 + nanoseconds
)

TABLES = (
    Table(
        'CIC',
        'events',
        'HiSPARC event data',
        (
            *_TIME_WITH_NANOSECONDS,
            Column('data_reduction', 'bool', 'RED'),
            Column('trigger_pattern', 'uint32', 'TRIGPATTERN'),
            _per_detector('baseline', 'int16', 'BL', unit='ADC counts'),
            _per_detector('std_dev', 'int16', 'STDDEV', unit='milli ADC counts'),
            _per_detector('n_peaks', 'int16', 'NP'),
            _per_detector('pulseheights', 'int16', 'PH', unit='ADC counts'),
            _per_detector('integrals', 'int32', 'IN', unit='ADC counts x sample'),
            _traces('traces', 'TR'),
            Column('event_rate', 'float32', 'EVENTRATE', unit='Hz'),
        ),
    ),
    Table(
        'ERR',
        'errors',
        'HiSPARC error messages',
        (
            *_TIME,
            _text('messages', 'ERRMSG'),
        ),
    ),
    Table(
        'CFG',
        'config',
        'HiSPARC configuration messages',
        (
            *_TIME,
            Column('gps_latitude', 'float64', 'CFG_GPS_LAT', unit='degrees'),
            Column('gps_longitude', 'float64', 'CFG_GPS_LONG', unit='degrees'),
            Column('gps_altitude', 'float64', 'CFG_GPS_ALT', unit='m'),
            _text('mas_version', 'CFG_MAS_VERSION'),
            _text('slv_version', 'CFG_SLV_VERSION'),
            Column('trig_low_signals', 'uint32', 'CFG_TRIGLOWSIG'),
            Column('trig_high_signals', 'uint32', 'CFG_TRIGHIGHSIG'),
            Column('trig_external', 'uint32', 'CFG_TRIGEXT'),
            Column('trig_and_or', 'bool', 'CFG_TRIGANDOR'),
            Column('precoinctime', 'float64', 'CFG_PRECTIME'),
            Column('coinctime', 'float64', 'CFG_CTIME'),
            Column('postcoinctime', 'float64', 'CFG_POSTCTIME'),
            Column('detnum', 'uint16', 'CFG_DETNUM'),
            _text('password', 'CFG_PASSWORD'),
            Column('spare_bytes', 'uint8', 'CFG_SPAREBYTES'),
            Column('use_filter', 'bool', 'CFG_USEFILTER'),
            Column('use_filter_threshold', 'bool', 'CFG_USEFILTTHRES'),
            Column('reduce_data', 'bool', 'CFG_REDUCE'),
            _text('buffer', 'CFG_BUFFER'),
            Column('startmode', 'bool', 'CFG_STARTMODE'),
            Column('delay_screen', 'float64', 'CFG_DELAYSCREEN'),
            Column('delay_check', 'float64', 'CFG_DELAYCHECK'),
            Column('delay_error', 'float64', 'CFG_DELAYERROR'),
            Column('mas_ch1_thres_low', 'float64', 'CFG_MAS_CH1THRLOW'),
            Column('mas_ch1_thres_high', 'float64', 'CFG_MAS_CH1THRHIGH'),
            Column('mas_ch2_thres_low', 'float64', 'CFG_MAS_CH2THRLOW'),
            Column('mas_ch2_thres_high', 'float64', 'CFG_MAS_CH2THRHIGH'),
            Column('mas_ch1_inttime', 'float64', 'CFG_MAS_CH1INTTIME'),
            Column('mas_ch2_inttime', 'float64', 'CFG_MAS_CH2INTTIME'),
            Column('mas_ch1_voltage', 'float64', 'CFG_MAS_CH1VOLT'),
            Column('mas_ch2_voltage', 'float64', 'CFG_MAS_CH2VOLT'),
            Column('mas_ch1_current', 'float64', 'CFG_MAS_CH1CURR'),
            Column('mas_ch2_current', 'float64', 'CFG_MAS_CH2CURR'),
            Column('mas_comp_thres_low', 'float64', 'CFG_MAS_COMPTHRLOW'),
            Column('mas_comp_thres_high', 'float64', 'CFG_MAS_COMPTHRHIGH'),
            Column('mas_max_voltage', 'float64', 'CFG_MAS_MAXVOLT'),
            Column('mas_reset', 'bool', 'CFG_MAS_RESET'),
            Column('mas_ch1_gain_pos', 'uint8', 'CFG_MAS_CH1GAINPOS'),
            Column('mas_ch1_gain_neg', 'uint8', 'CFG_MAS_CH1GAINNEG'),
            Column('mas_ch2_gain_pos', 'uint8', 'CFG_MAS_CH2GAINPOS'),
            Column('mas_ch2_gain_neg', 'uint8', 'CFG_MAS_CH2GAINNEG'),
            Column('mas_ch1_offset_pos', 'uint8', 'CFG_MAS_CH1OFFPOS'),
            Column('mas_ch1_offset_neg', 'uint8', 'CFG_MAS_CH1OFFNEG'),
            Column('mas_ch2_offset_pos', 'uint8', 'CFG_MAS_CH2OFFPOS'),
            Column('mas_ch2_offset_neg', 'uint8', 'CFG_MAS_CH2OFFNEG'),
            Column('mas_common_offset', 'uint8', 'CFG_MAS_COMMOFF'),
            Column('mas_internal_voltage', 'uint8', 'CFG_MAS_INTVOLTAGE'),
            Column('mas_ch1_adc_gain', 'float64', 'CFG_MAS_CH1ADCGAIN'),
            Column('mas_ch1_adc_offset', 'float64', 'CFG_MAS_CH1ADCOFF'),
            Column('mas_ch2_adc_gain', 'float64', 'CFG_MAS_CH2ADCGAIN'),
            Column('mas_ch2_adc_offset', 'float64', 'CFG_MAS_CH2ADCOFF'),
            Column('mas_ch1_comp_gain', 'float64', 'CFG_MAS_CH1COMPGAIN'),
            Column('mas_ch1_comp_offset', 'float64', 'CFG_MAS_CH1COMPOFF'),
            Column('mas_ch2_comp_gain', 'float64', 'CFG_MAS_CH2COMPGAIN'),
            Column('mas_ch2_comp_offset', 'float64', 'CFG_MAS_CH2COMPOFF'),
            Column('slv_ch1_thres_low', 'float64', 'CFG_SLV_CH1THRLOW'),
            Column('slv_ch1_thres_high', 'float64', 'CFG_SLV_CH1THRHIGH'),
            Column('slv_ch2_thres_low', 'float64', 'CFG_SLV_CH2THRLOW'),
            Column('slv_ch2_thres_high', 'float64', 'CFG_SLV_CH2THRHIGH'),
            Column('slv_ch1_inttime', 'float64', 'CFG_SLV_CH1INTTIME'),
            Column('slv_ch2_inttime', 'float64', 'CFG_SLV_CH2INTTIME'),
            Column('slv_ch1_voltage', 'float64', 'CFG_SLV_CH1VOLT'),
            Column('slv_ch2_voltage', 'float64', 'CFG_SLV_CH2VOLT'),
            Column('slv_ch1_current', 'float64', 'CFG_SLV_CH1CURR'),
            Column('slv_ch2_current', 'float64', 'CFG_SLV_CH2CURR'),
            Column('slv_comp_thres_low', 'float64', 'CFG_SLV_COMPTHRLOW'),
            Column('slv_comp_thres_high', 'float64', 'CFG_SLV_COMPTHRHIGH'),
            Column('slv_max_voltage', 'float64', 'CFG_SLV_MAXVOLT'),
            Column('slv_reset', 'bool', 'CFG_SLV_RESET'),
            Column('slv_ch1_gain_pos', 'uint8', 'CFG_SLV_CH1GAINPOS'),
            Column('slv_ch1_gain_neg', 'uint8', 'CFG_SLV_CH1GAINNEG'),
            Column('slv_ch2_gain_pos', 'uint8', 'CFG_SLV_CH2GAINPOS'),
            Column('slv_ch2_gain_neg', 'uint8', 'CFG_SLV_CH2GAINNEG'),
            Column('slv_ch1_offset_pos', 'uint8', 'CFG_SLV_CH1OFFPOS'),
            Column('slv_ch1_offset_neg', 'uint8', 'CFG_SLV_CH1OFFNEG'),
            Column('slv_ch2_offset_pos', 'uint8', 'CFG_SLV_CH2OFFPOS'),
            Column('slv_ch2_offset_neg', 'uint8', 'CFG_SLV_CH2OFFNEG'),
            Column('slv_common_offset', 'uint8', 'CFG_SLV_COMMOFF'),
            Column('slv_internal_voltage', 'uint8', 'CFG_SLV_INTVOLTAGE'),
            Column('slv_ch1_adc_gain', 'float64', 'CFG_SLV_CH1ADCGAIN'),
            Column('slv_ch1_adc_offset', 'float64', 'CFG_SLV_CH1ADCOFF'),
            Column('slv_ch2_adc_gain', 'float64', 'CFG_SLV_CH2ADCGAIN'),
            Column('slv_ch2_adc_offset', 'float64', 'CFG_SLV_CH2ADCOFF'),
            Column('slv_ch1_comp_gain', 'float64', 'CFG_SLV_CH1COMPGAIN'),
            Column('slv_ch1_comp_offset', 'float64', 'CFG_SLV_CH1COMPOFF'),
            Column('slv_ch2_comp_gain', 'float64', 'CFG_SLV_CH2COMPGAIN'),
            Column('slv_ch2_comp_offset', 'float64', 'CFG_SLV_CH2COMPOFF'),
        ),
    ),
    Table(
        'CMP',
        'comparator',
        'HiSPARC comparator messages',
        (
            *_TIME_WITH_NANOSECONDS,
            Column('device', 'uint8', 'CMP_DEVICE'),
            Column('comparator', 'uint8', 'CMP_COMPARATOR'),
            Column('count', 'uint16', 'CMP_COUNT'),
        ),
    ),
    Table(
        'SIN',
        'singles',
        'HiSPARC single messages',
        (
            *_TIME,
            Column('mas_ch1_low', 'int32', 'MAS_CH1_LOW', default=-1),
            Column('mas_ch1_high', 'int32', 'MAS_CH1_HIGH', default=-1),
            Column('mas_ch2_low', 'int32', 'MAS_CH2_LOW', default=-1),
            Column('mas_ch2_high', 'int32', 'MAS_CH2_HIGH', default=-1),
            Column('slv_ch1_low', 'int32', 'SLV_CH1_LOW', default=-1),
            Column('slv_ch1_high', 'int32', 'SLV_CH1_HIGH', default=-1),
            Column('slv_ch2_low', 'int32', 'SLV_CH2_LOW', default=-1),
            Column('slv_ch2_high', 'int32', 'SLV_CH2_HIGH', default=-1),
        ),
    ),
    Table(
        'SAT',
        'satellites',
        'HiSPARC satellite messages',
        (
            *_TIME,
            Column('min_n', 'uint16', 'MIN_N'),
            Column('mean_n', 'float32', 'MEAN_N'),
            Column('max_n', 'uint16', 'MAX_N'),
            Column('min_signal', 'uint16', 'MIN_SIGNAL'),
            Column('mean_signal', 'float32', 'MEAN_SIGNAL'),
            Column('max_signal', 'uint16', 'MAX_SIGNAL'),
        ),
    ),
    Table(
        'WTR',
        'weather',
        'HiSPARC weather data',
        (
            *_TIME,
            Column('temp_inside', 'float32', 'WTR_TEMP_INSIDE', unit='degrees Celsius'),
            Column(
                'temp_outside', 'float32', 'WTR_TEMP_OUTSIDE', unit='degrees Celsius'
            ),
            Column('humidity_inside', 'int16', 'WTR_HUMIDITY_INSIDE', unit='%'),
            Column('humidity_outside', 'int16', 'WTR_HUMIDITY_OUTSIDE', unit='%'),
            Column('barometer', 'float32', 'WTR_BAROMETER', unit='hPa'),
            Column('wind_dir', 'int16', 'WTR_WIND_DIR', unit='degrees'),
            Column('wind_speed', 'int16', 'WTR_WIND_SPEED', unit='m/s'),
            Column('solar_rad', 'int16', 'WTR_SOLAR_RAD', unit='W/m2'),
            Column('uv', 'int16', 'WTR_UV'),
            Column('evapotranspiration', 'float32', 'WTR_ET', unit='mm'),
            Column('rain_rate', 'float32', 'WTR_RAIN_RATE', unit='mm/h'),
            Column('heat_index', 'int16', 'WTR_HEAT_INDEX', unit='degrees Celsius'),
            Column('dew_point', 'float32', 'WTR_DEW_POINT', unit='degrees Celsius'),
            Column('wind_chill', 'float32', 'WTR_WIND_CHILL', unit='degrees Celsius'),
        ),
    ),
    Table(
        'WER',
        'weather_errors',
        'HiSPARC weather error messages',
        (
            *_TIME,
            _text('messages', 'WER_ERRMSG'),
        ),
    ),
    Table(
        'WCG',
        'weather_config',
        'HiSPARC weather configuration messages',
        (
            *_TIME,
            Column('com_port', 'uint8', 'WCG_COM_PORT'),
            Column('baud_rate', 'int16', 'WCG_BAUD_RATE'),
            Column('station_id', 'uint32', 'WCG_STATION_ID'),
            _text('database_name', 'WCG_DATABASE_NAME'),
            _text('help_url', 'WCG_HELP_URL'),
            Column('daq_mode', 'bool', 'WCG_DAQ_MODE'),
            Column('latitude', 'float64', 'WCG_LATITUDE', unit='degrees'),
            Column('longitude', 'float64', 'WCG_LONGITUDE', unit='degrees'),
            Column('altitude', 'float64', 'WCG_ALTITUDE', unit='m'),
            Column('temperature_inside', 'bool', 'WCG_TEMPERATURE_INSIDE'),
            Column('temperature_outside', 'bool', 'WCG_TEMPERATURE_OUTSIDE'),
            Column('humidity_inside', 'bool', 'WCG_HUMIDITY_INSIDE'),
            Column('humidity_outside', 'bool', 'WCG_HUMIDITY_OUTSIDE'),
            Column('barometer', 'bool', 'WCG_BAROMETER'),
            Column('wind_direction', 'bool', 'WCG_WIND_DIRECTION'),
            Column('wind_speed', 'bool', 'WCG_WIND_SPEED'),
            Column('solar_radiation', 'bool', 'WCG_SOLAR_RADIATION'),
            Column('uv_index', 'bool', 'WCG_UV_INDEX'),
            Column('evapotranspiration', 'bool', 'WCG_EVAPOTRANSPIRATION'),
            Column('rain_rate', 'bool', 'WCG_RAIN_RATE'),
            Column('heat_index', 'bool', 'WCG_HEAT_INDEX'),
            Column('dew_point', 'bool', 'WCG_DEW_POINT'),
            Column('wind_chill', 'bool', 'WCG_WIND_CHILL'),
            Column(
                'offset_inside_temperature', 'float32', 'WCG_OFFSET_INSIDE_TEMPERATURE'
            ),
            Column(
                'offset_outside_temperature',
                'float32',
                'WCG_OFFSET_OUTSIDE_TEMPERATURE',
            ),
            Column('offset_inside_humidity', 'int16', 'WCG_OFFSET_INSIDE_HUMIDITY'),
            Column('offset_outside_humidity', 'int16', 'WCG_OFFSET_OUTSIDE_HUMIDITY'),
            Column('offset_wind_direction', 'int16', 'WCG_OFFSET_WIND_DIRECTION'),
            Column('offset_station_altitude', 'float32', 'WCG_OFFSET_STATION_ALTITUDE'),
            Column('offset_bar_sea_level', 'float32', 'WCG_OFFSET_BAR_SEA_LEVEL'),
        ),
    ),
    Table(
        'LIT',
        'lightning',
        'HiSPARC lightning data',
        (
            *_TIME,
            Column('corr_distance', 'int16', 'LIT_CORR_DIST'),
            Column('uncorr_distance', 'int16', 'LIT_UNCORR_DIST'),
            Column('uncorr_angle', 'float32', 'LIT_UNCORR_ANGLE'),
            Column('corr_angle', 'float32', 'LIT_CORR_ANGLE'),
        ),
    ),
    Table(
        'LER',
        'lightning_errors',
        'HiSPARC lightning error messages',
        (
            *_TIME,
            _text('messages', 'LER_ERRMSG'),
        ),
    ),
    Table(
        'LCG',
        'lightning_config',
        'HiSPARC lightning configuration messages',
        (
            *_TIME,
            Column('com_port', 'uint8', 'LCG_COM_PORT'),
            Column('baud_rate', 'int16', 'LCG_BAUD_RATE'),
            Column('station_id', 'uint32', 'LCG_STATION_ID'),
            _text('database_name', 'LCG_DATABASE_NAME'),
            _text('help_url', 'LCG_HELP_URL'),
            Column('daq_mode', 'bool', 'LCG_DAQ_MODE'),
            Column('latitude', 'float64', 'LCG_LATITUDE', unit='degrees'),
            Column('longitude', 'float64', 'LCG_LONGITUDE', unit='degrees'),
            Column('altitude', 'float64', 'LCG_ALTITUDE', unit='m'),
            Column('squelch_setting', 'int32', 'LCG_SQUELCH_SETTING'),
            Column('close_alarm_distance', 'int32', 'LCG_CLOSE_ALARM_DISTANCE'),
            Column('severe_alarm_distance', 'int32', 'LCG_SEVERE_ALARM_DISTANCE'),
            Column('noise_beep', 'bool', 'LCG_NOISE_BEEP'),
            Column('minimum_gps_speed', 'int32', 'LCG_MINIMUM_GPS_SPEED'),
            Column('angle_correction', 'float32', 'LCG_ANGLE_CORRECTION'),
        ),
    ),
    Table(
        'LST',
        'lightning_status',
        'HiSPARC lightning status messages',
        (
            *_TIME,
            Column('close_rate', 'int16', 'LST_CLOSE_RATE'),
            Column('total_rate', 'int16', 'LST_TOTAL_RATE'),
            Column('close_alarm', 'bool', 'LST_CLOSE_ALARM'),
            Column('severe_alarm', 'bool', 'LST_SEVERE_ALARM'),
            Column('current_heading', 'float32', 'LST_CURR_HEADING'),
        ),
    ),
    Table(
        'LNS',
        'lightning_noise',
        'HiSPARC lightning noise messages',
        (*_TIME,),
    ),
)

EVENT_TYPES = {table.event_type: table for table in TABLES}
