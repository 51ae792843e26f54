"""Checks everything that a training run needs, and writes nothing."""
