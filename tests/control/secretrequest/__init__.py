"""Tests of the SecretRequest controller."""
