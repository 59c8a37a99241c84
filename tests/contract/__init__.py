"""One suite for the embedded API server and for the real one: whatever it says holds for both."""
