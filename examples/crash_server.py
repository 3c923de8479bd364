"""The process that `crashes.py` kills: a system whose clients append pages, and that tells what is durable.

    python examples/crash_server.py DIRECTORY SEED

It writes lines of JSON.  The first says how opening the directory went, and what is in its page file; each other line
is one append that pfs has acknowledged: where it begins, and its pages.  It ends when its input does.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time

import pfs

CLIENTS = 8
PAGE_SIZE = 4096
MOST_PAGES = 5
"""Of one append."""


def page_of(text: str) -> bytes:
    """A page that holds a text."""
    return text.encode().ljust(PAGE_SIZE)


def text_of(page: bytes) -> str:
    """The text that a page holds."""
    return page.rstrip().decode()


def tell(what: object) -> None:
    """Write a line in one piece, so that a kill leaves no half of it between two others."""
    os.write(sys.stdout.fileno(), f"{json.dumps(what)}\n".encode())


def append_for_ever(file: pfs.PageFile, client: int, seed: str) -> None:
    """A client: it appends a few pages, waits until they are durable, says so, and goes on."""
    chance = random.Random(seed)
    number = 0
    while True:
        number += 1
        n = chance.randint(1, MOST_PAGES)
        texts = [f"seed {seed}, client {client}, append {number}, page {index} of {n}" for index in range(1, n + 1)]
        pgid = file.append([page_of(text) for text in texts])
        tell({"pgid": pgid, "texts": texts})


def serve(directory: str, seed: str) -> None:
    """Open the directory, start the clients, and go on until the input ends."""
    begin = time.perf_counter()
    system = pfs.System(directory)  # whatever the last process left behind is recovered here
    file = system.open("log", page_size=PAGE_SIZE)
    seconds = time.perf_counter() - begin
    tell({"seconds": seconds, "texts": [text_of(page) for page in file.stream()]})
    for client in range(CLIENTS):
        threading.Thread(target=append_for_ever, args=(file, client, seed), daemon=True).start()
    sys.stdin.read()
    os._exit(0)  # no orderly stop: it would have to wait for clients that never end


if __name__ == "__main__":
    serve(*sys.argv[1:])
