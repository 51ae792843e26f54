"""The three typed ports in and the one out: what lies on disk, read and written."""
