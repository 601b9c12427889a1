"""The commands beside the plain run, by name: `depgraph-hsic NAME ...`. A new one is a module here and a name below."""

from depgraph_hsic_only.commands import compare, info
from depgraph_hsic_only.commands.command import Command

COMMANDS: dict[str, Command] = {command.name: command for command in (info.COMMAND, compare.COMMAND)}
