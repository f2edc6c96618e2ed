"""What holds for all tests."""

from hypothesis import settings

# A time limit per example would make a busy machine look like a fault.
settings.register_profile("openmcp", deadline=None)
settings.load_profile("openmcp")
