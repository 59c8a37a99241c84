"""Tests of telemetryd.export.outbox."""
