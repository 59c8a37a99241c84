"""Tests of telemetryd.export.sinks."""
