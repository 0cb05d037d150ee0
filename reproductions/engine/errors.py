"""The one error type of the reproduction rooms: bad input or a broken state, said in one line."""


class KDError(ValueError):
    """Something the user can mend: str() says what is wrong, where, and the nearest valid name."""
