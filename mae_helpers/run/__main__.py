"""`python -m mae_helpers.run`: what `make book` starts."""

import sys

from mae_helpers.run.command import main

sys.exit(main())
