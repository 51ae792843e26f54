"""Metrics, records and plots that training, reports and Evaluate Model share."""
