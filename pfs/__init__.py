"""pfs: a page file server built as an Erlang-style actor system on Pykka.

```python
import pfs

with pfs.System("data/") as system:
    file = system.open("triples")
    first = file.append([b"x" * file.page_size])
    page = file.read(first)[0]
```

Here are the public names.  The messages of the protocol are in `pfs.protocol`, the errors in `pfs.errors`, the actor
runtime in `pfs.actors`, named queues and element codecs in `pfs.streams`, tools for tests in `pfs.testing`.
"""

from pfs.actors import Actor, BlockingActor, Scheduler
from pfs.actors.requests import ServerOptions
from pfs.errors import PfsError, RequestError, SystemFailed, Timeout
from pfs.page_file import PageFile
from pfs.system import System, SystemOptions
from pfs.wal.shared_log import WalOptions

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "BlockingActor",
    "PageFile",
    "PfsError",
    "RequestError",
    "Scheduler",
    "ServerOptions",
    "System",
    "SystemFailed",
    "SystemOptions",
    "Timeout",
    "WalOptions",
    "__version__",
]
