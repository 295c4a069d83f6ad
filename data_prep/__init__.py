"""Holds the verbs that are run once per data set: pack, unpack, index, inspect, synthesize."""
