"""What a gate can check, a registered class each; a testbed's `gate: checks:` names them with their settings."""
