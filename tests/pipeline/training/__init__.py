"""Tests of the training from whole lives."""
