"""The training loop and its parts. No module in this package reads a port or writes a file.

Each process of a distributed run executes the same loop; its rank and the collective operations come from `World`.
"""
