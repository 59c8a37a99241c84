"""What one version leaves behind, and what another makes of it."""
