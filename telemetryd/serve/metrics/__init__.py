"""The exposition of /metrics."""
