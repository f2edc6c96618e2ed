"""What is wanted: the model of a configuration, and how it is parsed and watched."""

from openmcp.config.load import Loaded, load
from openmcp.config.problems import ConfigurationError, Problem

__all__ = ["ConfigurationError", "Loaded", "Problem", "load"]
