__version__ = "0.1.0"

import logging as _logging

# bitsandbytes, which peft imports, warns of a kernel that only 4-bit weights on a CPU would use.
# In a notebook that is red text under the first cell.
_logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(_logging.ERROR)
