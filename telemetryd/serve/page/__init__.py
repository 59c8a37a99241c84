"""The status page and /status.json."""
