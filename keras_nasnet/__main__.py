"""Runs the command line: `python -m keras_nasnet`."""

import sys

from keras_nasnet.cli import main

sys.exit(main())
