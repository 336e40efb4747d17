"""What the Flex Template's launcher runs: the job's own command line."""

import sys

from pipeline.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
