"""Walk through a maze that is known by heart: from a cell to a goal, one token a step or two."""
