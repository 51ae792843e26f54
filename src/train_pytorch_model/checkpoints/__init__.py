"""Checkpoints, from which an interrupted run resumes."""
