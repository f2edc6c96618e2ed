"""Asking for approval, waiting for it, using it."""
