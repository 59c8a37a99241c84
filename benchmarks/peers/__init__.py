"""The peers: each a program that lists what telemetryd watches, and holds it.

They run in an environment of their own and import nothing of the rest. Each speaks one protocol: a
JSON line on stdout with ``event`` ``ready`` once it is loaded, then, after a line on stdin,
``synced`` with the number of ``nodes`` it has seen. It ends when stdin does.
"""
