"""The command line: words in, exit codes out."""

from depgraph_hsic_only.cli.main import main

__all__ = ["main"]
