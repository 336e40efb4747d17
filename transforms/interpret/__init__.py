"""Decides what a test's columns mean by comparing what they say of the same thing."""
