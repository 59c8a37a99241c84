"""Tests of telemetryd; they mirror the package."""
