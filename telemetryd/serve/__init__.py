"""What the world may look at: metrics, status and health over HTTP; no state of its own."""
