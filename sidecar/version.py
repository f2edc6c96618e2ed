"""Which version this is. A constant, since asking the installed package for it takes 2 MiB in each sidecar."""

from typing import Final

VERSION: Final = "0.1.0"
