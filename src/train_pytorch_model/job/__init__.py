"""One training, from its settings to the written model."""
