"""What telemetryd consists of and how it ships: locks, licences, bill of materials, releases.

Run by hand and by the Makefile; nothing of it is installed with telemetryd.
"""
