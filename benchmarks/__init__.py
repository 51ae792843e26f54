"""How fast the module is, against what: `make bench` measures and writes RESULTS.md."""
