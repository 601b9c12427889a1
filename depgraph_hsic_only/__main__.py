"""`python -m depgraph_hsic_only`."""

import sys

from depgraph_hsic_only.cli import main

if __name__ == "__main__":
    sys.exit(main())
