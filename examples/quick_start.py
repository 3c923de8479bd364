"""The shortest whole program: a plain thread appends pages, changes one, and reads them back."""

import tempfile

import pfs

with tempfile.TemporaryDirectory() as directory, pfs.System(directory) as system:
    file = system.open("numbers")  # made if it does not exist, with pages of 8192 bytes
    first = file.append([str(number).encode().ljust(file.page_size) for number in range(100)])
    file.write(first + 7, [b"seven".ljust(file.page_size)])  # durable when it returns
    for page in file.read(first + 6, 3):
        print(page.rstrip().decode())
    print(sum(1 for _ in file.stream()), "pages of", file.page_size, "bytes")
