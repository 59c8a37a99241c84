"""Tests of ``telemetryd.control``."""
