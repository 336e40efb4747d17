"""Tests of transforms/prediction."""
