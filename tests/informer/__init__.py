"""Tests of telemetryd.informer."""
