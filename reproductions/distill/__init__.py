"""A distillation on the user's own models and data, from one config file."""
