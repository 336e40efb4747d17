"""Tests of pipeline/prediction."""
