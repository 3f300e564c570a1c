"""`python -m writer`."""

import sys

from writer.writer_app import main

sys.exit(main())
