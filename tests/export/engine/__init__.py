"""Tests of telemetryd.export.engine."""
