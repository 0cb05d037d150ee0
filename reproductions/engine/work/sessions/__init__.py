"""Many runs: processes that work side by side, what they report, and sweeps of learning rates."""
