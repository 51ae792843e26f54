"""Wording of messages, masking of secrets, CSV cells."""
