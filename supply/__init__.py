"""Where telemetryd's parts come from: the locks, the list of licences, the bill of materials.

Run by hand and by the Makefile; nothing of it is installed with telemetryd.
"""
