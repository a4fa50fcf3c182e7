"""Run the command line: ``python -m cliplib``."""

from cliplib.cli import run

run()
