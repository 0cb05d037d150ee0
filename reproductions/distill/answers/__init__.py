"""Teachers whose answers are kept: asked once about a config's rows, read from a folder in the teacher's place."""
