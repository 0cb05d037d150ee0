"""The error types of the method library: bad input, said in one line."""


class MethodError(ValueError):
    """A model, tokenizer, batch or setting that a method cannot work with; str() is a complete sentence."""


class Broken(MethodError):
    """What a training left of a model is of no use for what comes next; a lower learning rate may leave more."""


class NotYet(MethodError):
    """What a component works on is not there: no row is left, no score known. With more answers it may be."""
