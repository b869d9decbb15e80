"""The few kinds of failure, each with one meaning."""


class UserError(ValueError):
    """What the user gave cannot be used: the message is one line that names what was asked, what was found, and where."""


class Unsupported(UserError):
    """The user's model asks for something that is not built yet."""


class NoReference(UserError):
    """The right result of a task cannot be computed here, so none of its candidates can be checked: fatal for this task, not for others."""


class IllegalCandidate(ValueError):
    """A sketch and a row that cannot be lowered: counted as a failed trial, never fatal."""


class InternalError(RuntimeError):
    """Our own mistake: the message carries what is needed to see it again."""
