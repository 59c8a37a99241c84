"""Leader election and the SecretRequest controller."""
