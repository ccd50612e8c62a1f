"""Errors that a user can correct: the command prints their messages, without a traceback."""


class UserError(Exception):
    """An error whose message says what was expected, what came, and how to correct it."""


class ConfigError(UserError, ValueError):
    """A config field is unknown or has an impossible value."""


class DataError(UserError):
    """A data set is unknown, missing or damaged."""


class CheckpointError(UserError):
    """A checkpoint is missing or damaged, or belongs to another network."""


class CompilerError(UserError):
    """There is no C compiler that works."""


class DivergedError(UserError):
    """The loss or a parameter is no longer finite."""


class ExportError(UserError):
    """A network has no integer form, or a file that was written from it computes something else."""


class MissingPackageError(UserError, ImportError):
    """A package that is needed is not installed."""


class PackedError(UserError):
    """A packed file is missing or damaged, has a newer version, or is another kind of file."""


def shown(value: object) -> str:
    """Returns a value as a message shows it, at most 100 characters long."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integers of more than 4,300 digits
        return "(a very long number)"
    return text if len(text) <= 100 else f"{text[:97]}..."
