"""The one error that is meant for the person at the keyboard."""


class InputError(ValueError):
    """Bad input: one clear sentence that says which file or setting, what rule it breaks, and what to do.

    The command line prints it without a stack trace and exits with code 2. Nothing that was written before it is lost.
    """


def one_line(error: BaseException, limit: int = 300) -> str:
    """What somebody else's error says, as a part of a sentence: its first line, cut if it is long."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    text = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return text if len(text) <= limit else text[:limit] + "…"
