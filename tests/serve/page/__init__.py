"""Tests of telemetryd.serve.page."""
