"""What is decided about objects that others make, and written back to them.

No HTTP is served here, and nothing is wired: that is ``serve``'s and ``daemon``'s.
"""
