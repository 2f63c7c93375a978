"""`python -m glass`: the same as the `glass` command."""

import sys

from glass.cli import main

if __name__ == "__main__":
    sys.exit(main())
