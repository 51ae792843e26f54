"""The training loop and its parts. Nothing here knows a port, a path or a rank."""
