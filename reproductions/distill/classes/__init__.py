"""`kd distill` with `task: classification`: a user's own classifier of texts, out of a larger one."""
