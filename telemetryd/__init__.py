"""telemetryd: watches a Rancher management cluster and keeps its SCC telemetry Secret true."""

__version__ = "0.1.0"
