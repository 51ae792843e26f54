"""The typed ports: directories that modules read and write."""
