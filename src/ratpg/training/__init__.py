"""The one training loop, and all it writes and reads."""
