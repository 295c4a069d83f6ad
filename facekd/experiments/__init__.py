"""Runs many facekd commands as one experiment: the quickstart, the SH-KD pipeline, studies."""
