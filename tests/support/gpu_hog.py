"""`python -m tests.support.gpu_hog cuda:0`: take all memory of a GPU until standard input ends.

It says `full` once nothing is left, and takes what others give back, too.
"""

import sys
import threading
import time

import torch

_LARGEST, _SMALLEST = 2**36, 2**21
_PAUSE_SECONDS = 0.05


def main() -> None:
    device, ended = sys.argv[1], threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    kept: list[torch.Tensor] = []
    said = False
    while not ended.is_set():
        size = _LARGEST
        while size >= _SMALLEST:
            try:
                kept.append(torch.empty(size, dtype=torch.uint8, device=device))
            except torch.OutOfMemoryError:
                size //= 2
        if not said:
            print("full", flush=True)  # noqa: T201 - for whoever started it
            said = True
        time.sleep(_PAUSE_SECONDS)


if __name__ == "__main__":
    main()
