"""Checkpoints: what an interrupted run goes on from."""
