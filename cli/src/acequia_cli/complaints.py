"""What a person is told in one line when a command can not do what it was asked to, with the exit code that follows."""

DONE = 0
FAILED = 1
WRONG_USE = 2


class Complaint(Exception):
    """Base: the command ends with `exit_code`, and its message is the line that a person reads."""

    exit_code = FAILED


class CommandFailed(Complaint):
    """Asked for rightly, and it did not come about."""


class NotThere(CommandFailed):
    """The server does not know what was named."""


class WrongUse(Complaint):
    """The person has to ask for something else: another file, dataset, folder or setting."""

    exit_code = WRONG_USE


class TooLarge(WrongUse):
    """The server takes no body of this size."""


class FileGone(CommandFailed):
    """A file that was listed can not be read any more, or may not be."""


class ServerAway(CommandFailed):
    """It does not answer now (no connection, a 503). Whoever waits may ask again."""
