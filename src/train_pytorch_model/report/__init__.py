"""The report of a finished training run: an HTML page, and its figures and tables as separate files."""
