"""Requests to the API server: kubeconfig, login, TLS, client, objects."""
