"""Pure builders: typed values in, complete Kubernetes objects out. No API call, no clock, no random value.

What an operand looks like is decided here and nowhere else; the Helm chart never renders one.
"""
