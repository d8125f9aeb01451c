"""The command line says what a user asks of a study; its flags are read and checked here."""

from hpo.command_line.options import Adapted, Options, parse
from hpo.command_line.settings import with_settings

__all__ = ["Adapted", "Options", "parse", "with_settings"]
