"""The endpoint as uWSGI loads it; DATASTORE_CONFIG names the configuration."""

import functools
import os
import sys

from datastore.config import ConfigError
from wsgi import wsgi_app

configfile = os.environ.get('DATASTORE_CONFIG', '/etc/datastore/config.ini')
try:
    # In the master, so that a mistake stops the start instead of refusing
    # uploads; each worker initialises itself again, with a log of its own.
    wsgi_app.do_init(configfile)
except ConfigError as error:
    sys.exit(f'datastore: {error}')

application = functools.partial(wsgi_app.application, configfile=configfile)
