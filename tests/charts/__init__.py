"""The Helm chart, by real Helm 3 and Helm 4, on a real API server."""
