"""The benchmark: telemetryd as a whole daemon beside its peers, on one API server, in turns."""
