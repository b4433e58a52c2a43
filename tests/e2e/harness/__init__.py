"""The local test cluster and what the end-to-end suite needs around it.

Duty: bring up, break, inspect and remove a real three-node Kubernetes on one Linux machine, build the images it
runs, and give the e2e stories readable verbs.  It is test equipment: nothing here is shipped, and nothing in the
product knows about it.

Two backends share one interface: the local one (network namespaces as machines, root needed) and a thin kind one.
"""
