"""Tests of telemetryd.kube."""
