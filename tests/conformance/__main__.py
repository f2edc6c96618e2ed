"""The official conformance suite directly and by every way through the sidecar, with one direct run of each revision.

    python -m tests.conformance                 the options are those of tests.conformance.run

Exit code: as there; where something is worse that stdio and translation cannot give, their modules name it.
"""

import sys

from tests.conformance import http2, stdio, translation
from tests.conformance.run import main

sys.exit(main(ways=(http2.by_http2, stdio.over_stdio, translation.translated)))
