"""Variants of the plain model: big experts, top-k routing, task vectors, parameter masks."""
