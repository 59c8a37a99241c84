"""Looks at everything the daemon will need, and says what is missing and how to fix it."""
