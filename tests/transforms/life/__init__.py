"""Tests of the remaining life from the fade."""
