"""Tests of telemetryd.serve.http."""
