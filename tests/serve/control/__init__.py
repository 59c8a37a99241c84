"""Tests of telemetryd.serve.control."""
