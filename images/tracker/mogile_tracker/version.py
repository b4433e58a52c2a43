"""The version of this distribution."""

from importlib import metadata

VERSION = metadata.version("mogile")
