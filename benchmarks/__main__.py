"""Run the benchmarks: `python benchmarks` for all, `python benchmarks append read` for some.

Each topic is a module here with a `main()` that prints what it measured beside its reference, taken in the same run:
machines are shared and noisy, so only ratios last. Nothing here is asserted.
"""

import importlib
import sys
import time

# In the order in which a newcomer would ask.
TOPICS = (
    *("append", "size", "read", "projection", "visibility", "replay", "imports", "startup", "tls"),
    *("payloads", "signature", "sealing", "migrations"),
)


def main() -> None:
    """Run the topics that the arguments name, or all."""
    wanted = sys.argv[1:] or TOPICS
    unknown = [topic for topic in wanted if topic not in TOPICS]
    if unknown:
        raise SystemExit(f"no such topic: {', '.join(unknown)}; there are: {', '.join(TOPICS)}")
    for topic in wanted:
        print(f"\n== {topic} ==", flush=True)
        began = time.monotonic()
        importlib.import_module(topic).main()
        print(f"({topic}: {time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
