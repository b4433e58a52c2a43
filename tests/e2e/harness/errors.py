"""The one exception of the harness: a sentence for a human, printed as is by the command line."""


class HarnessError(Exception):
    """Something the harness needs is missing or did not happen; the text says what and what to do."""


class MissingCapabilityError(HarnessError):
    """This machine cannot run the local cluster; the text names the one thing that is missing."""
