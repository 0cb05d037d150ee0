"""Encoders that classify texts or tag tokens, distilled by the terms that language models are distilled by."""
