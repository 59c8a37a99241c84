"""The outbox: the pending payload of each exporter, in memory and on disk."""
