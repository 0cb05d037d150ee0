"""A user's rows: read from any kind of file, put into a model's words, counted, held out."""
