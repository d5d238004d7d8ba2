"""Benchmarks: each prints figures and ratios beside a peer measured in the same run. None is a test, none gates on an
absolute time.
"""
