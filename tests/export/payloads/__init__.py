"""Tests of telemetryd.export.payloads."""
