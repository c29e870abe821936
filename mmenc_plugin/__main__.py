"""`python -m mmenc_plugin`: the command mmenc, for launchers of several processes such as torchrun."""

import sys

from mmenc_plugin.cli import main

sys.exit(main())
