"""Unsafe2Safe: turns an unsafe image data set into a safe one that is still worth training on."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("unsafe2safe")
except PackageNotFoundError:  # run from a tree that was never installed
    __version__ = "0.0.0"
