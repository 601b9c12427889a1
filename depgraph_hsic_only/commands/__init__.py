"""Subcommands of the command line: a module each."""
