"""Tests of the demo: the embedded API server and the fleet it serves."""
