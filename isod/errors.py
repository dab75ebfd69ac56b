"""The one error that is meant for the person at the keyboard."""


class InputError(ValueError):
    """Bad input: one clear sentence that says which file or setting, what rule it breaks, and what to do.

    The command line prints it without a stack trace and exits with code 2. Nothing that was written before it is lost.
    """
