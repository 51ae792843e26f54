"""Log lines and live progress, on terminals, in notebooks and in files."""
