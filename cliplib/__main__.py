"""Run the command line: ``python -m cliplib``."""

import sys

from cliplib.cli import main

sys.exit(main(sys.argv[1:]))
