"""Programs of a register machine run step by step, every state written down; nothing wrong can be made good."""
