"""Files that a trained model carries, to be served without this package; they are copied, not imported."""
