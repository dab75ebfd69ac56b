"""``python -m isod``."""

import sys

from isod.cli.main import main

sys.exit(main())
