"""Metrics, records and plots, shared by training, the report and Evaluate Model."""
