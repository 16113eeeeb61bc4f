"""Spec file: YAML to a checked spec, and back."""
