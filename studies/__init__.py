"""Experiments of the papers, each one command, with results that are committed beside it."""
