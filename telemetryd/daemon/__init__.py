"""The composition root: wiring, signals, the life of the process. No rules of its own."""
