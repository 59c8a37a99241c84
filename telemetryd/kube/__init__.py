"""The API server's side: connection, list and watch, and the caches that informers keep."""
