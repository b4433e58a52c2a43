"""What the integration tests of all folders share, since they cannot import from each other: waiting, ports, a server that comes back.

Knows nothing of the parts under test but their clients' errors. The end-to-end stories wait by `harness.wait`, which names events.
"""
