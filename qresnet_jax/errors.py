"""Mistakes and mishaps that a person can mend: `main.py` prints their message, without a traceback."""


class UserError(Exception):
    """The message says what was expected, what came, and how to mend it."""


class ConfigError(UserError, ValueError):
    """A config field is unknown or has an impossible value."""


class DataError(UserError):
    """A data set is unknown, missing or damaged."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or of another network."""


class CompilerError(UserError):
    """There is no C compiler, or none that works."""


class DivergedError(UserError):
    """The loss is no longer finite."""


class ExportError(UserError):
    """A network has no integer form, or none that is true to it."""


class PackedError(UserError):
    """A packed file is missing, damaged, of a newer version, or something else."""
