"""Tests of telemetryd.serve.metrics."""
