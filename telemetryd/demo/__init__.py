"""An embedded Kubernetes API server and a Rancher-like fleet to try telemetryd against.

The server is a verified fake: the contract tests that it passes are the ones that a real
kube-apiserver passes, and where the two differ this one is wrong. It serves a fixed table of
resources, keeps everything in memory, and is not meant to hold anything that matters.
"""
