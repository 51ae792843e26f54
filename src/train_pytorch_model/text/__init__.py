"""Formatting of messages, masking of secrets, and CSV files."""
