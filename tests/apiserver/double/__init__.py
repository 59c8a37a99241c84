"""An API server in memory, for tests that need many of them, its faults, or a virtual clock.

It is a verified fake: the contract tests that it passes are the ones that a real kube-apiserver
passes, and where the two differ this one is wrong. It serves a fixed table of resources.
"""
