"""Log lines and progress on a terminal."""
