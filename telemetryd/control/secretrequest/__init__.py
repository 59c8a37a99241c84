"""The SecretRequest controller: serves requests with exporters and writes their conditions.

``decision`` is pure; ``cluster`` reads namespaces and the System project; ``targetsecrets`` has the
exporters and cleans up Secrets; ``status`` writes statuses; ``controller`` is the loop.
"""
