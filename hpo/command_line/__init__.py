"""What a user asks of a study: the flags, read and checked."""

from hpo.command_line.options import Adapted, Options, parse
from hpo.command_line.settings import with_settings

__all__ = ["Adapted", "Options", "parse", "with_settings"]
