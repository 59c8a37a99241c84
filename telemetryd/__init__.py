"""telemetryd: watches a Rancher management cluster and updates its SCC telemetry Secret."""

__version__ = "0.1.0"
