"""Objects of the API server kept as caches: list, watch, decode, store."""
