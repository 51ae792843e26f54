"""Looks at everything that a training would take, and writes nothing."""
