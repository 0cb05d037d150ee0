"""The one error type of the method library: bad input, said in one line."""


class MethodError(ValueError):
    """A model, tokenizer, batch or setting that a method cannot work with; str() is a complete sentence."""
