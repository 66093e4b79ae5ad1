"""Let `python -m mlxk2` do what the console script does."""

import sys

from mlxk2.cli import main

if __name__ == "__main__":
    sys.exit(main())
