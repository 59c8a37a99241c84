"""The HTTP server: sockets, TLS, access, paths."""
